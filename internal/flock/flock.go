// Package flock locks files by flock(2): advisory locks between processes, and
// between two Locks of one process, that the kernel gives back however their
// holder ends.
//
// A lock file stays when its lock is given back: one that is removed could be
// held twice, under the old file and a new one of the same name.
package flock

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// poll is the pause between two tries: a waiting flock(2) knows no context.
const poll = 20 * time.Millisecond

// Mode is how a file is locked.
type Mode int

const (
	Shared    Mode = unix.LOCK_SH
	Exclusive Mode = unix.LOCK_EX
)

// Lock is a lock file, locked or not. Closing it gives the lock back.
type Lock struct{ f *os.File }

// Open opens a lock file, and makes it if it is not there, without locking it.
// Errors are of class fault.Environment.
func Open(path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	return &Lock{f}, nil
}

// Acquire opens a lock file and waits for its lock until ctx ends.
func Acquire(ctx context.Context, path string, mode Mode) (*Lock, error) {
	l, err := Open(path)
	if err != nil {
		return nil, err
	}
	if err := l.Wait(ctx, mode); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// AcquireDir locks a directory itself, waiting until ctx ends; waiting is
// called before it waits. When it returns, the directory stands at path: one
// that was removed or replaced meanwhile is not what is locked.
func AcquireDir(ctx context.Context, path string, mode Mode, waiting func()) (*Lock, error) {
	for {
		f, err := os.Open(path)
		if err != nil {
			return nil, fault.Wrap(fault.Environment, err)
		}
		l := &Lock{f}
		held, err := l.Try(mode)
		if err == nil && !held {
			waiting()
			err = l.Wait(ctx, mode)
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

// Unsupported tells whether an error means that the file system has no locks.
func Unsupported(err error) bool {
	return errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENOLCK)
}

// Try takes the lock, or changes its mode, without waiting and tells whether
// it got it.
func (l *Lock) Try(mode Mode) (bool, error) { return Try(l.f, mode) }

// Wait takes the lock, or changes its mode. It returns the cause of ctx's end,
// or an error of class fault.Environment.
func (l *Lock) Wait(ctx context.Context, mode Mode) error {
	for {
		if held, err := l.Try(mode); held || err != nil {
			return err
		}
		timer := time.NewTimer(poll)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
	}
}

// Close gives the lock back.
func (l *Lock) Close() error { return l.f.Close() }

// Try locks a file or directory that is open already, without waiting, and
// tells whether it got the lock; closing the file gives it back. On a file
// system without locks the error is one of Unsupported.
func Try(f *os.File, mode Mode) (bool, error) {
	for {
		err := unix.Flock(int(f.Fd()), int(mode)|unix.LOCK_NB)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EWOULDBLOCK):
			return false, nil
		default:
			return false, fault.Wrap(fault.Environment, &fs.PathError{Op: "flock", Path: f.Name(), Err: err})
		}
	}
}
