package runtime

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/sovereign-build/sovereign/internal/flock"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// lockPoll is the pause between two looks at what another program has.
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
	l, err := flock.Acquire(ctx, path, flock.Exclusive)
	if err != nil {
		return nil, err
	}
	return func() { l.Close() }, nil
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
