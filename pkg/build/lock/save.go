package lock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/flock"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// File is a lock file as this process last saw or wrote it, which may be an
// hour ago: saving takes in what others have changed in it since.
type File struct {
	path string
	lock *Lock // never changed; nil where there was no file
}

// Open reads the lock at path. A missing file satisfies fs.ErrNotExist.
func Open(path string) (*File, error) {
	_, l, err := read(path)
	if err != nil {
		return nil, err
	}
	return &File{path, l}, nil
}

// New is a lock file that is not there yet.
func New(path string) *File { return &File{path: path} }

// Lock is a copy of what the file says, nil for one that is not there yet.
func (f *File) Lock() *Lock {
	if f.lock == nil {
		return nil
	}
	return f.lock.Clone()
}

// Path is where the file is, or will be.
func (f *File) Path() string { return f.path }

// Save writes l, which is Lock with changes, whole or not at all. Where
// another process has changed the file meanwhile, both changes are kept: each
// source is a part of its own, and so are the toolchain, the Go toolchain, the
// date and the packages of each architecture. A part that both changed, and
// not to the same, is an error of class fault.Environment that names it, and
// nothing is written.
//
// Lock is then l, even where the file has other parts as well: it is what this
// process works with. One that says what Lock says is not written.
func (f *File) Save(ctx context.Context, l *Lock) error {
	text, err := l.Marshal()
	if err != nil {
		return err
	}
	ours, err := Parse(f.path, text)
	if err != nil {
		return fault.Wrap(fault.Internal, err)
	}
	if f.lock != nil {
		if was, err := f.lock.Marshal(); err == nil && bytes.Equal(was, text) {
			return nil
		}
	}
	held, err := flock.AcquireDir(ctx, filepath.Dir(f.path))
	switch {
	case err == nil:
		defer held.Close() // only read
	case errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.EBADF), errors.Is(err, unix.ENOLCK):
		// Without locks the comparison below still finds all that was changed
		// before this moment.
	default:
		return fmt.Errorf("saving %s: %w", f.path, err)
	}
	found, theirs, err := read(f.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	merged := ours
	if theirs != nil || f.lock != nil {
		if theirs == nil {
			return changedMeanwhile(f.path, "has removed it")
		}
		var conflicts []string
		if merged, conflicts = merge(f.lock, ours, theirs); len(conflicts) > 0 {
			return changedMeanwhile(f.path, "has locked "+strings.Join(conflicts, ", "))
		}
	}
	out, err := merged.Marshal()
	if err != nil {
		return err
	}
	if string(out) != string(found) {
		if err := atomicfile.Write(f.path, out, 0o644); err != nil {
			return fmt.Errorf("saving the lock: %w", err)
		}
	}
	f.lock = ours
	return nil
}

func changedMeanwhile(path, what string) error {
	return fault.Errorf(fault.Environment, "%s is not saved: meanwhile another process %s", path, what).
		Hintf("run the command again; it begins with the lock as it is now")
}
