// Package atomicdir replaces directories whole, as package atomicfile does
// files: they are made under a hidden name beside their place and put there by
// one rename, which swaps them with what stood there. A reader, or a machine
// that loses its power, finds the old directory or the new one.
//
// Each directory that is being made is locked. What a process that was killed
// left of one is removed by the next that makes the same.
//
// Errors are of class fault.Environment, unless they are the caller's.
package atomicdir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/flock"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Dir is a directory that is being made. One of Commit and Abort ends it.
type Dir struct {
	// Path is where it is made. Whoever fills it syncs its files and the
	// directories in it; Commit syncs itself only.
	Path string

	place       string
	replaceable func(place string) error
	lock        *os.File // of Path, held open; nil when it is over
}

// Create begins the directory that is to stand at place, and makes the parents
// of that. replaceable says by an error what of the things that may be at
// place must stay; it is asked now and at the end.
func Create(place string, replaceable func(place string) error) (*Dir, error) {
	place, err := filepath.Abs(place)
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	if err := replaceable(place); err != nil {
		return nil, err
	}
	parent, base := filepath.Split(place)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	if err := removeDead(parent, prefix(base)); err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	path, lock, err := create(parent, prefix(base))
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	return &Dir{Path: path, place: place, replaceable: replaceable, lock: lock}, nil
}

// Commit puts the directory in its place. When it returns without an error,
// it is there and on the disk. Otherwise Abort is due.
func (d *Dir) Commit() error {
	if d.lock == nil {
		return fault.Wrap(fault.Environment, os.ErrClosed)
	}
	if err := d.lock.Sync(); err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	replaced, err := d.put()
	if err != nil {
		return err
	}
	err = atomicfile.SyncDir(filepath.Dir(d.place))
	if replaced {
		err = errors.Join(err, os.RemoveAll(d.Path)) // what stood there
	}
	err = errors.Join(err, d.lock.Close())
	d.lock = nil
	return fault.Wrap(fault.Environment, err)
}

// put renames, and tells whether something stood there that is now at Path.
func (d *Dir) put() (replaced bool, err error) {
	err = unix.Renameat2(unix.AT_FDCWD, d.Path, unix.AT_FDCWD, d.place, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) {
		if err := d.replaceable(d.place); err != nil {
			return false, err
		}
		replaced = true
		err = unix.Renameat2(unix.AT_FDCWD, d.Path, unix.AT_FDCWD, d.place, unix.RENAME_EXCHANGE)
	}
	if err != nil {
		return false, fault.Errorf(fault.Environment, "putting %s in its place: %w", d.place, err)
	}
	return replaced, nil
}

// Abort removes what was made. After Commit it does nothing.
func (d *Dir) Abort() error {
	if d.lock == nil {
		return nil
	}
	err := errors.Join(os.RemoveAll(d.Path), d.lock.Close())
	d.lock = nil
	return fault.Wrap(fault.Environment, err)
}

// prefix begins the name of every directory in which base is made.
func prefix(base string) string { return "." + base + ".partial-" }

// create makes a directory and locks it. Another process may take it for dead
// between the two, and remove it: then it is made again.
func create(parent, prefix string) (string, *os.File, error) {
	for {
		path, err := os.MkdirTemp(parent, prefix+"*")
		if err != nil {
			return "", nil, err
		}
		created(path)
		f, err := lockDir(path)
		if err == nil {
			// MkdirTemp makes 0700, and the directory is there to be read.
			if err = f.Chmod(0o755); err == nil {
				return path, f, nil
			}
			err = errors.Join(err, f.Close())
		} else if errors.Is(err, errGone) {
			continue
		}
		return "", nil, errors.Join(err, os.RemoveAll(path))
	}
}

// created is called between the making of a directory and its locking.
var created = func(path string) {}

// errGone is the error of lockDir for a directory that another process holds
// or has removed.
var errGone = errors.New("the directory is another process's")

// lockDir opens a directory and takes its lock, which the kernel gives back
// however the process ends. Where the file system has no locks, it is not
// locked.
func lockDir(path string) (*os.File, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errGone
	}
	if err != nil {
		return nil, err
	}
	held, err := flock.Try(f, flock.Exclusive)
	if flock.Unsupported(err) {
		return f, nil
	}
	if err == nil && held {
		held, err = flock.StandsAt(f, path)
	}
	if err == nil && held {
		return f, nil
	}
	if err == nil {
		err = errGone
	}
	return nil, errors.Join(err, f.Close())
}

// removeDead removes the directories with the prefix that no living process
// holds. On a file system without locks none can be told dead.
func removeDead(parent, prefix string) error {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), prefix) {
			continue
		}
		path := filepath.Join(parent, e.Name())
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		held, err := flock.Try(f, flock.Exclusive)
		switch {
		case flock.Unsupported(err):
			err = nil
		case err == nil && held:
			err = os.RemoveAll(path)
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}
