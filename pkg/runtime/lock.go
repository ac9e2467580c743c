package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// lockPoll is the pause between two tries for a lock: flock(2) itself cannot
// be given up on without a signal.
const lockPoll = 20 * time.Millisecond

// lock takes the advisory lock of an instance, waiting for it until ctx ends.
// The kernel gives it back however this program ends. Lock files stay: one
// that is removed could be locked twice.
func (r *Runtime) lock(ctx context.Context, name string) (unlock func(), err error) {
	unlock, err = lockFile(ctx, filepath.Join(r.dir, "locks", name))
	if err != nil {
		return nil, fault.Wrap(fault.Environment, fmt.Errorf("waiting for another command on %s: %w", name, err))
	}
	return unlock, nil
}

func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, fault.Wrap(fault.Environment, errors.Join(&os.PathError{Op: "flock", Path: path, Err: err}, f.Close()))
		}
		if err := sleep(ctx, lockPoll); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
}

// sleep waits, or returns why ctx ended.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
