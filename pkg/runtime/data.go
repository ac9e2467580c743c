package runtime

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// minFree is the room that must be left where the data disk lies. The image is
// sparse, so that a full file system shows only when the guest writes: the
// hypervisor then stops the machine until there is room.
const minFree = 64 << 20

// ensureData makes the data disk when there is none: blank, sparse, of the
// manifest's size. One that exists is never replaced and never truncated,
// whatever its size; the guest formats only what is blank.
func (i *Instance) ensureData() error {
	path := filepath.Join(i.dir, dataFile)
	if err := roomAt(i.dir, path); err != nil {
		return err
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fault.Wrap(fault.Environment, err)
	case !info.Mode().IsRegular():
		return fault.Errorf(fault.Environment, "the data disk %s is not a regular file", path).Hintf("put the image back, or a link to it")
	case info.Size() > 0:
		return nil
		// An empty file is what a power cut left between creation and growth.
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	if err := errors.Join(f.Truncate(i.manifest.VM.Data.Size), f.Sync(), f.Close()); err != nil {
		return fault.Errorf(fault.Environment, "making the data disk %s of %d bytes: %w", path, i.manifest.VM.Data.Size, err).
			Hintf("use a file system that has room for it: set XDG_STATE_HOME")
	}
	return nil
}

// roomAt checks the file system of the data disk, which may be a link to
// another.
func roomAt(dir, path string) error {
	var st unix.Statfs_t
	err := unix.Statfs(path, &st)
	if errors.Is(err, unix.ENOENT) {
		path = dir
		err = unix.Statfs(dir, &st)
	}
	if err != nil {
		return fault.Wrap(fault.Environment, &fs.PathError{Op: "statfs", Path: path, Err: err})
	}
	if free := st.Bavail * uint64(st.Bsize); free < minFree {
		return fault.Errorf(fault.Environment, "the file system of %s is full: %d MiB are free, and the data disk needs %d to begin with",
			path, free>>20, minFree>>20).Hintf("make room there, or set XDG_STATE_HOME to a larger file system")
	}
	return nil
}
