package artifact

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/registry"
)

// signed writes a bundle with a key and a description, and signs it with an
// index; 0 leaves it without a signature.
func signed(t *testing.T, root string, key signature.SecretKey, index int64) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "sql")
	build(t, dir, root)
	m, err := bundle.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, a := range m.Artifacts {
		files[a.File] = filepath.Join(dir, a.File)
	}
	m.Release = &bundle.Release{Key: string(key.Public())}
	out := filepath.Join(t.TempDir(), "sql")
	if err := bundle.Write(t.Context(), out, *m, files); err != nil {
		t.Fatal(err)
	}
	if index > 0 {
		sign(t, out, key, index)
	}
	return out
}

func sign(t *testing.T, dir string, key signature.SecretKey, index int64) {
	t.Helper()
	bill := []byte(`{"of": "` + filepath.Base(dir) + `"}`)
	if err := os.WriteFile(filepath.Join(dir, bundle.SPDXFile), bill, 0o644); err != nil {
		t.Fatal(err)
	}
	h, _, err := v1.SHA256(bytes.NewReader(bill))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := os.ReadFile(filepath.Join(dir, bundle.ManifestFile))
	if err != nil {
		t.Fatal(err)
	}
	text, err := signature.Sign(key, manifest, signature.Statement{Name: "sql", Arch: "amd64", Version: "1", Index: index,
		Files: []signature.File{{Name: bundle.SPDXFile, Digest: h.String()}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, signature.FileName), text, 0o644); err != nil {
		t.Fatal(err)
	}
}

func key(t *testing.T) signature.SecretKey {
	t.Helper()
	k, err := signature.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSignedPull(t *testing.T) {
	s := newSite(t)
	client := &registry.Client{}
	good, thief := key(t), key(t)
	push := func(dir, tag string) string {
		t.Helper()
		ref, err := Push(t.Context(), client, dir, s.host+"/sql:"+tag)
		if err != nil {
			t.Fatal(err)
		}
		return ref.String()
	}
	refused := func(ref, dir, words string, options ...PullOption) {
		t.Helper()
		before := s.gets.Load()
		_, err := Pull(t.Context(), client, ref, dir, nil, options...)
		if fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), words) {
			t.Errorf("%v; want %q", err, words)
		}
		// The manifest, signatures and descriptions: none of the bundle's files.
		if got := s.gets.Load() - before; got > 4 {
			t.Errorf("%d blobs were fetched", got)
		}
	}
	dir := filepath.Join(t.TempDir(), "pulled")
	refused(push(signed(t, "a", good, 0), "unsigned"), dir, "is not signed")
	first := signed(t, "a", good, 5)
	ref := push(first, "5")
	refused(ref, dir, "only what "+string(thief.Public()), WithKey(thief.Public()))
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("a refused pull left %s: %v", dir, err)
	}
	got, err := Pull(t.Context(), client, ref, dir, nil, WithKey(good.Public()))
	if err != nil || got.Fetched == 0 {
		t.Fatal(err)
	}
	for _, name := range []string{signature.FileName, bundle.SPDXFile} {
		want, _ := os.ReadFile(filepath.Join(first, name))
		if text, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(text, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The same again costs nothing, and leaves the directory as it is.
	was, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, err = Pull(t.Context(), client, ref, dir, nil); err != nil || got.Fetched != 0 {
		t.Errorf("again: %+v, %v", got, err)
	}
	if is, err := os.Stat(dir); err != nil || !os.SameFile(was, is) {
		t.Error("the directory was replaced by the same")
	}

	// In the place of a signed bundle comes only what its key has signed, and
	// nothing older.
	refused(push(signed(t, "b", thief, 6), "thief"), dir, "only what")
	plain := filepath.Join(t.TempDir(), "plain")
	build(t, plain, "c")
	refused(push(plain, "plain"), dir, "is not signed")
	older := push(signed(t, "d", good, 4), "4")
	refused(older, dir, "older than 5")
	if _, err := Pull(t.Context(), client, older, dir, nil, AllowRollback()); err != nil {
		t.Errorf("a rollback that is allowed: %v", err)
	}
}

// Whoever may push adds what is not true: a signature that refers elsewhere, or
// one that is none. The good one still counts; without a good one, it is refused.
func TestForeignReferrers(t *testing.T) {
	s := newSite(t)
	client := &registry.Client{}
	good := key(t)
	attachTo := func(t *testing.T, of name.Digest, subject v1.Descriptor, text []byte) {
		t.Helper()
		what, err := about(subject, signature.FileName, SignatureType, text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Attach(t.Context(), of.Context(), what); err != nil {
			t.Fatal(err)
		}
	}
	one, other := signed(t, "one", good, 5), signed(t, "other", good, 6)
	if _, err := Push(t.Context(), client, other, s.host+"/sql:other"); err != nil {
		t.Fatal(err)
	}
	unsigned := signed(t, "one", good, 0)
	ref, err := Push(t.Context(), client, unsigned, s.host+"/sql:one")
	if err != nil {
		t.Fatal(err)
	}
	img, _, err := open(t.Context(), unsigned)
	if err != nil {
		t.Fatal(err)
	}
	subject, err := partial.Descriptor(img)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "pulled")
	refused := func(words string) {
		t.Helper()
		if _, err := Pull(t.Context(), client, ref.String(), dir, nil); fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), words) {
			t.Errorf("%v; want %q", err, words)
		}
	}
	theirs, err := os.ReadFile(filepath.Join(other, signature.FileName))
	if err != nil {
		t.Fatal(err)
	}
	attachTo(t, ref, *subject, theirs)
	refused("it is of the manifest")
	// The list of this bundle's referrers has one that is about the other.
	otherImage, _, err := open(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	otherSubject, err := partial.Descriptor(otherImage)
	if err != nil {
		t.Fatal(err)
	}
	p := &puller{client: client, repo: ref.Context(), subject: subject.Digest}
	elsewhere, err := about(*otherSubject, signature.FileName, SignatureType, theirs)
	if err != nil {
		t.Fatal(err)
	}
	at, err := client.Attach(t.Context(), ref.Context(), elsewhere)
	if err != nil {
		t.Fatal(err)
	}
	h, err := v1.NewHash(at.DigestStr())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.describing(t.Context(), v1.Descriptor{Digest: h}, SignatureType, signature.MaxSize); fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), "says that it is about "+otherSubject.Digest.String()) {
		t.Errorf("a referrer that points elsewhere: %v", err)
	}
	attachTo(t, ref, *subject, []byte("nonsense\n"))
	refused("")
	// Now the good one as well.
	if err := attach(t.Context(), client, ref.Context(), img, one); err != nil {
		t.Fatal(err)
	}
	if _, err := Pull(t.Context(), client, ref.String(), dir, nil); err != nil {
		t.Errorf("with the good one among them: %v", err)
	}
}
