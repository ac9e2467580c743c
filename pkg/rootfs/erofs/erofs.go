// Package erofs writes a tree as an EROFS image: read-only, compressed or not,
// blocks of 4096 bytes, the same bytes for the same tree.
//
// A rootfs.Tree comes in; an image that the kernel, fsck.erofs and dump.erofs
// accept goes out, sparse where contents are zeros. Contents are read once and
// streamed. The package mounts nothing and needs no rights.
//
// The image holds the superblock, then the full blocks of files and
// directories in the order of paths, then the inodes in the same order, each
// with its attributes and, where there is room, the rest of its contents that
// is less than a block. The format is the one of the kernel's
// fs/erofs/erofs_fs.h.
//
// Without compression everything is placed before the first byte is written.
// With it, files are compressed in pieces of 2 MiB by as many goroutines as
// there are processors; where a piece begins depends on the file alone, so the
// bytes do not depend on their number.
package erofs

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// BlockSize of the image, bytes. The kernel accepts no more than its page
// size; 4096 suits every architecture.
const BlockSize = 4096

// File is what an image is written to; an *os.File is one. Write empties it
// first: what is never written has to read as zeros.
type File interface {
	io.WriterAt
	Truncate(size int64) error
}

// Options of an image.
type Options struct {
	// Epoch is every time in the image, Unix seconds, not negative.
	Epoch int64
	// UUID of the file system. All zero derives one from the contents, so
	// that two images have the same UUID exactly when they are the same.
	UUID [16]byte
	// Compression of files; the zero value is none.
	Compression Compression
}

// Info describes an image written.
type Info struct {
	Size int64 // bytes, a multiple of BlockSize
	UUID [16]byte
}

// Write writes the tree to f. Errors name the path they are about; f then
// holds part of an image and is to be thrown away.
func Write(ctx context.Context, f File, t *rootfs.Tree, o Options) (Info, error) {
	if o.Epoch < 0 {
		return Info{}, fault.Errorf(fault.Usage, "erofs: time %d is before 1970", o.Epoch)
	}
	c, err := o.Compression.withDefaults()
	if err != nil {
		return Info{}, fmt.Errorf("erofs: %w", err)
	}
	o.Compression = c
	p, err := newPlan(t)
	if err != nil {
		return Info{}, fmt.Errorf("erofs: %w", err)
	}
	if err := f.Truncate(0); err != nil {
		return Info{}, fmt.Errorf("erofs: %w", err)
	}
	w := newWriter(ctx, f, p, o.Epoch)
	if c.Algorithm == "" {
		err = w.write()
	} else {
		err = w.compress(c)
	}
	if err != nil {
		return Info{}, fmt.Errorf("erofs: %w", err)
	}
	info := Info{Size: int64(p.blocks) * BlockSize, UUID: o.UUID}
	if err := f.Truncate(info.Size); err != nil {
		return Info{}, fmt.Errorf("erofs: %w", err)
	}
	sb := p.superblock(o)
	if info.UUID == ([16]byte{}) {
		info.UUID = w.contentUUID(sb)
	}
	copy(sb[superUUID:], info.UUID[:])
	binary.LittleEndian.PutUint32(sb[superChecksum:], checksum(sb))
	if _, err := f.WriteAt(sb, superOffset); err != nil {
		return Info{}, fmt.Errorf("erofs: %w", err)
	}
	return info, nil
}
