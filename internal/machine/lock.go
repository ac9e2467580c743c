package machine

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/sovereign-build/sovereign/internal/flock"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// lockPoll is the pause between two looks at what another process does with an
// instance.
const lockPoll = 20 * time.Millisecond

// lock takes the advisory lock of an instance, waiting for it until ctx ends.
// The kernel gives it back however this program ends.
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
	// Closing a lock file has nothing to tell: nothing was written to it.
	return func() { _ = l.Close() }, nil
}
