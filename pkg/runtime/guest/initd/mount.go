package initd

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// mount is one mount(2), with the making of its directory where the parent is
// writable.
type mount struct {
	source, target, fs string
	flags              uintptr
	options            string
	mkdir              bool
}

func (m mount) do() error {
	if m.mkdir {
		if err := os.Mkdir(m.target, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	err := unix.Mount(m.source, m.target, m.fs, m.flags, m.options)
	if errors.Is(err, unix.EBUSY) {
		return nil // the initramfs stage, or the kernel, was here before
	}
	if err != nil {
		return fmt.Errorf("mount %s at %s (%s): %w", m.source, m.target, m.fs, err)
	}
	return nil
}

// mountSystem mounts what programs of the root image expect.
func mountSystem(p *phases) error {
	defer p.begin("mounts")()
	// A root that the kernel has mounted itself has none of these.
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|rootFlags, ""); err != nil {
		return fmt.Errorf("mount /: read-only, nosuid, nodev: %w", err)
	}
	for _, m := range systemMounts() {
		if err := m.do(); err != nil {
			return err
		}
	}
	return nil
}

const (
	// rootFlags: no program of the image has a mode by which it gains rights,
	// and no file of it is a device.
	rootFlags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV
	// safe is for whatever can be written to: programs are in the image, and
	// who takes a service over brings none.
	safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	// devFlags: /dev is where devices are.
	devFlags = unix.MS_NOSUID | unix.MS_NOEXEC
)

// systemMounts are what programs of the root image expect. The order matters.
func systemMounts() []mount {
	return []mount{
		{"proc", "/proc", "proc", safe, "", false},
		{"sysfs", "/sys", "sysfs", safe, "", false},
		{"devtmpfs", "/dev", "devtmpfs", devFlags, "mode=0755", false},
		{"devpts", "/dev/pts", "devpts", devFlags, "mode=0620,ptmxmode=0666", true},
		{"tmpfs", "/dev/shm", "tmpfs", safe, "mode=1777", true},
		{"tmpfs", "/run", "tmpfs", safe, "mode=0755", false},
		{"tmpfs", "/tmp", "tmpfs", safe, "mode=1777", false},
		{"cgroup2", cgroupRoot, "cgroup2", safe, "", false},
	}
}

const cgroupRoot = "/sys/fs/cgroup"
