package apk

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

const epoch = 1700000000

// testKeys are small, so that tests do not spend their time on making them.
var testKeys = sync.OnceValue(func() [2]*SigningKey {
	var out [2]*SigningKey
	for i, name := range [...]string{"ours.rsa.pub", "theirs.rsa.pub"} {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		out[i] = &SigningKey{name, key}
	}
	return out
})

func tree(t testing.TB, entries ...rootfs.Entry) *rootfs.Tree {
	t.Helper()
	tr := rootfs.New()
	for _, e := range entries {
		if err := tr.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	return tr
}

// repo is a repository in a directory, made package by package.
type repo struct {
	t     testing.TB
	dir   string
	metas []Meta
}

func newRepo(t testing.TB) *repo {
	r := &repo{t: t, dir: t.TempDir()}
	if err := os.Mkdir(filepath.Join(r.dir, "x86_64"), 0o755); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *repo) path(m Meta) string { return filepath.Join(r.dir, "x86_64", m.FileName()) }

func (r *repo) add(m Meta, entries ...rootfs.Entry) Meta {
	r.t.Helper()
	return r.addScripts(m, nil, entries...)
}

func (r *repo) addScripts(m Meta, scripts map[string]string, entries ...rootfs.Entry) Meta {
	r.t.Helper()
	if m.Arch == "" {
		m.Arch = "x86_64"
	}
	var b bytes.Buffer
	m, err := Write(&b, m, tree(r.t, entries...), testKeys()[0], epoch, func(o *writeOptions) { o.scripts = scripts })
	if err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(r.path(m), b.Bytes(), 0o644); err != nil {
		r.t.Fatal(err)
	}
	r.metas = append(r.metas, m)
	return m
}

func (r *repo) index(key *SigningKey) {
	r.t.Helper()
	var b bytes.Buffer
	if err := WriteIndex(&b, r.metas, key, epoch); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.dir, "x86_64", IndexName), b.Bytes(), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *repo) open() Repository {
	r.t.Helper()
	r.index(testKeys()[0])
	repo, err := OpenRepository(context.Background(), r.dir, "x86_64", testKeys()[0].Keyring())
	if err != nil {
		r.t.Fatal(err)
	}
	return repo
}

// sample is a package with one of everything.
func sample(r *repo) Meta {
	return r.add(Meta{Name: "sample", Version: "1.2.3-r4", Description: "one of everything", License: "MIT", URL: "https://example.org/", Origin: "sample-src",
		Maintainer: "Some One <one@example.org>", Depends: []string{"so:libz.so.1", "!other<2"}, Provides: []string{"cmd:sample=1.2.3-r4"}, Replaces: []string{"old-sample"}, InstallIf: []string{"docs", "sample-lib=1"}, ProviderPriority: 10, Triggers: nil},
		rootfs.Entry{Path: "bin/sample", Mode: fs.ModeSetuid | 0o755, Size: 5, Content: rootfs.Bytes([]byte("hello"))},
		rootfs.Hardlink("bin/alias", "bin/sample"),
		rootfs.Symlink("bin/link", "sample"),
		rootfs.Entry{Path: "usr/cap", Mode: 0o644, Xattrs: map[string][]byte{"user.x": []byte("y")}, Size: 3, Content: rootfs.Bytes([]byte("cap"))},
		rootfs.Entry{Path: "var/lib/sample", Mode: fs.ModeDir | 0o700, UID: 70, GID: 70},
		rootfs.Regular("etc/empty", 0o600, nil),
		rootfs.Regular("top", 0o644, []byte("t")),
	)
}

func TestWriteOpenRoundTrip(t *testing.T) {
	r := newRepo(t)
	m := sample(r)
	p, err := Open(r.path(m), testKeys()[0].Keyring())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.Meta.pkginfo() != m.pkginfo() || p.Meta.Checksum != m.Checksum || p.Meta.Size != m.Size {
		t.Errorf("read\n%+v, wrote\n%+v", p.Meta, m)
	}
	if e, ok := p.Tree.Lookup("bin/alias"); !ok || e.Mode != fs.ModeSetuid|0o755 || e.Size != 5 {
		t.Errorf("bin/alias is %+v", e)
	}
	if e, _ := p.Tree.Lookup("usr/cap"); string(e.Xattrs["user.x"]) != "y" {
		t.Errorf("usr/cap is %+v", e)
	}
	if m2, err := ReadMeta(r.path(m), testKeys()[0].Keyring()); err != nil || m2.record() != m.record() {
		t.Errorf("ReadMeta: %v, %+v", err, m2)
	}
	first, err := os.ReadFile(r.path(m))
	if err != nil {
		t.Fatal(err)
	}
	r2 := newRepo(t)
	second, err := os.ReadFile(r2.path(sample(r2)))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Error("two writes of one package differ")
	}
}

// What is as large as a package may not go to the system's temporary
// directory, which may be in memory.
func TestWriteTempDir(t *testing.T) {
	m := Meta{Name: "a", Version: "1-r0", Arch: "x86_64"}
	want, err := Write(io.Discard, m, tree(t), testKeys()[0], epoch)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "absent"))
	if _, err := Write(io.Discard, m, tree(t), testKeys()[0], epoch); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a directory: %v", err)
	}
	dir := t.TempDir()
	got, err := Write(io.Discard, m, tree(t), testKeys()[0], epoch, WithTempDir(dir))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestOpenRefusesTampering(t *testing.T) {
	r := newRepo(t)
	m := sample(r)
	good, err := os.ReadFile(r.path(m))
	if err != nil {
		t.Fatal(err)
	}
	keys := testKeys()[0].Keyring()
	open := func(data []byte, keys Keyring, opts ...OpenOption) error {
		path := filepath.Join(t.TempDir(), "p.apk")
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		p, err := Open(path, keys, opts...)
		if err == nil {
			p.Close()
		}
		return err
	}
	if err := open(good, testKeys()[1].Keyring()); fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), "ours.rsa.pub") || !strings.Contains(err.Error(), "theirs.rsa.pub") {
		t.Errorf("unknown key: %v", err)
	}
	wrong := Keyring{"ours.rsa.pub": testKeys()[1].Keyring()["theirs.rsa.pub"]}
	if err := open(good, wrong); fault.ClassOf(err) != fault.Verification {
		t.Errorf("wrong key of the right name: %v", err)
	}
	if err := open(good, Keyring{}); fault.ClassOf(err) != fault.Verification {
		t.Errorf("empty keyring: %v", err)
	}
	if err := open(good, nil, Pinned(m)); err != nil {
		t.Errorf("pinned: %v", err)
	}
	other := m
	other.Checksum = checksumString(make([]byte, 20))
	if err := open(good, keys, Pinned(other)); fault.ClassOf(err) != fault.Verification {
		t.Errorf("wrong pin: %v", err)
	}
	// Every single byte matters, except in the gzip header of the signature
	// and in what tar and RSA do not look at there.
	sigEnd := len(good) - int(dataSize(t, good)) // rough: signature and control
	for i := 0; i < len(good); i += 13 {
		bad := slices.Clone(good)
		bad[i] ^= 0x40
		if err := open(bad, keys); err == nil && i > sigEnd {
			t.Errorf("byte %d of %d changed, accepted", i, len(good))
		}
		if err := open(bad[:i], keys); err == nil {
			t.Errorf("cut after %d bytes, accepted", i)
		}
	}
	if err := open(append(slices.Clone(good), 0), keys); fault.ClassOf(err) != fault.Verification {
		t.Errorf("a byte more: %v", err)
	}
}

func dataSize(t *testing.T, data []byte) int64 {
	t.Helper()
	path := filepath.Join(t.TempDir(), "p")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := readControl(path, bytes.NewReader(data), int64(len(data)), testKeys()[0].Keyring(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return int64(len(data)) - c.end
}

// A file with another content than its checksum, in a package that is
// otherwise right: what a careless repackager leaves.
func TestOpenChecksEachFile(t *testing.T) {
	r := newRepo(t)
	m := r.add(Meta{Name: "liar", Version: "1-r0"}, rootfs.Entry{Path: "etc/passwd", Mode: 0o644, Size: 4, Content: &changing{texts: []string{"root", "evil"}}})
	p, err := Open(r.path(m), testKeys()[0].Keyring())
	if err == nil {
		p.Close()
	}
	if fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), "liar-1-r0") || !strings.Contains(err.Error(), "etc/passwd") {
		t.Errorf("got %v", err)
	}
}

func TestIndexRoundTripAndRefusals(t *testing.T) {
	r := newRepo(t)
	sample(r)
	r.add(Meta{Name: "another", Version: "2-r0"})
	var b bytes.Buffer
	if err := WriteIndex(&b, r.metas, testKeys()[0], epoch); err != nil {
		t.Fatal(err)
	}
	metas, err := ReadIndex(bytes.NewReader(b.Bytes()), testKeys()[0].Keyring())
	if err != nil || len(metas) != 2 || metas[1].record() != r.metas[0].record() {
		t.Fatalf("%v, %+v", err, metas)
	}
	slices.Reverse(r.metas)
	var again bytes.Buffer
	if err := WriteIndex(&again, r.metas, testKeys()[0], epoch); err != nil || !bytes.Equal(again.Bytes(), b.Bytes()) {
		t.Error("the order of packages changes the index")
	}
	if _, err := ReadIndex(bytes.NewReader(b.Bytes()), testKeys()[1].Keyring()); fault.ClassOf(err) != fault.Verification {
		t.Errorf("wrong key: %v", err)
	}
	var unsigned bytes.Buffer
	if err := writeMember(&unsigned, epoch, true, memberFile{"APKINDEX", []byte(r.metas[0].record()), 0o644}); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadIndex(&unsigned, testKeys()[0].Keyring()); fault.ClassOf(err) != fault.Verification {
		t.Errorf("unsigned: %v", err)
	}
	for _, i := range []int{b.Len() - 5, b.Len() / 2, b.Len() - 30} {
		bad := slices.Clone(b.Bytes())
		bad[i] ^= 1
		if _, err := ReadIndex(bytes.NewReader(bad), testKeys()[0].Keyring()); err == nil {
			t.Errorf("byte %d changed, accepted", i)
		}
	}
}

func TestRepositoryOverHTTP(t *testing.T) {
	r := newRepo(t)
	m := r.add(Meta{Name: "a", Version: "1-r0"}, rootfs.Regular("a", 0o644, []byte("a")))
	r.index(testKeys()[0])
	requests := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		requests++
		http.FileServer(http.Dir(r.dir)).ServeHTTP(w, q)
	}))
	defer server.Close()
	cache := t.TempDir()
	ctx := context.Background()
	install := func(opts ...RepositoryOption) error {
		repo, err := OpenRepository(ctx, server.URL, "x86_64", testKeys()[0].Keyring(), opts...)
		if err != nil {
			return err
		}
		pkgs, err := Solve(ctx, []string{"a"}, []Repository{repo})
		if err != nil {
			return err
		}
		return Install(ctx, rootfs.New(), pkgs, InstallOptions{Spool: spool(t), Arch: "x86_64"})
	}
	if err := install(WithCache(cache), Offline()); fault.ClassOf(err) != fault.Source {
		t.Errorf("offline without a cache: %v", err)
	}
	for range 2 {
		if err := install(WithCache(cache)); err != nil {
			t.Fatal(err)
		}
	}
	if requests != 3 {
		t.Errorf("%d requests, want the index twice and the package once", requests)
	}
	if err := install(WithCache(cache), Offline()); err != nil || requests != 3 {
		t.Errorf("offline: %v, %d requests", err, requests)
	}
	if err := install(); err != nil {
		t.Errorf("without a cache: %v", err)
	}
	if err := os.WriteFile(r.path(m), []byte("changed on the mirror"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := install(); err == nil {
		t.Error("a changed package was installed")
	}
	server.Close()
	if err := install(); fault.ClassOf(err) != fault.Source {
		t.Errorf("server gone: %v", err)
	}
	if _, err := OpenRepository(ctx, t.TempDir(), "x86_64", nil); fault.ClassOf(err) != fault.Source {
		t.Errorf("no index: %v", err)
	}
	if _, err := OpenRepository(ctx, "ftp://x/y", "x86_64", nil); fault.ClassOf(err) != fault.Usage {
		t.Errorf("ftp: %v", err)
	}
}

func TestKeysOnDisk(t *testing.T) {
	dir := t.TempDir()
	path, err := testKeys()[0].Save(dir)
	if err != nil {
		t.Fatal(err)
	}
	key, err := LoadKey(path)
	if err != nil || key.Name != "ours.rsa.pub" || !key.key.Equal(testKeys()[0].key) {
		t.Fatalf("%v, %+v", err, key)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("private key: %v, %v", info, err)
	}
	ring, err := LoadKeyring(dir)
	if err != nil || len(ring) != 1 || !ring["ours.rsa.pub"].Equal(&key.key.PublicKey) {
		t.Errorf("%v, %v", err, ring)
	}
	if _, err := LoadKeyring(filepath.Join(dir, "none")); fault.ClassOf(err) != fault.Usage {
		t.Errorf("missing: %v", err)
	}
	if _, err := LoadKey(filepath.Join(dir, "ours.rsa.pub")); fault.ClassOf(err) != fault.Usage {
		t.Errorf("public as private: %v", err)
	}
	if _, err := GenerateKey("a/b"); fault.ClassOf(err) != fault.Usage {
		t.Errorf("slash in the name: %v", err)
	}
}

func spool(t testing.TB) *rootfs.Spool {
	t.Helper()
	s, err := rootfs.NewSpool(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func FuzzOpen(f *testing.F) {
	r := newRepo(f)
	data, err := os.ReadFile(r.path(sample(r)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:len(data)/2])
	f.Add([]byte("\x1f\x8b"))
	path := filepath.Join(f.TempDir(), "x.apk")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		// Pinned to itself: past the signature, into the parsers.
		m := Meta{Name: "x", Version: "1"}
		c, err := readControl(path, bytes.NewReader(data), int64(len(data)), nil, &m)
		_ = c
		if err == nil {
			t.Fatal("a zero checksum was accepted")
		}
		p, err := Open(path, testKeys()[0].Keyring())
		if err == nil {
			p.Close()
		}
	})
}

func FuzzReadIndex(f *testing.F) {
	r := newRepo(f)
	m := sample(r)
	f.Add([]byte(m.record() + "\n" + m.record()))
	f.Add([]byte("C:Q1\nP:a\n\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		metas, err := parseRecords(bytes.NewReader(text))
		if err == nil {
			var b strings.Builder
			for _, m := range metas {
				b.WriteString(m.record() + "\n")
			}
			again, err := parseRecords(strings.NewReader(b.String()))
			if err != nil || len(again) != len(metas) {
				t.Fatalf("cannot read what was written: %v\n%s", err, b.String())
			}
		}
		if _, err := ReadIndex(bytes.NewReader(text), Keyring{}); err == nil {
			t.Fatal("accepted without a key")
		}
		if m, err := parsePkginfo(bytes.NewReader(text)); err == nil {
			if _, err := parsePkginfo(strings.NewReader(m.pkginfo())); err != nil {
				t.Fatalf("cannot read what was written: %v", err)
			}
		}
	})
}
