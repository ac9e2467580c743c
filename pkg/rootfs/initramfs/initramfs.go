// Package initramfs writes a tree as the archive the kernel unpacks at boot: a
// cpio of format "newc", compressed with zstd or not.
//
// A rootfs.Tree comes in; the same bytes for the same tree go out, streamed.
// The kernel needs CONFIG_RD_ZSTD for a compressed one. Extended attributes
// have no place in the format: a tree with some is refused rather than written
// without.
package initramfs

import (
	"bufio"
	"context"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// Write writes the compressed archive. Every time is epoch, Unix seconds, 0 to
// 2³²−1. Inode numbers count from 1 in the order of paths.
func Write(ctx context.Context, w io.Writer, t *rootfs.Tree, epoch int64) error {
	// One encoder goroutine; the result does not depend on it. 128 KiB to
	// 8 MiB of window are what the kernel's decoder takes.
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(4<<20), zstd.WithEncoderCRC(true))
	if err != nil {
		return fmt.Errorf("initramfs: %w", err)
	}
	if err := WriteCPIO(ctx, z, t, epoch); err != nil {
		_ = z.Close() // w holds half an archive already; err says why
		return err
	}
	if err := z.Close(); err != nil {
		return fmt.Errorf("initramfs: %w", err)
	}
	return nil
}

// maxNumber is the largest size, time or owner in a newc archive.
const maxNumber = 1<<32 - 1

// trailer is the name of the last entry.
const trailer = "TRAILER!!!"

// WriteCPIO writes the archive without compression. What the format cannot
// hold is an error of class fault.Usage that names the path.
func WriteCPIO(ctx context.Context, w io.Writer, t *rootfs.Tree, epoch int64) error {
	if epoch < 0 || epoch > maxNumber {
		return fault.Errorf(fault.Usage, "initramfs: time %d does not fit a cpio header, which ends in 2106", epoch)
	}
	a := archive{w: bufio.NewWriterSize(w, 64<<10), epoch: epoch, groups: map[string][]string{}, inodes: map[string]uint32{}}
	for _, names := range t.HardLinks() {
		for _, name := range names {
			a.groups[name] = names
		}
	}
	for e := range t.All() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := a.add(e); err != nil {
			return fmt.Errorf("initramfs: %w", err)
		}
	}
	if err := a.close(); err != nil {
		return fmt.Errorf("initramfs: %w", err)
	}
	return nil
}

type archive struct {
	w     *bufio.Writer
	epoch int64
	inode uint32
	// groups are the names of each hard-linked file, by each of them; inodes
	// are by the first.
	groups map[string][]string
	inodes map[string]uint32
}

func (a *archive) add(e rootfs.Entry) error {
	if len(e.Xattrs) > 0 {
		return fault.Errorf(fault.Usage, "%s has extended attributes, which cpio cannot hold; remove them from the tree", e.Path)
	}
	if e.Size > maxNumber {
		return fault.Errorf(fault.Usage, "%s: %d bytes are more than the %d of a file in a cpio archive", e.Path, e.Size, int64(maxNumber))
	}
	h := header{mode: rootfs.UnixMode(e.Mode), uid: e.UID, gid: e.GID, links: 1, size: uint32(e.Size)}
	switch {
	case e.IsDir():
		h.links = 2
	case e.IsSymlink():
		h.size = uint32(len(e.Link))
	case e.IsDevice():
		h.major, h.minor = e.Major, e.Minor
	}
	names := a.groups[e.Path]
	if e.IsSymlink() {
		names = nil // the kernel links only files
	}
	if names != nil {
		// As cpio does it: one inode, the contents with the last name.
		h.links = uint32(len(names))
		h.inode = a.inodes[names[0]]
		if e.Path != names[len(names)-1] {
			h.size = 0
		}
	}
	if h.inode == 0 {
		a.inode++
		h.inode = a.inode
		if names != nil {
			a.inodes[names[0]] = h.inode
		}
	}
	if err := a.header(e.Path, h); err != nil {
		return err
	}
	switch {
	case e.IsSymlink():
		if _, err := a.w.WriteString(e.Link); err != nil {
			return err
		}
	case h.size > 0:
		if err := e.CopyTo(a.w); err != nil {
			return err
		}
	}
	return a.pad(int(h.size & 3))
}

// header is what differs between entries.
type header struct {
	inode, mode, uid, gid, links, size, major, minor uint32
}

// header writes a header and the name (the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst).
func (a *archive) header(name string, h header) error {
	if _, err := a.w.WriteString(magicPlain); err != nil {
		return err
	}
	for _, v := range [...]uint32{
		h.inode, h.mode, h.uid, h.gid, h.links, uint32(a.epoch), h.size,
		0, 0, h.major, h.minor, uint32(len(name) + 1), 0,
	} {
		if _, err := fmt.Fprintf(a.w, "%08X", v); err != nil {
			return err
		}
	}
	if _, err := a.w.WriteString(name + "\x00"); err != nil {
		return err
	}
	return a.pad(headerSize + len(name) + 1)
}

// pad fills up to a multiple of four what is so long.
func (a *archive) pad(n int) error {
	_, err := a.w.Write(make([]byte, -n&3))
	return err
}

// close ends the archive.
func (a *archive) close() error {
	a.epoch = 0
	if err := a.header(trailer, header{links: 1}); err != nil {
		return err
	}
	return a.w.Flush()
}
