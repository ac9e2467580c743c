package initd

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeFileSystem counts what is done to it.
type fakeFileSystem struct {
	mu     sync.Mutex
	frozen bool
	done   []string
	stuck  int // thaws that fail
}

func (f *fakeFileSystem) freezer() *freezer {
	return &freezer{note: func(string, ...any) {}, changed: func() {},
		freeze: func(mount string) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.frozen = true
			f.done = append(f.done, "freeze "+mount)
			return nil
		},
		thaw: func(mount string) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.done = append(f.done, "thaw "+mount)
			if f.stuck > 0 {
				f.stuck--
				return errors.New("thaw: input/output error")
			}
			f.frozen = false
			return nil
		}}
}

func (f *fakeFileSystem) isFrozen() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.frozen
}

func TestFreezeEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := &fakeFileSystem{stuck: 2}
		f := fs.freezer()
		freeze := func() {
			t.Helper()
			if err := f.Freeze("/data", 10*time.Second); err != nil {
				t.Fatal(err)
			}
		}
		freeze()
		time.Sleep(9 * time.Second) // of the bubble's clock
		freeze()                    // for longer
		time.Sleep(9 * time.Second)
		if synctest.Wait(); !fs.isFrozen() || !f.frozen.Load() {
			t.Error("it was thawed by the first freeze's time")
		}
		time.Sleep(time.Second + 3*thawRetry)
		if synctest.Wait(); fs.isFrozen() || f.frozen.Load() {
			t.Error("it is not thawed in spite of new attempts")
		}
		if want := []string{"freeze /data", "freeze /data", "thaw /data", "thaw /data", "thaw /data"}; !slices.Equal(fs.done, want) {
			t.Errorf("done: %q", fs.done)
		}
		freeze()
		if err := f.Thaw(); err != nil || fs.isFrozen() {
			t.Errorf("thawed: %v, %v", !fs.isFrozen(), err)
		}
		freeze()
		if err := f.Close(); err != nil || fs.isFrozen() {
			t.Errorf("closed: %v, %v", !fs.isFrozen(), err)
		}
		if err := f.Freeze("/data", time.Minute); !errors.Is(err, errStopping) || fs.isFrozen() {
			t.Errorf("a freeze of what is being shut down: %v", err)
		}
	})
}

// A timer that has fired while the freeze was being extended is out of date.
func TestFreezeIsExtendedAtTheLastMoment(t *testing.T) {
	fs := &fakeFileSystem{}
	f := fs.freezer()
	for range 2 {
		if err := f.Freeze("/data", time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	f.expire(f.generation - 1)
	if !fs.isFrozen() || !f.frozen.Load() {
		t.Error("it was thawed")
	}
	f.expire(f.generation)
	if fs.isFrozen() || f.frozen.Load() {
		t.Error("it was not thawed at its time")
	}
}
