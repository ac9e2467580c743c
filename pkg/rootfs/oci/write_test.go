package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	ociregistry "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/registry"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// sample is a tree with one entry of each kind, added forwards or backwards.
func sample(t testing.TB, backwards bool) *rootfs.Tree {
	t.Helper()
	all := []rootfs.Entry{
		{Path: "etc", Mode: fs.ModeDir | 0o755, Xattrs: map[string][]byte{"user.b": {1, 0}, "user.a": []byte("x")}},
		{Path: "etc/passwd", Mode: 0o644, Content: rootfs.Bytes([]byte("root:x:0:0::/:/bin/sh\n"))},
		{Path: "bin/su", Mode: fs.ModeSetuid | 0o755, UID: 70000, GID: 5, Content: rootfs.Bytes(bytes.Repeat([]byte("su"), 5000))},
		rootfs.Symlink("sbin", "bin"),
		{Path: "dev/null", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666, Major: 1, Minor: 3},
		{Path: "run/fifo", Mode: fs.ModeNamedPipe | 0o600},
		{Path: "tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
	}
	names := []string{"bin/sudo", "a/su", "z"}
	if backwards {
		slices.Reverse(all)
		slices.Reverse(names)
	}
	tree := rootfs.New()
	for _, e := range all {
		if err := tree.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range names {
		if err := tree.Add(rootfs.Hardlink(n, "bin/su")); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

func spec(arch string) Spec {
	return Spec{
		Platform: v1.Platform{OS: "linux", Architecture: arch},
		Config:   v1.Config{Entrypoint: []string{"/bin/su"}, Env: []string{"PATH=/bin"}, User: "70000:5", WorkingDir: "/tmp", Labels: map[string]string{"b": "2", "a": "1"}},
		Epoch:    1767225600,
		Info:     Info{Title: "sample", Version: "1.2", Revision: "abc", Source: "https://example.org/x", Licenses: "Apache-2.0"},
	}
}

func mustNew(t testing.TB, s Spec, trees ...*rootfs.Tree) v1.Image {
	t.Helper()
	img, err := New(t.Context(), newSpool(t), s, trees...)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func digestOf(t testing.TB, item Item) string {
	t.Helper()
	d, err := item.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

func same(t *testing.T, want, got *rootfs.Tree) {
	t.Helper()
	var a, b bytes.Buffer
	if err := rootfs.WriteTar(&a, want, 0); err != nil {
		t.Fatal(err)
	}
	if err := rootfs.WriteTar(&b, got, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Errorf("the trees differ: %s", cmp.Diff(dump(t, want), dump(t, got)))
	}
}

func TestNew(t *testing.T) {
	img := mustNew(t, spec("arm64"), sample(t, false))
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}
	const want = "sha256:da23d2d6a23a8a701ce387e60bc4ba4f489941bd7ac57f5e31ee3e36ad125479"
	if got := digestOf(t, img); got != want {
		t.Errorf("the image of the sample tree is %s, and was %s", got, want)
	}
	if other := mustNew(t, spec("arm64"), sample(t, true)); digestOf(t, img) != digestOf(t, other) {
		t.Error("the order of insertion shows in the digest")
	}
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	wantAnnotations := map[string]string{
		"org.opencontainers.image.title": "sample", "org.opencontainers.image.version": "1.2", "org.opencontainers.image.revision": "abc",
		"org.opencontainers.image.source": "https://example.org/x", "org.opencontainers.image.licenses": "Apache-2.0",
		"org.opencontainers.image.created": "2026-01-01T00:00:00Z",
	}
	if diff := cmp.Diff(wantAnnotations, m.Annotations); diff != "" {
		t.Error(diff)
	}
	s := spec("arm64")
	s.Zstd = true
	z := mustNew(t, s, sample(t, false))
	tree, err := treeOf(t, z)
	if err != nil {
		t.Fatal(err)
	}
	same(t, sample(t, false), tree)
}

func TestSeveralLayers(t *testing.T) {
	over := rootfs.New()
	if err := over.Add(rootfs.Regular("etc/passwd", 0o600, []byte("x"))); err != nil {
		t.Fatal(err)
	}
	tree, err := treeOf(t, mustNew(t, spec("amd64"), sample(t, false), over))
	if err != nil {
		t.Fatal(err)
	}
	want := sample(t, false)
	if err := want.Set(rootfs.Regular("etc/passwd", 0o600, []byte("x"))); err != nil {
		t.Fatal(err)
	}
	if err := want.Set(rootfs.Dir("etc", 0o755)); err != nil {
		t.Fatal(err)
	}
	same(t, want, tree)
}

func TestBadSpecs(t *testing.T) {
	whiteout := rootfs.New()
	if err := whiteout.Add(rootfs.Regular("d/.wh.x", 0o644, nil)); err != nil {
		t.Fatal(err)
	}
	socket := rootfs.New()
	if err := socket.Add(rootfs.Entry{Path: "s", Mode: fs.ModeSocket | 0o600}); err != nil {
		t.Fatal(err)
	}
	env := spec("amd64")
	env.Config.Env = []string{"PATH"}
	for want, err := range map[string]error{
		"no operating system":      second(New(t.Context(), newSpool(t), Spec{})),
		"not NAME=VALUE":           second(New(t.Context(), newSpool(t), env)),
		"is a whiteout in a layer": second(New(t.Context(), newSpool(t), spec("amd64"), whiteout)),
		"socket":                   second(New(t.Context(), newSpool(t), spec("amd64"), socket)),
		"two images for":           second(NewIndex(Info{}, mustNew(t, spec("amd64")), mustNew(t, spec("amd64")))),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// One image for two platforms, by all three ways out and in again.
func TestWays(t *testing.T) {
	index, err := NewIndex(Info{Title: "both"}, mustNew(t, spec("arm64"), sample(t, false)), mustNew(t, spec("amd64"), sample(t, false)))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	other, err := NewIndex(Info{Title: "both"}, mustNew(t, spec("amd64"), sample(t, true)), mustNew(t, spec("arm64"), sample(t, true)))
	if err != nil {
		t.Fatal(err)
	}
	if digestOf(t, index) != digestOf(t, other) {
		t.Error("the order of the images shows in the index")
	}
	dir := filepath.Join(t.TempDir(), "layout")
	archive := filepath.Join(t.TempDir(), "image.tar")
	for range 2 { // the second replaces the first
		if err := WriteLayout(t.Context(), dir, index, "latest"); err != nil {
			t.Fatal(err)
		}
	}
	var tars [2]bytes.Buffer
	for i, item := range []Item{index, other} {
		if err := WriteArchive(t.Context(), &tars[i], item, "latest"); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(tars[0].Bytes(), tars[1].Bytes()) {
		t.Error("two archives of one content differ")
	}
	zipped := filepath.Join(t.TempDir(), "image.tar.gz")
	for file, data := range map[string][]byte{archive: tars[0].Bytes(), zipped: gz(t, tars[0].Bytes())} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path, err := layout.FromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	root, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(root); err != nil {
		t.Errorf("the layout: %v", err)
	}

	server := httptest.NewServer(ociregistry.New(ociregistry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	client := &registry.Client{}
	ref := strings.TrimPrefix(server.URL, "http://") + "/team/sample:1"
	parsed, err := registry.Parse(ref)
	if err != nil {
		t.Fatal(err)
	}
	pushed, err := client.Push(t.Context(), parsed, index)
	if err != nil {
		t.Fatal(err)
	}
	if pushed.DigestStr() != digestOf(t, index) {
		t.Errorf("pushed %s", pushed)
	}
	remoteIndex, err := remote.Index(parsed)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(remoteIndex); err != nil {
		t.Errorf("in the registry: %v", err)
	}

	for _, source := range []string{dir, archive, zipped, ref, pushed.String(), dir + "@" + pushed.DigestStr()} {
		for _, platform := range []string{"linux/arm64", "linux/arm64/v8", "linux/x86_64"} {
			p, err := ParsePlatform(platform)
			if err != nil {
				t.Fatal(err)
			}
			img, err := Open(t.Context(), client, source, p)
			if err != nil {
				t.Errorf("%s for %s: %v", source, platform, err)
				continue
			}
			if img.Config.Architecture != p.Architecture || img.Config.Config.User != "70000:5" {
				t.Errorf("%s for %s: %+v", source, platform, img.Config)
			}
			tree, err := img.Tree(t.Context(), newSpool(t))
			if err != nil {
				t.Errorf("%s for %s: %v", source, platform, err)
				continue
			}
			same(t, sample(t, false), tree)
			if err := img.Close(); err != nil {
				t.Error(err)
			}
		}
		_, err := Open(t.Context(), client, source, v1.Platform{OS: "linux", Architecture: "riscv64"})
		if err == nil || !strings.Contains(err.Error(), "no image for linux/riscv64; there is linux/amd64, linux/arm64") || fault.ClassOf(err) != fault.Source {
			t.Errorf("%s: %v", source, err)
		}
		_, err = Open(t.Context(), client, source, v1.Platform{})
		if err == nil || !strings.Contains(err.Error(), "2 images") || fault.ClassOf(err) != fault.Usage {
			t.Errorf("%s: %v", source, err)
		}
	}
}

// Archives of docker save, by its own format and by ours.
func TestDockerArchive(t *testing.T) {
	img := mustNew(t, spec("arm64"), sample(t, false))
	tag, err := name.NewTag("example.org/sample:1")
	if err != nil {
		t.Fatal(err)
	}
	saved := filepath.Join(t.TempDir(), "saved.tar")
	if err := tarball.WriteToFile(saved, tag, img); err != nil {
		t.Fatal(err)
	}
	ours := filepath.Join(t.TempDir(), "ours.tar")
	var b bytes.Buffer
	if err := WriteArchive(t.Context(), &b, img, tag.String()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ours, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	// What crane validate --tarball does.
	read, err := tarball.ImageFromPath(ours, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(read); err != nil {
		t.Error(err)
	}
	for _, file := range []string{saved, ours} {
		opened, err := Open(t.Context(), nil, file, v1.Platform{})
		if err != nil {
			t.Fatal(err)
		}
		defer opened.Close()
		tree, err := opened.Tree(t.Context(), newSpool(t))
		if err != nil {
			t.Fatal(err)
		}
		same(t, sample(t, false), tree)
	}
	// A byte of a layer changed: only the diff ID can tell.
	data, err := os.ReadFile(saved)
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.LastIndex(data, []byte{0x1f, 0x8b})
	data[i+40] ^= 1
	if err := os.WriteFile(saved, data, 0o600); err != nil {
		t.Fatal(err)
	}
	opened, err := Open(t.Context(), nil, saved, v1.Platform{})
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	if _, err := opened.Tree(t.Context(), newSpool(t)); err == nil {
		t.Error("a damaged archive was read")
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	layoutDir := filepath.Join(dir, "layout")
	img := mustNew(t, spec("arm64"), sample(t, false))
	if err := WriteLayout(t.Context(), layoutDir, img, ""); err != nil {
		t.Fatal(err)
	}
	write := func(name, data string) string {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	copied := func(name string, change func(dir string)) string {
		to := filepath.Join(dir, name)
		if err := os.CopyFS(to, os.DirFS(layoutDir)); err != nil {
			t.Fatal(err)
		}
		change(to)
		return to
	}
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	entries, err := json.Marshal([]dockerEntry{{Config: "c"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		source string
		want   string
		class  fault.Class
	}{
		"not there":           {"nowhere", "no directory or file here, and no reference", fault.Usage},
		"empty directory":     {t.TempDir(), "is not an OCI layout", fault.Usage},
		"text file":           {write("text", strings.Repeat("hello\n", 500)), "not a tar archive", fault.Source},
		"tiny file":           {write("tiny", "x"), "neither an OCI layout nor a tar archive", fault.Usage},
		"tar without image":   {write("plain.tar", string(tarOf(t, nil))), "holds neither index.json nor manifest.json", fault.Usage},
		"docker without part": {write("docker.tar", string(tarFiles(t, "manifest.json", string(entries)))), "c: file does not exist", fault.Source},
		"bad index":           {copied("bad-index", func(d string) { write("bad-index/index.json", "{") }), "index.json: unexpected EOF", fault.Source},
		"huge index":          {copied("huge", func(d string) { write("huge/index.json", strings.Repeat(" ", maxManifest+1)) }), "bytes, more than", fault.Source},
		"manifest changed":    {copied("manifest", func(d string) { write("manifest/blobs/sha256/"+digest.Hex, "{}") }), "ends after 2 of", fault.Verification},
		"config gone": {copied("config", func(d string) {
			if err := os.Remove(filepath.Join(d, "blobs/sha256", m.Config.Digest.Hex)); err != nil {
				t.Fatal(err)
			}
		}), m.Config.Digest.String(), fault.Source},
		"link out of the layout": {copied("link", func(d string) {
			file := filepath.Join(d, "blobs/sha256", m.Config.Digest.Hex)
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(filepath.Join(layoutDir, "blobs/sha256", m.Config.Digest.Hex), file); err != nil {
				t.Fatal(err)
			}
		}), "path escapes", fault.Source},
		"other digest": {layoutDir + "@sha256:" + strings.Repeat("0", 64), "no manifest of this digest", fault.Source},
		"short digest": {layoutDir + "@sha256:12", "sha256:12", fault.Usage},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(t.Context(), &registry.Client{}, tt.source, v1.Platform{})
			if err == nil || !strings.Contains(err.Error(), tt.want) || fault.ClassOf(err) != tt.class {
				t.Errorf("got %v (class %d), want %q (class %d)", err, fault.ClassOf(err), tt.want, tt.class)
			}
		})
	}
}

// tarFiles makes a tar of files: name, content, name, content.
func tarFiles(t testing.TB, pairs ...string) []byte {
	var lines []string
	for i := 0; i < len(pairs); i += 2 {
		lines = append(lines, fmt.Sprintf("f %s %s", pairs[i], pairs[i+1]))
	}
	return tarOf(t, entries(lines...))
}

func TestParsePlatform(t *testing.T) {
	for in, want := range map[string]string{
		"linux/amd64": "linux/amd64", "linux/aarch64": "linux/arm64", "linux/arm64/v8": "linux/arm64", "linux/arm": "linux/arm/v7",
		"linux/arm/v6": "linux/arm/v6", "linux": "", "": "", "linux/": "", "a/b/c/d": "", "linux/amd64 ": "", "Linux/amd64": "",
	} {
		p, err := ParsePlatform(in)
		if p.String() != want || (err == nil) != (want != "") {
			t.Errorf("%q: %s, %v", in, p, err)
		}
	}
}

// A layout is not put where something else is.
func TestReplaceable(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "thesis.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := WriteLayout(t.Context(), dir, mustNew(t, spec("amd64")), "")
	if fault.ClassOf(err) != fault.Usage || fault.HintOf(err) == "" {
		t.Errorf("got %v", err)
	}
}

// On a full disk a layout that stood there stays, whole, and nothing is beside it.
func TestWriteLayoutFullDisk(t *testing.T) {
	parent := t.TempDir()
	if err := unix.Mount("small", parent, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("cannot mount a tmpfs here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(parent, 0); err != nil {
			t.Error(err)
		}
	})
	dir := filepath.Join(parent, "layout")
	if err := WriteLayout(t.Context(), dir, mustNew(t, spec("amd64"), sample(t, false)), "latest"); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	large := rootfs.New()
	noise := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{}).Read(noise)
	if err := large.Add(rootfs.Entry{Path: "large", Mode: 0o644, Content: rootfs.Bytes(noise)}); err != nil {
		t.Fatal(err)
	}
	err = WriteLayout(t.Context(), dir, mustNew(t, spec("amd64"), large), "latest")
	if !errors.Is(err, unix.ENOSPC) || fault.ClassOf(err) != fault.Environment {
		t.Errorf("got %v", err)
	}
	after, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the layout that stood there: %v", err)
	}
	if err := validate.Index(mustIndex(t, dir)); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(parent); err != nil || len(entries) != 1 {
		t.Errorf("beside it: %v, %v", entries, err)
	}
}

func mustIndex(t *testing.T, dir string) v1.ImageIndex {
	t.Helper()
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	return index
}
