package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	ociregistry "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/oci"
)

// site is a registry on this machine; watch sees each request first.
func site(t *testing.T, watch func(*http.Request)) string {
	t.Helper()
	inner := ociregistry.New(ociregistry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if watch != nil {
			watch(r)
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func writeBundle(t *testing.T, dir string) {
	t.Helper()
	w, err := bundle.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, role := range map[string]string{"root.img": bundle.RoleRoot, "Image": bundle.RoleKernel, "initramfs": bundle.RoleInitramfs} {
		if err := w.Add(t.Context(), name, role, strings.NewReader(name)); err != nil {
			t.Fatal(err)
		}
	}
	_, err = w.Commit(t.Context(), bundle.Manifest{
		Schema: bundle.Schema, Name: "sql", Arch: "arm64", SourceDate: 1,
		Lock: bundle.Lock{Digest: "sha256:" + strings.Repeat("a", 64)},
		Root: bundle.Root{Serial: "root", Hash: strings.Repeat("b", 64)},
		VM:   bundle.VM{MemoryMiB: 512, CPUs: 2, Cmdline: "x", Data: bundle.Data{Serial: "data", Size: 8 << 30}},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestOCIBundle(t *testing.T) {
	host := site(t, nil)
	from, to := filepath.Join(t.TempDir(), "sql-arm64"), filepath.Join(t.TempDir(), "sql")
	writeBundle(t, from)
	code, out, errs := call(t, t.Context(), &fake{}, "oci", "push", from, host+"/team/sql:1", "--json")
	if code != 0 {
		t.Fatalf("exit %d: %s", code, out+errs)
	}
	var pushed ociResult
	if err := json.Unmarshal([]byte(out), &pushed); err != nil {
		t.Fatal(err)
	}
	if pushed.Kind != "bundle" || pushed.Reference != host+"/team/sql@"+pushed.Digest {
		t.Errorf("%+v", pushed)
	}
	code, out, errs = call(t, t.Context(), &fake{}, "oci", "pull", pushed.Reference, "-o", to)
	if want := "pulled bundle " + pushed.Reference + " to " + to + "\n"; code != 0 || out != want {
		t.Fatalf("exit %d: %s", code, out+errs)
	}
	if err := bundle.Verify(t.Context(), to); err != nil {
		t.Error(err)
	}
	_, out, _ = call(t, t.Context(), &fake{}, "oci", "pull", pushed.Reference, "-o", to, "--json")
	if !strings.Contains(out, `"fetched":0}`) {
		t.Errorf("pulled again: %s", out)
	}

	// A damaged bundle stays here; one that was damaged there is refused.
	if err := os.WriteFile(filepath.Join(from, "root.img"), []byte("evil.img"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, _ := call(t, t.Context(), &fake{}, "oci", "push", from, host+"/team/sql:2", "--json"); code != 6 {
		t.Errorf("exit %d: %s", code, out)
	}
	if code, out, _ := call(t, t.Context(), &fake{}, "oci", "pull", host+"/team/sql:2", "-o", to, "--json"); code != 4 {
		t.Errorf("exit %d: %s", code, out)
	}
}

func TestOCIImage(t *testing.T) {
	host := site(t, nil)
	tree := rootfs.New()
	if err := tree.Add(rootfs.Regular("etc/hostname", 0o644, []byte("x\n"))); err != nil {
		t.Fatal(err)
	}
	spool, err := rootfs.NewSpool(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer spool.Close()
	var images []v1.Image
	for _, arch := range []string{"amd64", "arm64"} {
		img, err := oci.New(t.Context(), spool, oci.Spec{Platform: v1.Platform{OS: "linux", Architecture: arch}}, tree)
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, img)
	}
	index, err := oci.NewIndex(oci.Info{}, images...)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	layout, all, one := filepath.Join(dir, "layout"), filepath.Join(dir, "all"), filepath.Join(dir, "one")
	if err := oci.WriteLayout(t.Context(), layout, index, "1"); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"oci", "push", layout, host + "/app:1"},
		{"oci", "pull", host + "/app:1", "-o", all},
		{"oci", "pull", host + "/app:1", "-o", one, "--platform", "linux/arm64"},
	} {
		if code, out, errs := call(t, t.Context(), &fake{}, args...); code != 0 {
			t.Fatalf("%v: exit %d: %s", args, code, out+errs)
		}
	}
	if err := compareDirs(layout, all); err != nil {
		t.Error(err)
	}
	img, err := oci.Open(t.Context(), nil, one, v1.Platform{})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	if img.Config.Architecture != "arm64" {
		t.Errorf("%+v", img.Config)
	}
	if code, out, _ := call(t, t.Context(), &fake{}, "oci", "pull", host+"/app:1", "-o", one, "--platform", "linux/s390x", "--json"); code != 4 || !strings.Contains(out, "there is linux/amd64, linux/arm64") {
		t.Errorf("exit %d: %s", code, out)
	}
	// A blob of the layout damaged.
	blobs, err := filepath.Glob(filepath.Join(layout, "blobs/sha256/*"))
	if err != nil || len(blobs) == 0 {
		t.Fatal(err)
	}
	if err := os.WriteFile(blobs[0], []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, _ := call(t, t.Context(), &fake{}, "oci", "push", layout, host+"/app:2", "--json"); code != 6 {
		t.Errorf("exit %d: %s", code, out)
	}
}

// A tag is asked for once: what it meant then is what is written, whatever it
// means a moment later.
func TestOCIPullAsksForATagOnce(t *testing.T) {
	var asked atomic.Int32
	host := site(t, func(r *http.Request) {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/manifests/1") {
			asked.Add(1)
		}
	})
	dir, layout := filepath.Join(t.TempDir(), "sql-arm64"), filepath.Join(t.TempDir(), "layout")
	writeBundle(t, dir)
	spool, err := rootfs.NewSpool(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer spool.Close()
	img, err := oci.New(t.Context(), spool, oci.Spec{Platform: v1.Platform{OS: "linux", Architecture: "arm64"}}, rootfs.New())
	if err != nil {
		t.Fatal(err)
	}
	if err := oci.WriteLayout(t.Context(), layout, img, "1"); err != nil {
		t.Fatal(err)
	}
	for name, from := range map[string]string{"sql": dir, "app": layout} {
		ref := host + "/" + name + ":1"
		if code, out, errs := call(t, t.Context(), &fake{}, "oci", "push", from, ref); code != 0 {
			t.Fatalf("exit %d: %s", code, out+errs)
		}
		for _, args := range [][]string{nil, {"--platform", "linux/arm64"}} {
			if name == "sql" && args != nil {
				continue // a bundle is for one platform
			}
			asked.Store(0)
			args = append([]string{"oci", "pull", ref, "-o", filepath.Join(t.TempDir(), "to")}, args...)
			if code, out, errs := call(t, t.Context(), &fake{}, args...); code != 0 || asked.Load() != 1 {
				t.Errorf("%v: asked %d times, exit %d: %s", args, asked.Load(), code, out+errs)
			}
		}
	}
	index, err := os.ReadFile(filepath.Join(layout, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "to")
	if code, out, errs := call(t, t.Context(), &fake{}, "oci", "pull", host+"/app:1", "-o", to); code != 0 {
		t.Fatalf("exit %d: %s", code, out+errs)
	}
	if got, err := os.ReadFile(filepath.Join(to, "index.json")); err != nil || !bytes.Equal(got, index) {
		t.Errorf("the tag is lost: %s, %v", got, err)
	}
}

func compareDirs(a, b string) error {
	return filepath.WalkDir(a, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(a, path)
		if err != nil {
			return err
		}
		x, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		y, err := os.ReadFile(filepath.Join(b, rel))
		if err == nil && !bytes.Equal(x, y) {
			err = &os.PathError{Op: "compare", Path: rel, Err: os.ErrInvalid}
		}
		return err
	})
}

// Ctrl-C in the middle of a pull ends it with 130 and leaves nothing.
func TestOCICancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var pulling atomic.Bool
	host := site(t, func(r *http.Request) {
		if pulling.Load() && strings.Contains(r.URL.Path, "/blobs/") {
			cancel()
		}
	})
	from, parent := filepath.Join(t.TempDir(), "sql-arm64"), t.TempDir()
	writeBundle(t, from)
	if code, out, errs := call(t, t.Context(), &fake{}, "oci", "push", from, host+"/sql:1"); code != 0 {
		t.Fatalf("exit %d: %s", code, out+errs)
	}
	pulling.Store(true)
	if code, out, _ := call(t, ctx, &fake{}, "oci", "pull", host+"/sql:1", "-o", filepath.Join(parent, "sql"), "--json"); code != 130 {
		t.Errorf("exit %d: %s", code, out)
	}
	if entries, err := os.ReadDir(parent); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
