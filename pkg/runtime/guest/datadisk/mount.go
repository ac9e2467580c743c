package datadisk

import (
	"fmt"
	"io"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Ioctls of <linux/fs.h> and fs/ext4/ext4.h; x/sys/unix does not have them.
const (
	fiFreeze        = 0xc0045877 // _IOWR('X', 119, int)
	fiThaw          = 0xc0045878 // _IOWR('X', 120, int)
	ext4IocResizeFS = 0x40086610 // _IOW('f', 16, __u64)
	unmountPause    = 20 * time.Millisecond
	growAtLeast     = 4 * mib // smaller rests are not worth a resize
	// readAhead is how far the kernel reads ahead of a program that reads a file
	// in order, in bytes. Its own default is 128 KiB, with which a scan through
	// bounce buffers is slower; the figures are in docs/reliability.md.
	readAhead = mib
)

// A FileSystem is mounted, and nowhere to be seen until it is attached.
type FileSystem struct {
	device string
	fd     int // of the mount
}

// Mount mounts the file system of device.
func Mount(device string) (*FileSystem, error) {
	fd, err := mount(device)
	if err != nil {
		return nil, fmt.Errorf("data disk %s: mount: %w: the kernel log has the reason; no service is started without its data", device, err)
	}
	return &FileSystem{device, fd}, nil
}

func mount(device string) (int, error) {
	if err := setReadAhead(device); err != nil {
		return -1, fmt.Errorf("readahead: %w", err)
	}
	fs, err := unix.Fsopen("ext4", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs) //nolint:errcheck // the mount holds what it needs
	for _, option := range []struct{ key, value string }{{"source", device}, {"errors", "remount-ro"}} {
		if err := unix.FsconfigSetString(fs, option.key, option.value); err != nil {
			return -1, fmt.Errorf("%s: %w", option.key, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOATIME|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
}

// setReadAhead says how far to read ahead on a disk, for all its files.
func setReadAhead(device string) error {
	f, err := os.Open(device)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.IoctlSetInt(int(f.Fd()), unix.BLKRASET, readAhead/512) // in sectors
}

// Device is the disk's device.
func (f *FileSystem) Device() string { return f.device }

// Attach shows the file system at dir, which is part of the image.
func (f *FileSystem) Attach(dir string) error {
	if err := unix.MoveMount(f.fd, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("data disk %s: attach at %s: %w", f.device, dir, err)
	}
	return nil
}

// Close lets go of the file system: one that was not attached is unmounted.
func (f *FileSystem) Close() error { return unix.Close(f.fd) }

// Grow makes the file system mounted at dir fill its disk but for the reserve;
// it returns the new size in bytes, 0 for no change. The kernel does it online
// and journaled, so that a power cut is harmless; it is what resize2fs asks it
// for.
func Grow(device, dir string) (int64, error) {
	n, err := grow(device, dir)
	if err != nil {
		return 0, fmt.Errorf("data disk %s: grow: %w", device, err)
	}
	return n, nil
}

func grow(device, dir string) (int64, error) {
	f, err := os.Open(device)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	sb := make([]byte, 1024)
	if _, err := f.ReadAt(sb, 1024); err != nil {
		return 0, err
	}
	have, ok := ext4Size(sb)
	want := (size - reserve) / block * block
	if !ok || want-have < growAtLeast {
		return 0, nil
	}
	root, err := os.Open(dir)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	blocks := uint64(want / block)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, root.Fd(), ext4IocResizeFS, uintptr(unsafe.Pointer(&blocks)))
	if errno != 0 {
		return 0, errno
	}
	return want, nil
}

// Freeze stops writes to the file system at dir and brings it into a clean
// state on disk (FIFREEZE); writers wait until Thaw.
func Freeze(dir string) error { return ioctlDir(dir, "freeze", fiFreeze, unix.EBUSY) }

// Thaw ends a freeze. A file system that is not frozen is no error.
func Thaw(dir string) error { return ioctlDir(dir, "thaw", fiThaw, unix.EINVAL) }

func ioctlDir(dir, what string, req uintptr, fine unix.Errno) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer f.Close()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), req, 0); errno != 0 && errno != fine {
		return fmt.Errorf("%s %s: %w", what, dir, errno)
	}
	return nil
}

// flags are those of the mount, as mount gives them.
const flags = unix.MS_NOATIME | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// ReadOnly has nothing more written to the file system at dir.
func ReadOnly(dir string) error { return remount(dir, flags|unix.MS_RDONLY) }

// ReadWrite takes ReadOnly back.
func ReadWrite(dir string) error { return remount(dir, flags) }

func remount(dir string, flags uintptr) error {
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|flags, ""); err != nil {
		return fmt.Errorf("data disk: mounting %s anew: %w", dir, err)
	}
	return nil
}

// Unmount syncs and unmounts dir; it tries again while something holds it, up
// to limit, and then makes it read-only, so that the disk is clean in any case
// the kernel allows.
func Unmount(dir string, limit time.Duration) error {
	unix.Sync()
	deadline := time.Now().Add(limit)
	for {
		err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			ro := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
			if ro != nil {
				return fmt.Errorf("unmount %s: %w; read-only: %w", dir, err, ro)
			}
			return fmt.Errorf("unmount %s: %w; made read-only instead", dir, err)
		}
		time.Sleep(unmountPause)
	}
}
