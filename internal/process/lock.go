package process

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// wholeFile is a lock of everything in a file. One of an open file description
// (F_OFD_SETLK) is handed down with the file, lasts until the last process with
// it has ended, and can be asked for without being taken.
func wholeFile() *unix.Flock_t { return &unix.Flock_t{Type: unix.F_WRLCK} }

// hold makes and locks a file.
func hold(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, wholeFile())
	if err == nil {
		return f, nil
	}
	closeErr := f.Close()
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return nil, fault.Errorf(fault.Environment, "another process has %s locked: the machine runs already", path).
			Hintf("find it with fuser %s", path)
	}
	return nil, fault.Wrap(fault.Environment, errors.Join(&fs.PathError{Op: "lock", Path: path, Err: err}, closeErr))
}

// Holder returns the process that was started with the lock of a file: of those
// that have it open, the oldest; ok is false where none has. It is for a program
// that listens nowhere; of other users' processes nothing is seen.
func Holder(path string) (p Process, ok bool, err error) {
	locked, err := Locked(path)
	if err != nil || !locked {
		return p, false, err
	}
	path, err = filepath.EvalSymlinks(path)
	if err != nil {
		return p, false, fault.Wrap(fault.Environment, err)
	}
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return p, false, fault.Wrap(fault.Environment, err)
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err != nil || target != path {
			continue // not this one, another user's, or gone
		}
		pid, err := strconv.Atoi(strings.Split(link, "/")[2])
		if err != nil {
			continue
		}
		one, alive, err := running(pid)
		if err != nil {
			return p, false, err
		}
		if alive && (!ok || one.Start < p.Start || one.Start == p.Start && one.PID < p.PID) {
			p, ok = one, true
		}
	}
	return p, ok, nil
}

// Locked says whether a process has the lock of a file, which need not be
// there.
func Locked(path string) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fault.Wrap(fault.Environment, err)
	}
	defer f.Close()
	lock := wholeFile()
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, lock); err != nil {
		return false, fault.Wrap(fault.Environment, &fs.PathError{Op: "lock", Path: path, Err: err})
	}
	return lock.Type != unix.F_UNLCK, nil
}
