package initd

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/blockdev"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/verity"
)

// Labels of the root disk's partitions.
const (
	labelRoot   = "root"
	labelVerity = "root-verity"
)

const newRoot = "/newroot"

// mountEarly mounts what is needed to find the root.
func mountEarly(p *phases) error {
	defer p.begin("early mounts")()
	for _, m := range []mount{
		{"proc", "/proc", "proc", safe, "", true},
		{"sysfs", "/sys", "sysfs", safe, "", true},
		{"devtmpfs", "/dev", "devtmpfs", devFlags, "mode=0755", true},
	} {
		if err := m.do(); err != nil {
			return err
		}
	}
	return openConsole()
}

// openRoot runs in the initramfs: it finds the root disk, checks it, and makes
// its file system the root.
func (g *guest) openRoot(ctx context.Context) error {
	line := g.line
	if line.RootHash == nil || line.RootSerial == "" {
		return errors.New("kernel command line: roothash= and root.serial= are needed: take the command line of the bundle's manifest")
	}
	find, cancel := context.WithTimeout(ctx, deviceDeadline)
	defer cancel()
	end := g.phases.begin("root disk")
	disk, err := blockdev.Find(find, blockdev.Sysfs, line.RootSerial)
	if err != nil {
		return fmt.Errorf("root: %w", err)
	}
	data, err := disk.Partition(find, labelRoot)
	if err != nil {
		return fmt.Errorf("root: %w", err)
	}
	hashes, err := disk.Partition(find, labelVerity)
	if err != nil {
		return fmt.Errorf("root: %w", err)
	}
	end()
	end = g.phases.begin("verity")
	device, err := verity.Open("root", data, hashes, line.RootHash)
	if err != nil {
		return fmt.Errorf("root: %w", err)
	}
	end()
	g.c.note("root %s is verified by %s", disk.Device(), device)
	defer g.phases.begin("switch root")()
	root := mount{device, newRoot, "erofs", rootFlags, "", true}
	if err := root.do(); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	close(g.verified)
	return switchRoot()
}

// switchRoot makes newRoot this process's root. Others of its threads use
// /dev, /proc and /sys meanwhile: so those are shown in both, not moved.
func switchRoot() error {
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if err := unix.Mount(dir, newRoot+dir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("root: %s: %w: the image has to have that directory", dir, err)
		}
	}
	// The initramfs stays below for ever. To remove its one large file would free
	// nothing: it is this program, which runs.
	if err := unix.Chdir(newRoot); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("root: move to /: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	return nil
}
