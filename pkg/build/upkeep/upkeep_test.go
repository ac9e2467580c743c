package upkeep

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/build/toolchain"
	"github.com/sovereign-build/sovereign/pkg/bundle"
)

func open(t *testing.T, cache string) *store.Store {
	t.Helper()
	st, err := store.Open(filepath.Join(cache, "store"))
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// age makes everything below a path old.
func age(t *testing.T, path string) {
	t.Helper()
	old := time.Now().Add(-30 * 24 * time.Hour)
	err := filepath.WalkDir(path, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chtimes(path, old, old))
	})
	if err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, st *store.Store, text string) store.Digest {
	t.Helper()
	d, _, err := st.Put(t.Context(), strings.NewReader(text), "")
	if err != nil {
		t.Fatal(err)
	}
	age(t, st.Path(d))
	return d
}

// write makes a file of ten bytes, and its directories.
func write(t *testing.T, path ...string) {
	t.Helper()
	name := filepath.Join(path...)
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte("0123456789"), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func exists(path ...string) bool {
	_, err := os.Lstat(filepath.Join(path...))
	return err == nil
}

// A lock keeps what it names now, for as long as it is there, and the image of
// its toolchain; a bundle what it consists of.
func TestRoots(t *testing.T) {
	cache, dir := t.TempDir(), t.TempDir()
	st := open(t, cache)
	source, deb := put(t, st, "source"), put(t, st, "deb")
	l := &lock.Lock{SourceDate: 1, Sources: []lock.Source{{Name: "zlib", Version: "1.3", File: "zlib-1.3.tar.gz", Digest: source, Size: 6, Mirrors: []string{"https://example.org/zlib-1.3.tar.gz"}}}}
	path := filepath.Join(dir, lock.FileName)
	if err := lock.New(path).Save(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	root := LockRoot(path, l)
	root.Digests = append(root.Digests, deb) // which an earlier state of it named
	kernel := put(t, st, "kernel")
	w, err := bundle.Create(filepath.Join(dir, "dist"))
	if err != nil {
		t.Fatal(err)
	}
	for name, role := range map[string]string{"bzImage": bundle.RoleKernel, "root.img": bundle.RoleRoot, "initramfs.cpio": bundle.RoleInitramfs} {
		if err := w.Add(t.Context(), name, role, strings.NewReader("kernel")); err != nil {
			t.Fatal(err)
		}
	}
	m, err := w.Commit(t.Context(), bundle.Manifest{
		Schema: bundle.Schema, Name: "sql", Arch: "amd64", Lock: bundle.Lock{Digest: string(source)},
		Root: bundle.Root{Serial: "root", Hash: strings.Repeat("b", 64)},
		VM:   bundle.VM{MemoryMiB: 512, CPUs: 2, Cmdline: "quiet", Data: bundle.Data{Serial: "data", Size: 8 << 30}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []store.Root{root, BundleRoot(filepath.Join(dir, "dist"), m)} {
		if err := st.AddRoot(r); err != nil {
			t.Fatal(err)
		}
	}
	loaded, err := lock.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	key, err := toolchain.Key(loaded.Toolchain, loaded.SourceDate)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{key, "0123456789abcdef"} {
		for _, file := range []string{"/index.json", ".log", ".checked"} {
			write(t, cache, "toolchain", k+file)
		}
	}
	write(t, cache, "toolchain", "lock")
	age(t, filepath.Join(cache, "toolchain"))
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}

	st = open(t, cache)
	r, err := Collect(t.Context(), st, cache, Options{})
	if err != nil || r.Busy || r.Store.Removed.Blobs != 1 || !st.Has(source) || !st.Has(kernel) || st.Has(deb) {
		t.Errorf("%+v, %v", r, err)
	}
	for _, file := range []string{key + "/index.json", key + ".log", key + ".checked", "lock"} {
		if !exists(cache, "toolchain", file) {
			t.Errorf("toolchain/%s is gone", file)
		}
	}
	if left, err := filepath.Glob(filepath.Join(cache, "toolchain", "0123*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}

	// Damage says what it is, in the words of the lock.
	if err := errors.Join(os.Chmod(st.Path(source), 0o644), os.WriteFile(st.Path(source), []byte("Source"), 0o644)); err != nil {
		t.Fatal(err)
	}
	v, err := Verify(t.Context(), st, store.VerifyOptions{})
	if err != nil || len(v.Damaged) != 1 || len(v.Damaged[0].Uses) != 1 || v.Damaged[0].Uses[0] != "zlib 1.3 in "+path {
		t.Errorf("%+v, %v", v, err)
	}

	// A lock that is being edited keeps what it named; one that is gone nothing.
	var notes []string
	o := Options{Note: func(line string) { notes = append(notes, line) }}
	for i, harm := range []func() error{
		func() error { return os.WriteFile(path, []byte("{"), 0o644) },
		func() error { return os.RemoveAll(dir) },
	} {
		if err := errors.Join(harm(), st.Close()); err != nil {
			t.Fatal(err)
		}
		st = open(t, cache)
		age(t, st.Dir())
		if _, err := Collect(t.Context(), st, cache, o); err != nil {
			t.Error(err)
		}
		if there := exists(st.Path(source)); there != (i == 0) {
			t.Errorf("%d: there %v", i, there)
		}
	}
	if len(notes) != 1 || !strings.Contains(notes[0], path) {
		t.Errorf("notes: %q", notes)
	}
}

func TestParts(t *testing.T) {
	cache := t.TempDir()
	st := open(t, cache)
	for _, name := range partNames {
		write(t, cache, name, "old.log")
		write(t, cache, name, "old-dir", "a", "b")
		write(t, cache, name, "a.lock")
	}
	write(t, cache, "engine", "buildkit", "x")
	age(t, cache)
	for _, name := range partNames {
		write(t, cache, name, "used.log")
		write(t, cache, name, "used-dir", "a", "b")
	}
	o := Options{OlderThan: 24 * time.Hour, DryRun: true}
	would, err := Collect(t.Context(), st, cache, o)
	if err != nil || len(would.Parts) != len(partNames) || would.Before != int64(len(partNames)*40) || would.Removed != int64(len(partNames)*20) || would.After != would.Before-would.Removed {
		t.Errorf("%+v, %v", would, err)
	}

	// A build that goes on may use any of it.
	other := open(t, cache)
	o.DryRun = false
	if r, err := Collect(t.Context(), st, cache, o); err != nil || !r.Busy || len(r.Parts) != 0 {
		t.Errorf("beside a build: %+v, %v", r, err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	did, err := Collect(t.Context(), st, cache, o)
	would.DryRun = false
	if err != nil || fmt.Sprint(did) != fmt.Sprint(would) {
		t.Errorf("did %+v, %v; would %+v", did, err, would)
	}
	for _, name := range partNames {
		for file, want := range map[string]bool{"old.log": false, "old-dir": false, "used.log": true, "used-dir/a/b": true, "a.lock": true} {
			if exists(cache, name, file) != want {
				t.Errorf("%s/%s: there %v", name, file, !want)
			}
		}
	}
	if !exists(cache, "engine", "buildkit", "x") {
		t.Error("the engine's cache was touched")
	}
}
