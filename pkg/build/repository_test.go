package build

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

// repositoryBuilder makes a builder whose output is dir, and packages in its store.
func repositoryBuilder(t *testing.T, dir string, key *apk.SigningKey, names ...string) (*Builder, map[string]Package) {
	t.Helper()
	st, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := &Builder{opts: &options{output: dir}, arch: arch{Apk: "x86_64"}, store: st, key: key, epoch: 1}
	packages := map[string]Package{}
	for _, name := range names {
		w, err := st.Create(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		tree := rootfs.New()
		if err := tree.Add(rootfs.Regular("usr/share/"+name, 0o644, []byte(name))); err != nil {
			t.Fatal(err)
		}
		m, err := apk.Write(w, apk.Meta{Name: name, Version: "1-r0", Arch: "x86_64", License: "MIT"}, tree, nil, 1)
		if err != nil {
			t.Fatal(err)
		}
		d, _, err := w.Commit("")
		if err != nil {
			t.Fatal(err)
		}
		packages[name] = Package{Meta: m, Digest: d}
	}
	return b, packages
}

// check reads the whole repository, as assembling an image does.
func check(t *testing.T, root string, key *apk.SigningKey, packages map[string]Package) error {
	t.Helper()
	r, err := apk.OpenRepository(t.Context(), root, "x86_64", key.Keyring())
	if err != nil {
		return err
	}
	if len(r.Packages) != len(packages) {
		return fmt.Errorf("%d packages in the index, not %d", len(r.Packages), len(packages))
	}
	var errs []error
	for name := range packages {
		_, err := apk.ReadMeta(filepath.Join(root, "x86_64", packages[name].Meta.FileName()), key.Keyring())
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Packages that a user removed come back though the index is as it was, and
// those of another build go.
func TestRepositoryHeals(t *testing.T) {
	key, err := apk.GenerateKey("ours")
	if err != nil {
		t.Fatal(err)
	}
	b, packages := repositoryBuilder(t, filepath.Join(t.TempDir(), "dist"), key, "a", "b")
	write := func() string {
		t.Helper()
		if err := b.exportRepository(t.Context(), packages); err != nil {
			t.Fatal(err)
		}
		root := filepath.Join(b.opts.output, "packages")
		if err := check(t, root, key, packages); err != nil {
			t.Error(err)
		}
		return root
	}
	root := write()
	file := filepath.Join(root, "x86_64", packages["a"].Meta.FileName())
	for name, harm := range map[string]func() error{
		"removed":  func() error { return os.Remove(file) },
		"cut":      func() error { return os.Truncate(file, 10) },
		"no key":   func() error { return os.Remove(filepath.Join(root, key.Name)) },
		"one more": func() error { return os.WriteFile(filepath.Join(root, "x86_64", "c-1-r0.apk"), nil, 0o600) },
		"a link":   func() error { return errors.Join(os.Remove(file), os.Symlink("/nowhere", file)) },
	} {
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		write()
		entries, err := os.ReadDir(filepath.Join(root, "x86_64"))
		if err != nil || len(entries) != 3 {
			t.Errorf("%s: %v, %v", name, entries, err)
		}
		if _, err := os.Stat(filepath.Join(root, key.Name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}

	// What is right is left alone.
	before, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	write()
	if after, err := os.Stat(file); err != nil || !os.SameFile(before, after) {
		t.Errorf("a right package was written again: %v", err)
	}
}

// Two builds with one output directory: neither is hurt, as neither reads what
// is there, and in the end it has all that one of them made.
func TestRepositoryShared(t *testing.T) {
	key, err := apk.GenerateKey("ours")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var (
		wg       sync.WaitGroup
		packages []map[string]Package
	)
	for _, names := range [][]string{{"a", "b"}, {"a", "c", "d"}} {
		b, made := repositoryBuilder(t, dir, key, names...)
		packages = append(packages, made)
		wg.Go(func() {
			for range 20 {
				if err := b.exportRepository(t.Context(), made); err != nil {
					t.Error(err)
					return
				}
				local, err := b.portsRepository(made)
				if err != nil {
					t.Error(err)
					return
				}
				selected, err := apk.Solve(t.Context(), names, []apk.Repository{local})
				if err != nil || len(selected) != len(names) {
					t.Errorf("%v: %v, %v", names, selected, err)
					return
				}
				for _, s := range selected {
					spool, err := rootfs.NewSpool(t.TempDir())
					if err != nil {
						t.Error(err)
						return
					}
					_, err = s.Open(t.Context(), spool)
					if err := errors.Join(err, spool.Close()); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	root := filepath.Join(dir, "packages")
	if err := check(t, root, key, packages[0]); err != nil {
		if err := check(t, root, key, packages[1]); err != nil {
			t.Errorf("what is left is neither build's: %v", err)
		}
	}
}
