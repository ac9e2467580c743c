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

	"github.com/sovereign-build/sovereign/internal/testphone/composite"
)

// checkWorld is what a phone's crosvm finds around it: exit code 1.
func checkWorld(s settings, c config, v values) error {
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
	if c.protected && !s.AnyMemlock {
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
	return checkKernel(c.kernel, s.Arch)
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
	file  *os.File
	parts *composite.Image // of a composite disk; nil: the file is the disk
}

// compositeDisk opens one that the service has made for a machine: all that it
// names are descriptors of this program. One that names files is a guest's doing,
// which the real crosvm would follow.
func (d *disk) compositeDisk() error {
	spec, err := composite.Read(io.NewSectionReader(d.file, 0, 1<<20))
	if err != nil {
		return fmt.Errorf("SECURITY: image type CompositeDisk of %s, which the service has not made: %w", d.path, err)
	}
	d.parts = &composite.Image{Length: spec.Length}
	for _, c := range spec.Components {
		if !strings.HasPrefix(c.Path, "/proc/self/fd/") {
			return fmt.Errorf("SECURITY: a composite disk names %s: crosvm would open it", c.Path)
		}
		f, err := openFile(c.Path, !c.Writable)
		if err != nil {
			return fmt.Errorf("failed to open disk image %s: %w", c.Path, err)
		}
		info, err := f.Stat()
		if err != nil {
			return err
		}
		// A part that is in another format is found out as a whole disk is.
		if name, err := format(f); err != nil || name != "" {
			return errors.Join(err, fmt.Errorf("SECURITY: image type %s of %s: crosvm would open what it names", name, c.Path))
		}
		d.parts.Files = append(d.parts.Files, composite.File{File: f, Offset: c.Offset, Size: uint64(info.Size()), Writable: c.Writable && !d.ro})
	}
	return nil
}

// format is what crosvm takes a file for, "" for a raw image.
func format(f *os.File) (string, error) {
	head := make([]byte, 4096)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	for magic, name := range map[string]string{composite.Magic: "CompositeDisk", "QFI\xfb": "Qcow2", "\x3a\xff\x26\xed": "AndroidSparse", "\x28\xb5\x2f\xfd": "Zstd"} {
		if bytes.HasPrefix(head[:n], []byte(magic)) {
			return name, nil
		}
	}
	return "", nil
}

// openDisk does with an image what crosvm does (disk/src/sys/linux.rs), but that
// it refuses what crosvm would follow.
func openDisk(b block) (d disk, err error) {
	d.block = b
	// What describes a composite disk is open to be read alone, also of one that is
	// written to.
	if d.file, err = openFile(b.path, b.ro); errors.Is(err, unix.EBADF) {
		if d.file, err = openFile(b.path, true); err == nil {
			if name, formatErr := format(d.file); name != "CompositeDisk" {
				err = errors.Join(unix.EBADF, formatErr)
			}
		}
	}
	if err != nil {
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
	switch name, err := format(d.file); {
	case err != nil:
		return d, err
	case name == "CompositeDisk":
		return d, d.compositeDisk()
	case name != "":
		return d, fmt.Errorf("SECURITY: image type %s of %s: crosvm would open what it names", name, b.path)
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
