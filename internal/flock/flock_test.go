package flock

import (
	"context"
	"errors"
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

func TestAcquireDir(t *testing.T) {
	dir := t.TempDir()
	first, err := AcquireDir(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	why := errors.New("no patience")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if _, err := AcquireDir(ctx, dir); !errors.Is(err, why) {
		t.Errorf("held twice: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := AcquireDir(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left in the directory: %v, %v", entries, err)
	}
	if _, err := AcquireDir(t.Context(), filepath.Join(dir, "absent")); fault.ClassOf(err) != fault.Environment {
		t.Errorf("no directory: %v", err)
	}
}
