package build

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

func testArch(t *testing.T) arch {
	t.Helper()
	a, err := findArch("amd64", []string{"amd64"})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// A bit that flips in the store must not come out as a bundle that verifies.
func TestDamagedStoreMakesNoBundle(t *testing.T) {
	dir := t.TempDir()
	st, err := store.Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	put := func(text string) store.Digest {
		d, _, err := st.Put(t.Context(), strings.NewReader(text), "")
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	kernel := Kernel{Image: put("kernel"), Config: put("config")}
	root := &builtRoot{Disk: put("root"), Initramfs: put("initramfs"), Hash: strings.Repeat("a", 64)}
	b := &Builder{
		opts:   &options{output: filepath.Join(dir, "dist")},
		recipe: &recipe.Recipe{Name: "demo", VM: recipe.VM{Memory: 64 << 20, CPUs: 1, Data: 1 << 30}},
		arch:   testArch(t), lock: &lock.Lock{SourceDate: 1}, store: st, epoch: 1,
	}
	if err := b.writeBundle(t.Context(), kernel, root); err != nil {
		t.Fatal(err)
	}
	if have, err := bundle.Digest(b.result.Bundle); err != nil || have != b.result.Digest {
		t.Errorf("the bundle is %s, %v; the result says %s", have, err, b.result.Digest)
	}

	damaged := st.Path(root.Disk)
	if err := os.Chmod(damaged, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(damaged, []byte("rood"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(b.result.Bundle); err != nil {
		t.Fatal(err)
	}
	err = b.writeBundle(t.Context(), kernel, root)
	if fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), "root.img") {
		t.Errorf("a damaged root disk: %v", err)
	}
	if _, err := os.Stat(b.result.Bundle); !os.IsNotExist(err) {
		t.Errorf("it left a bundle: %v", err)
	}
}
