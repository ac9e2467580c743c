package bundle

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// replaceable says whether a bundle may take the place of what is at dir.
func replaceable(dir string) error {
	info, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	const hint = "name another output directory, or move this one away"
	if !info.IsDir() {
		return fault.Errorf(fault.Usage, "%s is not a directory and will not be replaced by a bundle", dir).Hintf(hint)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	if len(entries) == 0 {
		return nil
	}
	if _, err := os.Lstat(filepath.Join(dir, ManifestFile)); err != nil {
		return fault.Errorf(fault.Usage, "%s holds files and no %s: it will not be replaced by a bundle", dir, ManifestFile).Hintf(hint)
	}
	return nil
}

// tempPrefix begins the name of every directory in which the bundle base is
// made.
func tempPrefix(base string) string { return "." + base + ".partial-" }

// lockDir opens a directory and takes its advisory lock, which the kernel
// gives back however the process ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(&fs.PathError{Op: "flock", Path: dir, Err: err}, f.Close())
	}
	return f, nil
}

// removeDead removes the directories with the prefix that no living process
// holds locked.
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
		lock, err := lockDir(path)
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := errors.Join(os.RemoveAll(path), lock.Close()); err != nil {
			return err
		}
	}
	return nil
}
