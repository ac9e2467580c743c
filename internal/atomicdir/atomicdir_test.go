package atomicdir

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/sovereign-build/sovereign/internal/flock"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

func anything(string) error { return nil }

// put makes a directory with one file at place.
func put(t *testing.T, place, text string) {
	t.Helper()
	d, err := Create(place, anything)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.Path, "f"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := d.Abort(); err != nil {
		t.Errorf("abort after commit: %v", err)
	}
}

// alone fails if something is beside place, or place does not hold text.
func alone(t *testing.T, place, text string) {
	t.Helper()
	if b, err := os.ReadFile(filepath.Join(place, "f")); err != nil || string(b) != text {
		t.Errorf("%s holds %q, %v, want %q", place, b, err, text)
	}
	if entries, err := os.ReadDir(filepath.Dir(place)); err != nil || len(entries) != 1 {
		t.Errorf("beside %s: %v, %v", place, entries, err)
	}
}

func TestReplace(t *testing.T) {
	place := filepath.Join(t.TempDir(), "parent", "d")
	put(t, place, "one")
	alone(t, place, "one")
	put(t, place, "two")
	alone(t, place, "two")
	if info, err := os.Stat(place); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", info.Mode(), err)
	}

	d, err := Create(place, anything)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Abort(); err != nil {
		t.Error(err)
	}
	if err := d.Commit(); err == nil {
		t.Error("committed after abort")
	}
	alone(t, place, "two")
}

func TestNotReplaceable(t *testing.T) {
	place := filepath.Join(t.TempDir(), "d")
	put(t, place, "one")
	mine := errors.New("mine")
	if _, err := Create(place, func(string) error { return mine }); err != mine {
		t.Errorf("at the beginning: %v", err)
	}
	asked := 0
	d, err := Create(place, func(string) error {
		if asked++; asked > 1 {
			return mine
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Commit(); err != mine {
		t.Errorf("at the end: %v", err)
	}
	if err := d.Abort(); err != nil {
		t.Error(err)
	}
	alone(t, place, "one")
	file := filepath.Join(place, "f", "d")
	if _, err := Create(file, anything); fault.ClassOf(err) != fault.Environment {
		t.Errorf("below a file: %v", err)
	}
}

// What a killed process left is removed, what a living one makes is not.
func TestDead(t *testing.T) {
	place := filepath.Join(t.TempDir(), "d")
	dead := filepath.Join(filepath.Dir(place), prefix("d")+"1")
	if err := os.MkdirAll(filepath.Join(dead, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	first, err := Create(place, anything)
	if err != nil {
		t.Fatal(err)
	}
	put(t, place, "second")
	if _, err := os.Stat(dead); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the dead one: %v", err)
	}
	if err := os.WriteFile(filepath.Join(first.Path, "f"), []byte("first"), 0o600); err != nil {
		t.Fatalf("the living one: %v", err)
	}
	if err := first.Commit(); err != nil {
		t.Fatal(err)
	}
	alone(t, place, "first")
}

// Another process that looks for the dead meets a directory that is made and
// not locked yet, and takes its lock or removes it: it is made again.
func TestTakenForDead(t *testing.T) {
	for name, take := range map[string]func(path string) (release func() error, err error){
		"locked": func(path string) (func() error, error) {
			l, err := flock.AcquireDir(t.Context(), path)
			return l.Close, err
		},
		"removed": func(path string) (func() error, error) { return func() error { return nil }, os.Remove(path) },
	} {
		t.Run(name, func(t *testing.T) {
			place := filepath.Join(t.TempDir(), "d")
			var taken string
			release := func() error { return nil }
			t.Cleanup(func() { created = func(string) {} })
			created = func(path string) {
				if taken == "" {
					taken = path
					var err error
					if release, err = take(path); err != nil {
						t.Error(err)
					}
				}
			}
			d, err := Create(place, anything)
			if err != nil {
				t.Fatal(err)
			}
			if d.Path == taken {
				t.Error("it writes into a directory that another removes")
			}
			if err := errors.Join(os.RemoveAll(taken), release()); err != nil {
				t.Error(err)
			}
			if err := d.Commit(); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(place); err != nil {
				t.Error(err)
			}
		})
	}
}
