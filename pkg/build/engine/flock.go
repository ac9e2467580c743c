package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// fileLock is a flock(2) lock. It ends with its file, so a process that dies
// leaves none behind. Two fileLocks of one process exclude each other too.
type fileLock struct{ f *os.File }

func openLock(path string) (*fileLock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return &fileLock{f}, nil
}

// try takes or changes the lock without waiting and tells whether it got it.
func (l *fileLock) try(how int) (bool, error) {
	for {
		err := syscall.Flock(int(l.f.Fd()), how|syscall.LOCK_NB)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EWOULDBLOCK):
			return false, nil
		default:
			return false, fmt.Errorf("lock %s: %w", l.f.Name(), err)
		}
	}
}

// wait takes the lock, polling because flock(2) itself knows no context.
func (l *fileLock) wait(ctx context.Context, how int) error {
	var got bool
	var lockErr error
	err := until(ctx, 20*time.Millisecond, func() bool {
		got, lockErr = l.try(how)
		return got || lockErr != nil
	})
	return errors.Join(lockErr, err)
}

// close gives the lock up.
func (l *fileLock) close() error { return l.f.Close() }
