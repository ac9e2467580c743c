// Package atomicfile replaces small files so that a reader, or a machine that
// loses its power, sees the old content or the new and nothing between.
package atomicfile

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Write writes data to path by a temporary file beside it, fsync and rename.
// Errors are of class fault.Environment.
func Write(path string, data []byte, mode os.FileMode) error {
	err := write(path, data, mode)
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fault.Errorf(fault.Environment, "the file system of %s is full: %w", filepath.Dir(path), err).
			Hintf("make room there")
	}
	return fault.Wrap(fault.Environment, err)
}

func write(path string, data []byte, mode os.FileMode) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
