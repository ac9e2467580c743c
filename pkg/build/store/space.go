package store

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// environment gives an input/output error its class, and a full disk its
// directory and what is free there.
func (s *Store) environment(err error) error { return FullDisk(s.dir, err) }

// FullDisk gives err the class fault.Environment and, where it is a full disk
// or an exhausted quota, says how many bytes are free in dir. It returns nil
// for nil.
func FullDisk(dir string, err error) error {
	if !fullDisk(err) {
		return fault.Wrap(fault.Environment, err)
	}
	var st unix.Statfs_t
	if serr := unix.Statfs(dir, &st); serr != nil {
		return fault.Errorf(fault.Environment, "no space left in %s: %w", dir, errors.Join(err, serr)).
			Hintf("free some space in %s and run the command again", dir)
	}
	free := uint64(st.Bavail) * uint64(st.Bsize)
	return fault.Errorf(fault.Environment, "no space left in %s (%d bytes free): %w", dir, free, err).
		Hintf("free some space in %s and run the command again", dir)
}

// fullDisk tells whether an error means that nothing more can be written.
func fullDisk(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

func crossDevice(err error) bool { return errors.Is(err, unix.EXDEV) }
