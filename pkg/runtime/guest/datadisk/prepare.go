package datadisk

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// Programs of the image that this package runs.
const (
	mke2fs = "/sbin/mke2fs"
	e2fsck = "/sbin/e2fsck"
)

// features are what the file system has beyond mke2fs's defaults, and one of
// those less: an orphan file lets many processors unlink open files at once, and
// every mount reads all of it, 32 blocks at least, one after the other.
const features = "metadata_csum,64bit,^orphan_file"

// A Runner runs a program to its end and returns its exit status and the tail
// of what it printed; the error is for a program that did not run or exit.
type Runner func(ctx context.Context, argv ...string) (code int, output string, err error)

// Prepare makes the file system of a disk ready for mounting: it formats a
// blank disk and checks one that has ext4. Note is told, in a few words, what
// was done. An error means that the disk was left as it is, but for a repair
// that e2fsck did by itself.
func Prepare(ctx context.Context, device string, run Runner, note func(string)) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("data disk: %w", err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("data disk %s: %w", device, err)
	}
	c, err := Inspect(f, size)
	if err != nil {
		return fmt.Errorf("data disk %s: %w", device, err)
	}
	switch c.Kind {
	case Blank, Interrupted:
		if c.Kind == Interrupted {
			note("an earlier format was interrupted: formatting again")
		}
		if err := format(ctx, f, device, size, run); err != nil {
			return fmt.Errorf("data disk %s: %w", device, err)
		}
		note(fmt.Sprintf("formatted (%d MiB)", size/mib))
		return nil
	case Ext4:
		if c.Clean {
			return nil // the kernel checks the superblock's sum when it mounts
		}
		return check(ctx, device, run, note)
	default:
		return fmt.Errorf("data disk %s holds %s, and is left alone: attach the right disk, or a blank one", device, c.What)
	}
}

func format(ctx context.Context, f *os.File, device string, size int64, run Runner) error {
	write := func(b []byte) error {
		if _, err := f.WriteAt(b, markerOffset(size)); err != nil {
			return fmt.Errorf("format marker: %w", err)
		}
		if err := f.Sync(); err != nil {
			return fmt.Errorf("format marker: %w", err)
		}
		return nil
	}
	if err := write(marker(size)); err != nil {
		return err
	}
	code, out, err := run(ctx, mke2fs, "-q", "-F", "-t", "ext4", "-b", strconv.Itoa(block), "-m", "1",
		"-L", "sovereign-data", "-O", features,
		"-E", "lazy_itable_init=1,nodiscard",
		device, strconv.FormatInt((size-reserve)/block, 10))
	if err != nil {
		return fmt.Errorf("mke2fs: %w", err)
	}
	if code != 0 {
		return fmt.Errorf("mke2fs: exit status %d: %s", code, oneLine(out))
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("after mke2fs: %w", err)
	}
	return write(make([]byte, block))
}

// check runs e2fsck -p: exit status 0 is clean, 1 repaired (e2fsck(8)).
func check(ctx context.Context, device string, run Runner, note func(string)) error {
	code, out, err := run(ctx, e2fsck, "-p", device)
	switch {
	case err != nil:
		return fmt.Errorf("data disk %s: e2fsck: %w", device, err)
	case code == 1:
		note("file system repaired: " + oneLine(out))
	case code > 1:
		return fmt.Errorf("data disk %s: its file system needs repair by hand (e2fsck -p: exit status %d: %s): copy the disk, then run e2fsck on it from another machine", device, code, oneLine(out))
	}
	return nil
}

// oneLine joins the lines of a program's output.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}
