// Command init is the first program of a test machine: it mounts the file
// system on /dev/vda, says what is in it, grows it while it is mounted, writes
// to it and powers the machine off.
package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// resizeFS is EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64).
const resizeFS = 0x40086610

func main() {
	if err := run(); err != nil {
		fmt.Println("\nprobe error=" + err.Error())
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF) // PID 1 cannot do more
}

func run() error {
	for _, dir := range []string{"/dev", "/mnt"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("dev", "/dev", "devtmpfs", 0, ""); err != nil && err != unix.EBUSY {
		return fmt.Errorf("devtmpfs: %w", err)
	}
	if err := unix.Mount("/dev/vda", "/mnt", "ext4", unix.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	sum, err := digest("/mnt")
	if err != nil {
		return err
	}
	fmt.Printf("\nprobe digest=%x\n", sum)
	dir, err := os.Open("/mnt")
	if err != nil {
		return err
	}
	for _, size := range []uint64{120 << 20, 1 << 30, 20 << 30} {
		blocks := size / 4096
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), resizeFS, uintptr(unsafe.Pointer(&blocks))); errno != 0 {
			return fmt.Errorf("growing to %d bytes: %w", size, errno)
		}
		var st unix.Statfs_t
		if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
			return err
		}
		fmt.Printf("\nprobe grown=%d\n", st.Blocks)
	}
	if err := dir.Close(); err != nil {
		return err
	}
	for i := range 3000 {
		if err := os.WriteFile(fmt.Sprintf("/mnt/many/written in the guest %d", i), fmt.Append(nil, i), 0o644); err != nil {
			return err
		}
	}
	if err := os.RemoveAll("/mnt/home"); err != nil {
		return err
	}
	if err := unix.Unmount("/mnt", 0); err != nil {
		return fmt.Errorf("umount: %w", err)
	}
	fmt.Println("\nprobe end=well")
	return nil
}

// digest is over the paths and contents of all regular files.
func digest(root string) ([]byte, error) {
	var files []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, p[len(root)+1:])
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	h := sha256.New()
	for _, name := range files {
		fmt.Fprintf(h, "%q\n", name)
		f, err := os.Open(filepath.Join(root, name))
		if err != nil {
			return nil, err
		}
		if _, err := io.Copy(h, f); err != nil {
			return nil, err
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
	return h.Sum(nil), nil
}
