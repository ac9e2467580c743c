package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Replace writes a file whole or not at all: write fills a temporary file
// beside path, open for reading and writing, which then takes path's place. An
// error leaves nothing behind; one of the file system is of class
// fault.Environment.
func Replace(path string, write func(f *os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".disk-*")
	if err != nil {
		return environment(path, err)
	}
	err = errors.Join(fill(f, write), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return environment(path, errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}

func fill(f *os.File, write func(f *os.File) error) error {
	if err := write(f); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	return f.Sync()
}

// environment classes errors of the file system; others stay what they are.
func environment(path string, err error) error {
	err = fmt.Errorf("%s: %w", path, err)
	var file *os.PathError
	var link *os.LinkError
	if fault.ClassOf(err) == fault.Internal && (errors.As(err, &file) || errors.As(err, &link)) {
		return fault.Errorf(fault.Environment, "%w", err).Hintf("check the space and rights in %s", filepath.Dir(path))
	}
	return err
}
