// Package atomicfile replaces files so that a reader, or a machine that loses
// its power, sees the old content or the new and nothing between: a temporary
// file beside the target, fsync, rename, fsync of the directory.
//
// A symbolic link is replaced itself, what it points to stays; a directory, a
// device or a pipe, or a link to one, is never replaced. Errors are of class
// fault.Environment, that one of class fault.Usage.
package atomicfile

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Write makes data the whole content of path.
func Write(path string, data []byte, mode os.FileMode) error {
	f, err := Create(path, mode)
	if err != nil {
		return err
	}
	defer f.Abort()
	if _, err := f.Write(data); err != nil {
		return environment(path, err)
	}
	return f.Commit()
}

// Fill makes what write puts into f, which is open for reading and writing, the
// whole content of path. An error of write is returned as it is, unless it is
// one of a file without a class.
func Fill(path string, mode os.FileMode, write func(f *os.File) error) error {
	f, err := Create(path, mode)
	if err != nil {
		return err
	}
	defer f.Abort()
	if err := write(f.File); err != nil {
		var file *fs.PathError
		if errors.As(err, &file) {
			return environment(path, err)
		}
		return err
	}
	return f.Commit()
}

// Copy makes what r gives until its end the whole content of path. An error of
// r is returned as it is.
func Copy(path string, r io.Reader, mode os.FileMode) error {
	f, err := Create(path, mode)
	if err != nil {
		return err
	}
	defer f.Abort()
	var written error
	if _, err := io.Copy(writer{f, &written}, r); err != nil {
		if written != nil {
			return environment(path, written)
		}
		return err
	}
	return f.Commit()
}

// writer keeps the error of a write apart from the reader's.
type writer struct {
	f   *File
	err *error
}

func (w writer) Write(p []byte) (int, error) {
	n, err := w.f.Write(p)
	*w.err = err
	return n, err
}

// File is a file that takes the name of its target when it is committed. Its
// methods are those of the temporary file.
type File struct {
	*os.File
	path string
	mode os.FileMode
	done bool
}

// longestStem bounds what a temporary name takes over of its target's, in
// bytes: a name that is as long as a file system allows has one too.
const longestStem = 100

// Create begins a new content for path. It lies beside path, under a name that
// begins with a dot and the name of path, until Commit or Abort.
func Create(path string, mode os.FileMode) (*File, error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fault.Errorf(fault.Usage, "%s is not a regular file and will not be replaced", path).Hintf("name a file")
	}
	stem := filepath.Base(path)
	f, err := os.CreateTemp(filepath.Dir(path), "."+stem[:min(len(stem), longestStem)]+"-*")
	if err != nil {
		return nil, environment(path, err)
	}
	return &File{File: f, path: path, mode: mode}, nil
}

// Commit closes the file and gives it its name. When it returns without an
// error, the content is on the disk under that name. Otherwise Abort is due.
func (f *File) Commit() error {
	if f.done {
		return environment(f.path, os.ErrClosed)
	}
	err := errors.Join(f.Chmod(f.mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), f.path)
	}
	if err != nil {
		return environment(f.path, err)
	}
	f.done = true
	return SyncDir(filepath.Dir(f.path))
}

// Abort drops what was not committed; after Commit it does nothing.
func (f *File) Abort() {
	if f.done {
		return
	}
	f.done = true
	// There is an error already, or nobody wants the content. What cannot be
	// removed is a file with a dot that no reader looks at.
	_ = f.Close()
	_ = os.Remove(f.Name())
}

// Rename gives a finished and synced file or directory its name.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return environment(to, err)
	}
	return SyncDir(filepath.Dir(to))
}

// Scratch makes a file without a name in dir ("" is the system's temporary
// directory): it is gone when it is closed, or the process ends.
func Scratch(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, ".sovereign-*")
	if err != nil {
		return nil, environment(filepath.Join(dir, "scratch"), err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, environment(f.Name(), errors.Join(err, f.Close()))
	}
	return f, nil
}

// SyncTree waits until a directory and all below it is on the disk.
func SyncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return fault.Wrap(fault.Environment, err)
		}
		if !d.IsDir() && !d.Type().IsRegular() {
			return nil
		}
		return sync(path)
	})
}

// SyncDir waits until the names in a directory are on the disk.
func SyncDir(dir string) error { return sync(dir) }

func sync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	return fault.Wrap(fault.Environment, errors.Join(f.Sync(), f.Close()))
}

func environment(path string, err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fault.Errorf(fault.Environment, "the file system of %s is full: %w", filepath.Dir(path), err).
			Hintf("make room there")
	}
	return fault.Wrap(fault.Environment, err)
}
