package flock

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// AcquireDir waits for the exclusive lock of a directory itself until ctx
// ends, for directories in which no lock file may lie; waiting is called
// before it waits. When it returns, the directory stands at path: one that was
// removed or replaced meanwhile is not what is locked. Errors are those of
// Acquire, or Unsupported.
func AcquireDir(ctx context.Context, path string, waiting ...func()) (*Lock, error) {
	for {
		f, err := os.Open(path)
		if err != nil {
			return nil, fault.Wrap(fault.Environment, err)
		}
		l := &Lock{f}
		held, err := l.Try(Exclusive)
		if err == nil && !held {
			for _, tell := range waiting {
				tell()
			}
			err = l.Wait(ctx, Exclusive)
		}
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		same, err := StandsAt(f, path)
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		if same {
			return l, nil
		}
		if err := l.Close(); err != nil {
			return nil, fault.Wrap(fault.Environment, err)
		}
	}
}

// StandsAt tells whether an open file or directory is what path names now, and
// not one that was removed or replaced since it was opened.
func StandsAt(f *os.File, path string) (bool, error) {
	opened, err := f.Stat()
	if err != nil {
		return false, fault.Wrap(fault.Environment, err)
	}
	there, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fault.Wrap(fault.Environment, err)
	}
	return os.SameFile(opened, there), nil
}

// Unsupported tells whether an error means that the file system has no locks,
// or none of directories: for those NFS says EBADF.
func Unsupported(err error) bool {
	return errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENOLCK) || errors.Is(err, unix.EBADF)
}
