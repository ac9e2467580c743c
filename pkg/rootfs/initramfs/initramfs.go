// Package initramfs writes a tree as the archive the kernel unpacks at boot: a
// cpio of format "newc", compressed with zstd.
//
// A rootfs.Tree comes in; the same bytes for the same tree go out, streamed.
// The kernel needs CONFIG_RD_ZSTD for it. Extended attributes have no place
// in the format: a tree with some is refused rather than written without.
package initramfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cavaliergopher/cpio"
	"github.com/klauspost/compress/zstd"

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

// maxSize is the largest file in a newc archive.
const maxSize = 1<<32 - 1

// WriteCPIO writes the archive without compression.
func WriteCPIO(ctx context.Context, w io.Writer, t *rootfs.Tree, epoch int64) error {
	if epoch < 0 || epoch > maxSize {
		return fmt.Errorf("initramfs: time %d does not fit a cpio header", epoch)
	}
	p := &patcher{w: w}
	a := archive{cpio: cpio.NewWriter(p), p: p, epoch: epoch, groups: map[string][]string{}, inodes: map[string]int64{}}
	for first, names := range t.HardLinks() {
		for _, name := range names {
			a.groups[name] = append([]string{first}, names...)
		}
	}
	for e := range t.All() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := a.add(e); err != nil {
			return fmt.Errorf("initramfs: %s: %w", e.Path, err)
		}
	}
	if err := a.cpio.Close(); err != nil {
		return fmt.Errorf("initramfs: %w", err)
	}
	return nil
}

type archive struct {
	cpio  *cpio.Writer
	p     *patcher
	epoch int64
	inode int64
	// groups are the names of each hard-linked file, by each of them; the
	// first element is the group's key in inodes.
	groups map[string][]string
	inodes map[string]int64
}

func (a *archive) add(e rootfs.Entry) error {
	if len(e.Xattrs) > 0 {
		return errors.New("has extended attributes, which cpio cannot hold; remove them from the tree")
	}
	if e.Size > maxSize {
		return fmt.Errorf("%d bytes do not fit a cpio archive", e.Size)
	}
	h := &cpio.Header{
		Name:    e.Path,
		Mode:    cpio.FileMode(rootfs.UnixMode(e.Mode)),
		Uid:     int(e.UID),
		Guid:    int(e.GID),
		Links:   1,
		ModTime: time.Unix(a.epoch, 0),
		Size:    e.Size,
	}
	if e.IsDir() {
		h.Links = 2
	}
	if e.IsSymlink() {
		h.Size = int64(len(e.Link))
	}
	content := true
	if names := a.groups[e.Path]; names != nil {
		// As cpio does it: one inode, the contents with the last name.
		h.Links = len(names) - 1
		h.Inode = a.inodes[names[0]]
		if content = e.Path == names[len(names)-1]; !content {
			h.Size = 0
		}
		if e.IsSymlink() {
			h.Links, h.Inode, content, h.Size = 1, 0, true, int64(len(e.Link)) // the kernel links only files
		}
	}
	if h.Inode == 0 {
		a.inode++
		h.Inode = a.inode
		if names := a.groups[e.Path]; names != nil && !e.IsSymlink() {
			a.inodes[names[0]] = h.Inode
		}
	}
	if e.IsDevice() {
		a.p.device(e.Major, e.Minor)
	}
	if err := a.cpio.WriteHeader(h); err != nil {
		return err
	}
	switch {
	case e.IsSymlink():
		_, err := io.WriteString(a.cpio, e.Link)
		return err
	case e.IsRegular() && content && e.Size > 0:
		return e.CopyTo(a.cpio)
	}
	return nil
}

// Where a newc header has the numbers of a device, 8 hex digits each.
const (
	majorAt, minorAt = 78, 86
	headerSize       = 110
)

// patcher puts device numbers into the next header: the cpio package writes
// zeros there. It writes each header with one call, right after the padding
// of what came before.
type patcher struct {
	w            io.Writer
	armed        bool
	major, minor uint32
}

func (p *patcher) device(major, minor uint32) { p.armed, p.major, p.minor = true, major, minor }

func (p *patcher) Write(b []byte) (int, error) {
	if p.armed && len(b) == headerSize && string(b[:6]) == "070701" {
		b = bytes.Clone(b)
		copy(b[majorAt:], fmt.Sprintf("%08X", p.major))
		copy(b[minorAt:], fmt.Sprintf("%08X", p.minor))
		p.armed = false
	}
	return p.w.Write(b)
}
