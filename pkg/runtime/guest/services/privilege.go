package services

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/proc"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

// capabilities is the set of those with the names, which Check has seen.
func capabilities(names []string) (set proc.CapabilitySet) {
	for _, name := range names {
		if n, ok := spec.Capability(name); ok {
			set = set.With(n)
		}
	}
	return set
}

// openDevices lets the account's group open device files. Those that are not
// there are left out: a kernel without TUN has no /dev/net/tun, and tailscaled
// does without. Only root makes files in /dev, so that a path leads where it
// says.
func openDevices(paths []string, a account) error {
	for _, path := range paths {
		if err := openDevice(path, a); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("device %s: %w", path, err)
		}
	}
	return nil
}

func openDevice(path string, a account) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFCHR && kind != unix.S_IFBLK {
		return errors.New("not a device file")
	}
	if err := unix.Fchownat(fd, "", int(st.Uid), a.gid, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("group: %w", err)
	}
	// fchmod(2) wants a file that was opened, and to open some devices does
	// something already.
	if err := unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), st.Mode&0o777|0o660); err != nil {
		return fmt.Errorf("mode: %w", err)
	}
	return nil
}
