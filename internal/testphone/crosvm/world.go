package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// checkWorld is what a phone's crosvm finds around it: exit code 1.
func checkWorld(c config, v values, arch string) error {
	if !c.disableSandbox {
		return errors.New("failed to jail: Android's kernels have no PID namespaces, and there is no /var/empty: --disable-sandbox is needed")
	}
	for _, text := range v["net"] {
		if strings.Contains(text, "vhost-net") {
			return errors.New("failed to open /dev/vhost-net: No such file or directory (os error 2)")
		}
	}
	if len(c.nets) > 0 {
		return errors.New("the stand-in gives no cards by --net: frames go over vsock")
	}
	if c.protected {
		var limit unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
			return err
		}
		if limit.Cur != unix.RLIM_INFINITY {
			return errors.New("failed to protect guest memory: mlock: memlock is limited: Cannot allocate memory (os error 12)")
		}
	}
	for _, path := range []string{c.kernel, c.initrd} {
		if path == "" {
			continue
		}
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("failed to open %s: %w", path, err)
		}
	}
	return checkKernel(c.kernel, arch)
}

// checkKernel says whether crosvm's loader takes the kernel: on arm64 ELF, an LZ4
// frame or a raw Image; on x86 a bzImage or ELF.
func checkKernel(path, arch string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, 0x210)
	if _, err := io.ReadFull(f, head); err != nil {
		return fmt.Errorf("kernel could not be loaded: %w", err)
	}
	elf := bytes.HasPrefix(head, []byte("\x7fELF"))
	if arch == "arm64" {
		if elf || bytes.Equal(head[0x38:0x3c], []byte("ARM\x64")) || binary.LittleEndian.Uint32(head) == 0x184d2204 {
			return nil
		}
		return errors.New("kernel could not be loaded: invalid magic number")
	}
	if elf || bytes.Equal(head[0x202:0x206], []byte("HdrS")) {
		return nil
	}
	return errors.New("kernel could not be loaded: invalid magic number")
}

// disk is an image that is open, locked and known to be raw.
type disk struct {
	block
	file *os.File
}

// openDisk does with an image what crosvm does (disk/src/sys/linux.rs), but that
// it refuses what crosvm would follow.
func openDisk(b block) (d disk, err error) {
	d.block = b
	if d.file, err = openFile(b.path, b.ro); err != nil {
		return d, fmt.Errorf("failed to open disk image %s: %w", b.path, err)
	}
	if b.lock {
		how := unix.LOCK_EX
		if b.ro {
			how = unix.LOCK_SH
		}
		if err := unix.Flock(int(d.file.Fd()), how|unix.LOCK_NB); err != nil {
			return d, fmt.Errorf("failed to lock file: %w", err)
		}
	}
	head := make([]byte, 4096)
	n, err := d.file.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return d, err
	}
	for magic, name := range map[string]string{"composite_disk\x1d": "CompositeDisk", "QFI\xfb": "Qcow2", "\x3a\xff\x26\xed": "AndroidSparse", "\x28\xb5\x2f\xfd": "Zstd"} {
		if bytes.HasPrefix(head[:n], []byte(magic)) {
			return d, fmt.Errorf("SECURITY: image type %s of %s: crosvm would open what it names", name, b.path)
		}
	}
	return d, nil
}

// openFile opens a path, or takes the descriptor that it names
// (open_file_or_duplicate), whose flags have to do.
func openFile(path string, ro bool) (*os.File, error) {
	number, ok := strings.CutPrefix(path, "/proc/self/fd/")
	if !ok {
		how := os.O_RDWR
		if ro {
			how = os.O_RDONLY
		}
		return os.OpenFile(path, how, 0)
	}
	fd, err := strconv.Atoi(number)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	flags, err := unix.FcntlInt(uintptr(own), unix.F_GETFL, 0)
	if err != nil {
		return nil, err
	}
	if !ro && flags&unix.O_ACCMODE != unix.O_RDWR {
		return nil, fmt.Errorf("%s is not open to be written: %w", path, unix.EBADF)
	}
	return os.NewFile(uintptr(own), path), nil
}
