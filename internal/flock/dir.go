package flock

import (
	"context"
	"errors"
	"os"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// AcquireDir waits for the exclusive lock of a directory itself until ctx
// ends, for directories in which no lock file may lie. Errors are those of
// Acquire; on a file system that cannot lock directories they are
// unix.ENOTSUP, or unix.EBADF on NFS.
func AcquireDir(ctx context.Context, path string) (*Lock, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	l := &Lock{f}
	if err := l.Wait(ctx, Exclusive); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}
