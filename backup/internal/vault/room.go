package vault

import (
	"errors"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// reserve is what must stay free where a disk is restored, in bytes.
const reserve = 64 << 20

// roomFor sees whether a disk's content fits before any of it is fetched.
func roomFor(path string, need int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &st); err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	if free := int64(st.Bavail) * int64(st.Bsize); free < need+reserve {
		return fault.Errorf(fault.Environment, "the file system of %s is full: %d MiB are free, and the disk needs %d", filepath.Dir(path), free>>20, (need+reserve)>>20).
			Hintf("make room there")
	}
	return nil
}

// diskError is that of writing a file of this machine.
func diskError(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fault.Errorf(fault.Environment, "the disk is full: %w", err).Hintf("make room there")
	}
	return fault.Wrap(fault.Environment, err)
}
