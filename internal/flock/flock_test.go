package flock

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := Acquire(t.Context(), path, Exclusive)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	for _, mode := range []Mode{Shared, Exclusive} {
		if held, err := second.Try(mode); held || err != nil {
			t.Errorf("held twice: %v, %v", held, err)
		}
	}
	if held, err := first.Try(Shared); !held || err != nil {
		t.Errorf("to shared: %v, %v", held, err)
	}
	if held, err := second.Try(Shared); !held || err != nil {
		t.Errorf("two shared: %v, %v", held, err)
	}

	why := errors.New("no patience")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if err := second.Wait(ctx, Exclusive); !errors.Is(err, why) {
		t.Errorf("waiting ended with %v", err)
	}

	got := make(chan error)
	go func() { got <- second.Wait(t.Context(), Exclusive) }()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Errorf("after it was given back: %v", err)
	}
}

func TestOpenFails(t *testing.T) {
	_, err := Acquire(t.Context(), filepath.Join(t.TempDir(), "absent", "lock"), Exclusive)
	if fault.ClassOf(err) != fault.Environment {
		t.Errorf("no directory: %v", err)
	}
}

// A directory that is replaced while somebody waits for its lock: the new one
// is what gets locked.
func TestAcquireDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	never := func() { t.Error("it waits for a lock that nobody has") }
	old, err := AcquireDir(t.Context(), dir, Exclusive, never)
	if err != nil {
		t.Fatal(err)
	}
	got, waits := make(chan *Lock), make(chan struct{})
	go func() {
		l, err := AcquireDir(t.Context(), dir, Exclusive, func() { close(waits) })
		if err != nil {
			t.Error(err)
		}
		got <- l
	}()
	<-waits
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	l := <-got
	if l == nil {
		t.Fatal("no lock")
	}
	defer l.Close()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if held, err := Try(f, Exclusive); held || err != nil {
		t.Errorf("the directory that stands there is not locked: %v", err)
	}
	if _, err := AcquireDir(t.Context(), filepath.Join(dir, "absent"), Exclusive, never); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}
