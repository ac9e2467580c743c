package signature

import (
	"bytes"
	"crypto/ed25519"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func newKey(t testing.TB) SecretKey {
	t.Helper()
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func signed(t testing.TB, key SecretKey, manifest string, index int64, rotations []byte) []byte {
	t.Helper()
	text, err := Sign(key, []byte(manifest), Statement{Name: "sql", Arch: "amd64", Version: "1.2", Index: index}, rotations)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func rotated(t testing.TB, from, to SecretKey, index int64, before []byte) []byte {
	t.Helper()
	text, err := Rotate(from, to.Public(), index, before)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func offer(key SecretKey, manifest string, text []byte) Offer {
	return Offer{Name: "sql", Arch: "amd64", Manifest: []byte(manifest), Key: key.Public(), Signature: text}
}

// refused checks the class of an error and its words.
func refused(t *testing.T, what string, err error, words string) {
	t.Helper()
	if fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), words) {
		t.Errorf("%s: %v; want %q", what, err, words)
	}
}

func TestSignAndVerify(t *testing.T) {
	a, b, c := newKey(t), newKey(t), newKey(t)
	chain := rotated(t, b, c, 9, rotated(t, a, b, 5, nil))
	text, err := Sign(c, []byte("manifest"), Statement{Name: "sql", Arch: "arm64", Version: "2.0+1", Index: 9,
		Files: []File{{"provenance.json", digestOf(nil)}, {"sbom.spdx.json", digestOf([]byte("x"))}}}, chain)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Verify(text, []byte("manifest"))
	if err != nil {
		t.Fatal(err)
	}
	if s.Index != 9 || s.Key != c.Public() || len(s.Rotations) != 2 || s.File("sbom.spdx.json") != digestOf([]byte("x")) || s.File("other") != "" {
		t.Errorf("%+v", s)
	}
}

// A signature is what the program minisign takes, without this one.
func TestMinisignReadsIt(t *testing.T) {
	program, err := exec.LookPath("minisign")
	if err != nil {
		t.Skip("minisign is not installed")
	}
	a, b := newKey(t), newKey(t)
	dir := t.TempDir()
	public, err := b.Public().File()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"manifest.json": []byte("manifest"), FileName: signed(t, b, "manifest", 5, rotated(t, a, b, 5, nil)), "key.pub": public} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.CommandContext(t.Context(), program, "-V", "-m", filepath.Join(dir, "manifest.json"), "-p", filepath.Join(dir, "key.pub")).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("index=5")) {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestForgeries(t *testing.T) {
	a, b := newKey(t), newKey(t)
	good := signed(t, a, "manifest", 5, nil)
	withChain := signed(t, b, "manifest", 5, rotated(t, a, b, 5, nil))
	lines := func(text []byte, change func([]string) []string) []byte {
		return []byte(strings.Join(change(strings.Split(string(text), "\n")), "\n"))
	}
	other := signed(t, b, "manifest", 7, nil)
	for _, tt := range []struct {
		name, manifest string
		text           []byte
		words          string
	}{
		{"another manifest", "manifesto", good, "it is of the manifest"},
		{"a changed index", "manifest", bytes.Replace(good, []byte("index=5"), []byte("index=6"), 1), "was not made by the key"},
		{"another key's name", "manifest", bytes.ReplaceAll(good, []byte(a.Public()), []byte(b.Public())), "was not made by the key"},
		{"comment of another", "manifest", lines(good, func(l []string) []string { l[2] = strings.Split(string(other), "\n")[2]; return l }), "was not made by the key"},
		{"signature of another", "manifest", lines(good, func(l []string) []string { l[1] = strings.Split(string(other), "\n")[1]; return l }), "was not made by the key"},
		{"cut in a line", "manifest", good[:len(good)-9], "cut off"},
		{"cut after a line", "manifest", lines(good, func(l []string) []string { return append(l[:3], "") }), "cut off"},
		{"nothing", "manifest", nil, "empty"},
		{"spaces", "manifest", bytes.Replace(good, []byte(" index"), []byte("  index"), 1), "statement"},
		{"leading zero", "manifest", bytes.Replace(good, []byte("index=5"), []byte("index=05"), 1), "not written as its values are"},
		{"too long", "manifest", bytes.Repeat(good, 100), "more than"},
		{"a rotation with another signature", "manifest", lines(withChain, func(l []string) []string { l[5] = l[1]; return l }), "not signed by"},
		// Whoever trusts b trusts a: that is b's to say.
		{"rotation that leads here", "manifest", append(slices.Clone(good), rotated(t, b, a, 5, nil)...), ""},
		{"rotation to somebody else", "manifest", append(slices.Clone(good), rotated(t, a, b, 5, nil)...), "the rotations lead to the key"},
		{"before the key's time", "manifest", lines(withChain, func(l []string) []string {
			return append(strings.Split(strings.TrimSuffix(string(signed(t, b, "manifest", 4, nil)), "\n"), "\n"), l[4:]...)
		}), "signs from index 5 on"},
	} {
		_, err := Verify(tt.text, []byte(tt.manifest))
		if tt.words == "" {
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
			continue
		}
		refused(t, tt.name, err, tt.words)
	}
}

func TestStatementsAreStrict(t *testing.T) {
	key := newKey(t).Public()
	good := Statement{Name: "sql", Arch: "amd64", Version: "1", Index: 1, Key: key, Manifest: digestOf(nil), Files: []File{{"a.json", digestOf(nil)}, {"b.json", digestOf(nil)}}}
	line := good.String()
	if back, err := ParseStatement(line); err != nil || back.String() != line {
		t.Fatalf("%v %v", back, err)
	}
	for change, words := range map[[2]string]string{
		{" b.json=", " a.json="}:                 "named twice",
		{" a.json=", " c.json="}:                 "not sorted",
		{" a.json=", " ../a.json="}:              "not a plain name",
		{"arch=amd64", "arch=mips"}:              "neither amd64 nor arm64",
		{"index=1", "index=0"}:                   "not from 1",
		{"index=1", "index=-1"}:                  "not from 1",
		{"version=1", "version=1/2"}:             "version",
		{"name=sql ", ""}:                        "stands where name has to",
		{"name=sql", "name"}:                     "is not name=value",
		{statementWord, rotationWord}:            "does not begin with",
		{"manifest=sha256:", "manifest=sha512:"}: "not sha256",
	} {
		if _, err := ParseStatement(strings.Replace(line, change[0], change[1], 1)); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%q for %q: %v", change[1], change[0], err)
		}
	}
}

func TestTrust(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	a, b, stolen := newKey(t), newKey(t), newKey(t)
	var none *Trust
	if trust, _, err := none.Accept(Offer{Name: "sql", Arch: "amd64", Manifest: []byte("m")}, now); err != nil || trust != nil {
		t.Errorf("nobody has a key: %v, %v", trust, err)
	}
	_, _, err := none.Accept(offer(a, "m", nil), now)
	refused(t, "a key and no signature", err, "is not signed")
	_, _, err = none.Accept(offer(a, "m", signed(t, b, "m", 1, nil)), now)
	refused(t, "another key than the manifest's", err, "signed by the key "+string(b.Public()))

	first, s, err := none.Accept(offer(a, "m5", signed(t, a, "m5", 5, nil)), now)
	if err != nil || first.Key != a.Public() || first.Index != 5 || s.Version != "1.2" || first.Check() != nil {
		t.Fatalf("the first: %+v, %v", first, err)
	}
	_, _, err = first.Accept(Offer{Name: "sql", Arch: "amd64", Manifest: []byte("m")}, now)
	refused(t, "no signature", err, "is not signed")
	_, _, err = first.Accept(Offer{Name: "sql", Arch: "amd64", Manifest: []byte("m6"), Signature: signed(t, a, "m6", 6, nil)}, now)
	refused(t, "a manifest without the key", err, "names no key")
	_, _, err = first.Accept(offer(b, "m6", signed(t, b, "m6", 6, nil)), now)
	refused(t, "another's", err, "only what "+string(a.Public())+" signs")
	o := offer(a, "m6", signed(t, a, "m6", 6, nil))
	o.Name = "web"
	_, _, err = first.Accept(o, now)
	refused(t, "of another recipe", err, "is of sql")
	_, _, err = first.Accept(offer(a, "other5", signed(t, a, "other5", 5, nil)), now)
	refused(t, "an index twice", err, "used twice")

	old := offer(a, "m4", signed(t, a, "m4", 4, nil))
	_, _, err = first.Accept(old, now)
	refused(t, "an older one", err, "index 4 is older than 5")
	old.Rollback = true
	back, _, err := first.Accept(old, now)
	if err != nil || back.Index != 5 || len(back.Rollbacks) != 1 || back.Rollbacks[0].To != 4 || len(first.Rollbacks) != 0 {
		t.Errorf("a rollback that is allowed: %+v, %v", back, err)
	}

	// The key is rotated; whoever has stolen the old one rotates it too.
	second, _, err := first.Accept(offer(b, "m7", signed(t, b, "m7", 7, rotated(t, a, b, 7, nil))), now)
	if err != nil || second.Key != b.Public() || len(second.Ended) != 1 {
		t.Fatalf("rotated: %+v, %v", second, err)
	}
	_, _, err = second.Accept(offer(stolen, "m8", signed(t, stolen, "m8", 8, rotated(t, a, stolen, 8, nil))), now)
	refused(t, "rotated by a stolen key", err, "came after that key's end")
	_, _, err = second.Accept(offer(a, "m8", signed(t, a, "m8", 8, nil)), now)
	refused(t, "signed by a stolen key", err, "was ended with index 7")
	third, _, err := second.Accept(offer(b, "m8", signed(t, b, "m8", 8, rotated(t, a, b, 7, nil))), now)
	if err != nil || third.Index != 8 || len(third.Ended) != 1 {
		t.Errorf("the same rotation again: %+v, %v", third, err)
	}
}

func TestKeys(t *testing.T) {
	k := newKey(t)
	plain, err := k.File("")
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseSecretKey(plain, "")
	if err != nil || back.Public() != k.Public() || Encrypted(plain) {
		t.Fatalf("%v", err)
	}
	public, err := k.Public().File()
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range [][]byte{public, []byte(k.Public()), []byte(string(k.Public()) + "\n")} {
		if got, err := ParseKey(text); err != nil || got != k.Public() {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, text := range []string{"", "RW", string(k.Public()) + "\n" + string(k.Public()), string(plain), strings.Repeat("x", 5000)} {
		if _, err := ParseKey([]byte(text)); fault.ClassOf(err) != fault.Usage {
			t.Errorf("%.20q is a key: %v", text, err)
		}
	}
	// The two halves of the raw key belong together, and sign.
	raw, err := k.Ed25519()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := k.Public().Ed25519()
	if err != nil || !ed25519.Verify(pub, []byte("x"), ed25519.Sign(raw, []byte("x"))) {
		t.Errorf("raw keys: %v", err)
	}
	damaged := bytes.Clone(plain)
	damaged[len(damaged)-20] ^= 1
	if _, err := ParseSecretKey(damaged, ""); fault.ClassOf(err) != fault.Usage {
		t.Errorf("damaged: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	a, b := newKey(f), newKey(f)
	f.Add(signed(f, b, "m", 5, rotated(f, a, b, 5, nil)))
	f.Add([]byte("untrusted comment: \n\ntrusted comment: \n\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := Verify(text, []byte("m"))
		if err == nil && s.Statement.Check() != nil {
			t.Errorf("%+v passed", s)
		}
	})
}
