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
