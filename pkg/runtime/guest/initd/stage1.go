package initd

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/blockdev"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/cmdline"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/verity"
)

// Labels of the root disk's partitions.
const (
	labelRoot   = "root"
	labelVerity = "root-verity"
)

const newRoot = "/newroot"

// stage1 runs in the initramfs: it finds the root disk, checks it, and makes
// its file system the root.
func stage1(ctx context.Context, c *console, p *phases) (cmdline.Line, error) {
	end := p.begin("early mounts")
	for _, m := range []mount{
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "", true},
		{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "", true},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755", true},
	} {
		if err := m.do(); err != nil {
			return cmdline.Line{}, err
		}
	}
	if err := openConsole(); err != nil {
		return cmdline.Line{}, err
	}
	line, err := readCmdline()
	if err != nil {
		return line, err
	}
	end()
	if line.Probe {
		c.print(cmdline.ProbeLine + "\n")
		return line, nil
	}
	if line.RootHash == nil || line.RootSerial == "" {
		return line, errors.New("kernel command line: roothash= and root.serial= are needed: take the command line of the bundle's manifest")
	}
	ctx, cancel := context.WithTimeout(ctx, deviceDeadline)
	defer cancel()
	end = p.begin("root disk")
	disk, err := blockdev.Find(ctx, blockdev.Sysfs, line.RootSerial)
	if err != nil {
		return line, fmt.Errorf("root: %w", err)
	}
	data, err := disk.Partition(ctx, labelRoot)
	if err != nil {
		return line, fmt.Errorf("root: %w", err)
	}
	hashes, err := disk.Partition(ctx, labelVerity)
	if err != nil {
		return line, fmt.Errorf("root: %w", err)
	}
	end()
	end = p.begin("verity")
	device, err := verity.Open("root", data, hashes, line.RootHash)
	if err != nil {
		return line, fmt.Errorf("root: %w", err)
	}
	end()
	c.note("root %s is verified by %s", disk.Device(), device)
	defer p.begin("switch root")()
	return line, switchRoot(device)
}

// switchRoot mounts the root and makes it this process's.
func switchRoot(device string) error {
	root := mount{device, newRoot, "erofs", unix.MS_RDONLY | unix.MS_NODEV, "", true}
	if err := root.do(); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if err := unix.Mount(dir, newRoot+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("root: move %s: %w: the image has to have that directory", dir, err)
		}
	}
	// The initramfs stays for ever. Its one large file is this program, whose
	// pages are needed.
	if err := os.Remove("/init"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("initramfs: %w", err)
	}
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
