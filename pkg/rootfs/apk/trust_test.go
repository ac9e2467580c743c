package apk

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha1"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// The key of one repository does not sign another.
func TestKeysOfRepositories(t *testing.T) {
	ours, theirs := testKeys()[0], testKeys()[1]
	first, second := newRepo(t), newRepo(t)
	sample(first)
	sample(second)
	first.index(ours)
	second.index(theirs)
	only := func(r *repo, hashes ...crypto.Hash) func(string, crypto.Hash) bool {
		return func(repository string, h crypto.Hash) bool {
			return repository == r.dir && (len(hashes) == 0 || slices.Contains(hashes, h))
		}
	}
	bound := ours.Keyring().Counting(only(first))
	if err := bound.Add(theirs.Keyring().Counting(only(second))); err != nil {
		t.Fatal(err)
	}
	crossed := ours.Keyring().Counting(only(second))
	if err := crossed.Add(theirs.Keyring().Counting(only(first))); err != nil {
		t.Fatal(err)
	}
	strict := ours.Keyring().Counting(only(first, crypto.SHA512))
	for _, tt := range []struct {
		name string
		keys Keyring
		of   *repo
		want string
	}{
		{"its own key", bound, first, ""},
		{"its own key", bound, second, ""},
		{"another's key", crossed, first, "signed by ours.rsa.pub, trusted are theirs.rsa.pub"},
		{"another's key", crossed, second, "signed by theirs.rsa.pub, trusted are ours.rsa.pub"},
		{"of a tag", bound, first, ""},
		{"no key at all", strict, second, "trusted are none"},
		{"a hash that is too weak", strict, first, "the signature of key ours.rsa.pub over SHA-256 does not count here"},
	} {
		location := tt.of.dir
		if tt.name == "of a tag" {
			location = "@edge " + location
		}
		_, err := OpenRepository(t.Context(), location, "x86_64", tt.keys)
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.want != "" && (fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	// A package for itself is of no repository: bound keys do not count.
	path := first.path(first.metas[0])
	if _, err := ReadMeta(path, bound); fault.ClassOf(err) != fault.Verification {
		t.Errorf("a bound key for a package of no repository: %v", err)
	}
	if _, err := ReadMeta(path, bound.For(first.dir)); err != nil {
		t.Error(err)
	}
	if _, err := ReadMeta(path, bound.For(second.dir)); fault.ClassOf(err) != fault.Verification {
		t.Errorf("a package of another repository: %v", err)
	}
	// A key that is given twice counts where either does.
	both := ours.Keyring().Counting(only(first))
	if err := both.Add(ours.Keyring().Counting(only(second))); err != nil {
		t.Fatal(err)
	}
	if len(both.For(first.dir)) != 1 || len(both.For(second.dir)) != 1 || len(both.For("elsewhere")) != 0 {
		t.Error("a key that is given twice does not count where either does")
	}
}

// Signatures over SHA-1 count, as Alpine's need, unless they are refused. This
// machine's own key never makes them.
func TestSHA1(t *testing.T) {
	key := testKeys()[0]
	var body bytes.Buffer
	if err := writeMember(&body, 1, true, memberFile{"APKINDEX", nil, 0o644}); err != nil {
		t.Fatal(err)
	}
	sum := sha1.Sum(body.Bytes())
	sig, err := rsa.SignPKCS1v15(nil, key.key, crypto.SHA1, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	var index bytes.Buffer
	if err := writeMember(&index, 1, false, memberFile{".SIGN.RSA." + key.Name, sig, 0o644}); err != nil {
		t.Fatal(err)
	}
	index.Write(body.Bytes())
	plain := Keyring{key.Name: {PublicKey: &key.key.PublicKey}}
	if _, err := ReadIndex(bytes.NewReader(index.Bytes()), plain); err != nil {
		t.Errorf("as Alpine signs: %v", err)
	}
	for name, keys := range map[string]Keyring{
		"refused":      plain.Counting(func(_ string, h crypto.Hash) bool { return h != crypto.SHA1 }),
		"this machine": key.Keyring(),
	} {
		if _, err := ReadIndex(bytes.NewReader(index.Bytes()), keys); fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), "over SHA-1 does not count here") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeysOfOneName(t *testing.T) {
	var paths []string
	for i, key := range testKeys() {
		dir := filepath.Join(t.TempDir(), string(rune('a'+i)))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		public, err := key.PublicPEM()
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "same.rsa.pub")
		if err := os.WriteFile(path, public, 0o644); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	if _, err := LoadKeyring(paths...); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "two keys have the name same.rsa.pub") {
		t.Errorf("got %v", err)
	}
	keys, err := LoadKeyring(paths[0], paths[0], filepath.Dir(paths[0]))
	if err != nil || len(slices.Collect(maps.Keys(keys))) != 1 {
		t.Errorf("the same key twice: %v, %v", keys, err)
	}
}
