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
)

// A bundle names the lock it was made from, also when somebody has locked
// something else while it was built.
func TestBundleNamesTheLockThatWasUsed(t *testing.T) {
	dir := t.TempDir()
	b := &builder{opts: &options{output: filepath.Join(dir, "dist"), progress: &strings.Builder{}}, lockPath: filepath.Join(dir, LockFile), epoch: 1}
	if err := lock.New(b.lockPath).Save(t.Context(), &lock.Lock{SourceDate: 1}); err != nil {
		t.Fatal(err)
	}
	used, err := os.ReadFile(b.lockPath)
	if err != nil {
		t.Fatal(err)
	}
	if b.locked, err = lock.Open(b.lockPath); err != nil {
		t.Fatal(err)
	}
	b.lock = b.locked.Lock()
	if b.arch, err = findArch("amd64", []string{"amd64"}); err != nil {
		t.Fatal(err)
	}
	if b.store, err = store.Open(filepath.Join(dir, "store")); err != nil {
		t.Fatal(err)
	}
	b.recipe = &recipe.Recipe{Name: "sql"}
	b.recipe.VM.Memory, b.recipe.VM.CPUs, b.recipe.VM.Data = 256<<20, 1, 64<<20
	blob, _, err := b.store.Put(t.Context(), strings.NewReader("blob"), "")
	if err != nil {
		t.Fatal(err)
	}

	other, err := lock.Open(b.lockPath)
	if err != nil {
		t.Fatal(err)
	}
	changed := other.Lock()
	changed.SourceDate = 2
	if err := other.Save(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	if err := b.writeBundle(t.Context(), builtKernel{Image: blob, Config: blob}, &builtRoot{Disk: blob, Initramfs: blob, Hash: strings.Repeat("0", 64)}); err != nil {
		t.Fatal(err)
	}
	m, err := bundle.Load(b.result.Bundle)
	if err != nil {
		t.Fatal(err)
	}
	if m.Lock.Digest != store.FromBytes(used).String() {
		t.Errorf("the manifest names the lock %s, want %s", m.Lock.Digest, store.FromBytes(used))
	}
}
