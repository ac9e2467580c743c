package initd

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// thawRetry is the pause after a thaw by itself that failed.
const thawRetry = time.Second

// errStopping refuses what would hold up the end of the machine, and ends the
// start of one that is to go off.
var errStopping = errors.New("the machine is shutting down")

// A freezer freezes a file system for a time. Its methods may be called from
// several goroutines.
type freezer struct {
	freeze, thaw func(mount string) error
	note         func(format string, args ...any)
	changed      func() // it is frozen, or not any more

	frozen atomic.Bool // for those who must not wait for a turn

	turn       sync.Mutex // held while the file system is frozen or thawed
	closed     bool
	mount      string
	timer      *time.Timer
	generation int // of timer: one that has already fired may be out of date
}

// Freeze freezes the file system, or goes on with it, for limit from now.
func (f *freezer) Freeze(mount string, limit time.Duration) error {
	f.turn.Lock()
	defer f.turn.Unlock()
	if f.closed {
		return errStopping
	}
	if err := f.freeze(mount); err != nil {
		return err
	}
	f.mount = mount
	f.frozen.Store(true)
	f.changed()
	f.arm(limit)
	return nil
}

// Thaw thaws the file system, if it is frozen.
func (f *freezer) Thaw() error {
	f.turn.Lock()
	defer f.turn.Unlock()
	return f.end()
}

// Close thaws the file system for good.
func (f *freezer) Close() error {
	f.turn.Lock()
	defer f.turn.Unlock()
	f.closed = true
	return f.end()
}

// arm has the file system thawed after d, in place of an earlier time.
func (f *freezer) arm(d time.Duration) {
	f.disarm()
	generation := f.generation
	f.timer = time.AfterFunc(d, func() { f.expire(generation) })
}

func (f *freezer) disarm() {
	if f.timer != nil {
		f.timer.Stop()
	}
	f.generation++
}

// expire thaws when nobody did in time; it does not give up.
func (f *freezer) expire(generation int) {
	f.turn.Lock()
	defer f.turn.Unlock()
	if generation != f.generation {
		return // it was frozen for longer, or thawed, when the timer had just fired
	}
	f.note("data disk: nobody thawed it in time")
	if err := f.end(); err != nil {
		f.note("%v", err)
		f.arm(thawRetry)
	}
}

func (f *freezer) end() error {
	if !f.frozen.Load() {
		return nil
	}
	if err := f.thaw(f.mount); err != nil {
		return err
	}
	f.disarm()
	f.frozen.Store(false)
	f.changed()
	return nil
}
