package build

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/bundle"
)

// A build tells the store of its lock and its bundle, and a plan of nothing.
func TestRoots(t *testing.T) {
	dir := t.TempDir()
	st, err := store.Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	source := store.FromBytes([]byte("source"))
	b := &Builder{opts: &options{}, planning: true, store: st,
		lock: &lock.Lock{Path: filepath.Join(dir, lock.FileName), Sources: []lock.Source{{Name: "zlib", Digest: source}}}}
	if err := b.rememberLock(); err != nil {
		t.Fatal(err)
	}
	if roots, err := st.Roots(); err != nil || len(roots) != 0 {
		t.Errorf("a plan: %v, %v", roots, err)
	}

	b.planning = false
	b.result.Bundle = filepath.Join(dir, "dist")
	w, err := bundle.Create(b.result.Bundle)
	if err != nil {
		t.Fatal(err)
	}
	for name, role := range map[string]string{"bzImage": bundle.RoleKernel, "root.img": bundle.RoleRoot, "initramfs.cpio": bundle.RoleInitramfs} {
		if err := w.Add(t.Context(), name, role, strings.NewReader("bytes")); err != nil {
			t.Fatal(err)
		}
	}
	_, err = w.Commit(t.Context(), bundle.Manifest{
		Schema: bundle.Schema, Name: "sql", Arch: "amd64", Lock: bundle.Lock{Digest: string(source)},
		Root: bundle.Root{Serial: "root", Hash: strings.Repeat("b", 64)},
		VM:   bundle.VM{MemoryMiB: 512, CPUs: 2, Cmdline: "quiet", Data: bundle.Data{Serial: "data", Size: 8 << 30}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := b.rememberLock(); err != nil {
			t.Fatal(err)
		}
		if err := b.rememberBundle(); err != nil {
			t.Fatal(err)
		}
	}
	roots, err := st.Roots()
	if err != nil || len(roots) != 2 {
		t.Fatalf("%v, %v", roots, err)
	}
	for _, r := range roots {
		want := map[string][]store.Digest{store.LockRoot: {source}, store.BundleRoot: {store.FromBytes([]byte("bytes"))}}[r.Kind]
		if !slices.Equal(r.Digests, want) || filepath.Dir(r.Path) != dir {
			t.Errorf("%+v, want %v", r, want)
		}
	}
}
