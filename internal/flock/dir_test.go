package flock

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// A directory that is replaced while somebody waits for its lock: the new one
// is what gets locked.
func TestAcquireDirReplaced(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	never := func() { t.Error("it waits for a lock that nobody has") }
	old, err := AcquireDir(t.Context(), dir, never)
	if err != nil {
		t.Fatal(err)
	}
	got, waits := make(chan *Lock), make(chan struct{})
	go func() {
		l, err := AcquireDir(t.Context(), dir, func() { close(waits) })
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
	if _, err := AcquireDir(t.Context(), filepath.Join(dir, "absent"), never); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}
