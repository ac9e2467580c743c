// Package ext4 writes a tree as an ext4 file system: writable, with a journal,
// the same bytes for the same tree.
//
// A rootfs.Tree comes in; an image that Linux mounts and that e2fsck,
// resize2fs and debugfs accept goes out, sparse. Blocks have 4096 bytes and
// inodes 256. The features are those of a present mke2fs: has_journal,
// metadata_csum, 64bit, extent, flex_bg, dir_index, resize_inode, sparse_super,
// dir_nlink, huge_file, extra_isize, large_file, ext_attr, filetype.
//
// Contents are read once, in order of paths, and written as they come; blocks
// of zeros become holes. The package mounts nothing, runs no program, needs no
// rights, and knows no clock and no chance: times are the epoch it is given.
//
// The format is the one of the kernel's Documentation/filesystems/ext4.
package ext4

import (
	"context"
	"fmt"
	"io"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// File is what an image is written to; an *os.File is one. Write empties it
// first: what is never written has to read as zeros.
type File interface {
	io.WriterAt
	Truncate(size int64) error
}

// Options of an image. The zero value is a file system that fits the tree.
type Options struct {
	// Epoch is every time in the image, Unix seconds, 0 to MaxEpoch.
	Epoch int64
	// Size of the image, bytes, rounded down to whole blocks; MinSize to
	// MaxSize. 0 takes what the tree needs, holes in files counted as data,
	// with an eighth and 8 MiB of free space.
	Size int64
	// UUID of the file system. All zero derives one from the names,
	// attributes and sizes in the tree and from the other options.
	UUID [16]byte
	// Label is the volume's name, at most 16 bytes.
	Label string
	// BytesPerInode is how many bytes of the image there are for each inode,
	// at least 4096; 0 is DefaultBytesPerInode. There are always more inodes
	// than the tree needs.
	BytesPerInode int64
	// ReservedPercent of the blocks can be used by root only, 0 to 50.
	ReservedPercent int
	// JournalSize is the journal's length, bytes, a multiple of BlockSize of
	// 4 MiB and more; 0 takes what mke2fs takes for the image's size.
	JournalSize int64
}

const (
	// BlockSize of the file system, bytes.
	BlockSize = 4096
	// MinSize and MaxSize of an image, bytes. The journal alone takes 4 MiB;
	// inode 7, which lets resize2fs add group descriptors, has block numbers
	// of 32 bits.
	MinSize = 8 << 20
	MaxSize = (1<<32 - 1) * BlockSize
	// MaxEpoch is in April 2310: e2fsck takes the last of the times an inode
	// can hold for ones before 1970.
	MaxEpoch = 10<<30 - 1
	// DefaultBytesPerInode is mke2fs's inode_ratio.
	DefaultBytesPerInode = 16384
	// MaxLinks is the number of hard links a file can have.
	MaxLinks = 65000
	// maxFile is the largest file: logical blocks have 32 bits.
	maxFile = (1<<32 - 1) * BlockSize
)

// Info describes an image written.
type Info struct {
	Size       int64 // of the file, bytes
	UUID       [16]byte
	Blocks     uint64 // of BlockSize, in the file system
	FreeBlocks uint64
	Inodes     uint32
	FreeInodes uint32
}

// Write writes the tree to f. Errors name the path they are about; f then
// holds part of an image and is to be thrown away. A tree that does not fit
// Options.Size, or that ext4 cannot hold, is of class fault.Usage.
func Write(ctx context.Context, f File, t *rootfs.Tree, o Options) (Info, error) {
	if err := o.check(); err != nil {
		return Info{}, err
	}
	p, err := newPlan(t)
	if err != nil {
		return Info{}, fmt.Errorf("ext4: %w", err)
	}
	if o.BytesPerInode == 0 {
		o.BytesPerInode = DefaultBytesPerInode
	}
	l, err := p.layout(o)
	if err != nil {
		return Info{}, fmt.Errorf("ext4: %w", err)
	}
	if o.Size == 0 {
		o.Size = int64(l.blocks) * BlockSize
	}
	if o.UUID == ([16]byte{}) {
		o.UUID = p.uuid(o)
	}
	if err := f.Truncate(0); err != nil {
		return Info{}, fmt.Errorf("ext4: %w", err)
	}
	if err := f.Truncate(o.Size); err != nil {
		return Info{}, fmt.Errorf("ext4: %w", err)
	}
	w := newWriter(ctx, f, p, l, o)
	if err := w.write(); err != nil {
		return Info{}, fmt.Errorf("ext4: %w", err)
	}
	return Info{
		Size: o.Size, UUID: o.UUID,
		Blocks: l.blocks, FreeBlocks: l.blocks - w.alloc.used(),
		Inodes: l.inodes(), FreeInodes: l.inodes() - p.lastInode,
	}, nil
}

func (o Options) check() error {
	switch {
	case o.Epoch < 0 || o.Epoch > MaxEpoch:
		return fault.Errorf(fault.Usage, "ext4: time %d is not 0 to %d", o.Epoch, int64(MaxEpoch))
	case o.Size != 0 && (o.Size < MinSize || o.Size > MaxSize):
		return fault.Errorf(fault.Usage, "ext4: size %d is not %d to %d bytes", o.Size, int64(MinSize), int64(MaxSize))
	case len(o.Label) > 16:
		return fault.Errorf(fault.Usage, "ext4: label %q is longer than 16 bytes", o.Label)
	case o.BytesPerInode != 0 && o.BytesPerInode < BlockSize:
		return fault.Errorf(fault.Usage, "ext4: %d bytes per inode are less than %d", o.BytesPerInode, BlockSize)
	case o.ReservedPercent < 0 || o.ReservedPercent > 50:
		return fault.Errorf(fault.Usage, "ext4: %d %% reserved is not 0 to 50", o.ReservedPercent)
	case o.JournalSize != 0 && (o.JournalSize < minJournal*BlockSize || o.JournalSize > MaxSize/2 || o.JournalSize%BlockSize != 0):
		return fault.Errorf(fault.Usage, "ext4: journal of %d bytes is not a multiple of %d from %d on", o.JournalSize, BlockSize, minJournal*BlockSize)
	}
	return nil
}
