package build

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// A port is built of a directory as it was locked: after a change nothing is
// built before the change is locked, frozen or not.
func TestDirectoryAsSource(t *testing.T) {
	w := newWorld(t)
	w.write("sources.yaml", "linux:\n  debian: {suite: trixie, source: linux}\ntarball:\n  directory: ../own\n  version: \"1.0\"\n")
	w.write("../own/file", "one\n")
	relock := func(names ...string) *LockUpdate {
		t.Helper()
		file, err := lock.Open(filepath.Join(w.dir, lock.FileName))
		if err != nil {
			t.Fatal(err)
		}
		b := w.open()
		u, err := b.UpdateLock(t.Context(), names...)
		if err = errors.Join(err, file.Save(t.Context(), b.Lock()), b.Close()); err != nil {
			t.Fatal(err)
		}
		return u
	}
	var stale *StaleError
	if _, err := w.build(t.Context()); !errors.As(err, &stale) {
		t.Errorf("the lock has another kind of source: %v", err)
	}
	if u := relock(); len(u.Changes) != 1 || u.Changes[0].Name != "tarball" {
		t.Errorf("%+v", u)
	}
	if _, err := w.build(t.Context(), WithFrozenLock(true)); err != nil {
		t.Fatal(err)
	}
	w.write("../own/file", "two\n")
	if _, err := w.build(t.Context(), WithFrozenLock(true)); !errors.As(err, &stale) || !strings.Contains(err.Error(), "has changed since it was locked") {
		t.Errorf("after a change: %v", err)
	}
	relock("tarball")
	if _, err := w.build(t.Context()); err != nil || !slices.Contains(w.ran, "lib 1.0-r1") {
		t.Errorf("ran %q, %v", w.ran, err)
	}
	// What the store has lost is made of the directory again.
	l, err := lock.Load(filepath.Join(w.dir, lock.FileName))
	if err != nil {
		t.Fatal(err)
	}
	s, _ := l.Source("tarball")
	w.write("ports/lib/build.sh", "true # more\n")
	hex := s.Digest.Hex()
	if err := os.Remove(filepath.Join(w.cache, "store", "blobs", "sha256", hex[:2], hex)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.build(t.Context(), WithOffline(false)); err != nil {
		t.Errorf("made again: %v", err)
	}
}

// A frozen lock holds the toolchain's image too.
func TestFrozenToolchainImage(t *testing.T) {
	a, b := store.FromBytes([]byte("a")), store.FromBytes([]byte("b"))
	var told []Event
	open := func(frozen bool) *Builder {
		return &Builder{lock: &lock.Lock{Path: "sovereign.lock"}, opts: &options{frozen: frozen, events: func(e Event) { told = append(told, e) }}}
	}
	if err := open(true).sameImage(a, b); fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), "sovereign.lock is frozen") {
		t.Errorf("another image: %v", err)
	}
	if err := errors.Join(open(true).sameImage(a, a), open(true).sameImage(a, "")); err != nil || len(told) > 0 {
		t.Errorf("the same, or none locked: %v, %v", err, told)
	}
	if err := open(false).sameImage(a, b); err != nil || len(told) != 1 {
		t.Errorf("not frozen: %v, %v", err, told)
	}
}
