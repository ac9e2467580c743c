// Package datadisk brings up the one disk that holds state. In comes a block
// device, out goes a mounted ext4 file system or an error that says what is on
// the disk. It formats a disk only when that is blank, or when its own earlier
// format was interrupted; it never writes to a disk that holds anything else,
// and never mounts a substitute.
//
// # An interrupted format
//
// The file system leaves the disk's last MiB free. Before mke2fs runs, a
// marker is written and flushed into the last block; after mke2fs and a flush
// it is cleared and flushed. Nothing is mounted before that. So a marker means
// that no user ever wrote to the file system, and the disk may be formatted
// again; a half-written file system without a marker cannot come from here.
package datadisk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

const (
	block   = 4096
	mib     = 1 << 20
	reserve = mib // at the end of the disk, outside of the file system

	// MinSize is the smallest disk accepted, in bytes.
	MinSize = 16 * mib

	// sampleEvery and maxSamples: between the two ends of a disk, one block
	// in each 16 MiB is read, 1024 blocks at most, to catch a file system
	// whose start was wiped. 16 GiB take 1,024 reads of 4 KiB.
	sampleEvery = 16 * mib
	maxSamples  = 1024
)

// Kind is what a disk holds.
type Kind int

// Kinds of content.
const (
	Blank       Kind = iota + 1
	Interrupted      // our own format did not finish
	Ext4
	Foreign // anything else
)

// Content is the outcome of Inspect.
type Content struct {
	Kind Kind
	What string // what a Foreign disk seems to hold, for people
	// Size of the ext4 file system, in bytes.
	FileSystem int64
	// Clean: it was unmounted in order, and no error was ever found in it.
	Clean bool
}

// signature is a magic number at a fixed place.
type signature struct {
	name   string
	offset int
	magic  string
}

// signatures name what is often found on disks, so that the message can say
// it; a disk is refused without being named here, too. Offsets and magics as
// in util-linux's libblkid.
func signatures() []signature {
	return []signature{
		{"XFS", 0, "XFSB"},
		{"LUKS", 0, "LUKS\xba\xbe"},
		{"btrfs", 0x10040, "_BHRfS_M"},
		{"F2FS", 1024, "\x10\x20\xf5\xf2"},
		{"EROFS", 1024, "\xe2\xe1\xf5\xe0"},
		{"squashfs", 0, "hsqs"},
		{"NTFS", 3, "NTFS    "},
		{"FAT", 0x52, "FAT32   "},
		{"FAT", 0x36, "FAT1"},
		{"LVM", 0x218, "LVM2 001"},
		{"swap", 4086, "SWAPSPACE2"},
		{"a dm-verity tree", 0, "verity\x00\x00"},
		{"a GPT partition table", 512, "EFI PART"},
		{"an MBR partition table", 510, "\x55\xaa"},
	}
}

// Inspect reads a disk of size bytes and says what it holds.
func Inspect(disk io.ReaderAt, size int64) (Content, error) {
	if size < MinSize {
		return Content{}, fmt.Errorf("data disk: %d bytes: want at least %d", size, MinSize)
	}
	last := make([]byte, block)
	if _, err := disk.ReadAt(last, markerOffset(size)); err != nil {
		return Content{}, err
	}
	if bytes.Equal(last, marker(size)) {
		return Content{Kind: Interrupted}, nil
	}
	sb := make([]byte, 1024)
	if _, err := disk.ReadAt(sb, 1024); err != nil {
		return Content{}, err
	}
	if n, ok := ext4Size(sb); ok {
		return Content{Kind: Ext4, FileSystem: n, Clean: ext4Clean(sb)}, nil
	}
	head := make([]byte, mib)
	if _, err := disk.ReadAt(head, 0); err != nil {
		return Content{}, err
	}
	for _, s := range signatures() {
		if bytes.HasPrefix(head[s.offset:], []byte(s.magic)) {
			return Content{Kind: Foreign, What: s.name}, nil
		}
	}
	if !zero(head) {
		return Content{Kind: Foreign, What: "unknown data at its start"}, nil
	}
	return inspectRest(disk, size)
}

// inspectRest looks at a disk whose first MiB is zero.
func inspectRest(disk io.ReaderAt, size int64) (Content, error) {
	tail := make([]byte, mib)
	if _, err := disk.ReadAt(tail, size-mib); err != nil {
		return Content{}, err
	}
	if !zero(tail) {
		return Content{Kind: Foreign, What: "unknown data at its end"}, nil
	}
	// Where backups of lost superblocks lie: ext4's for blocks of 1, 2 and
	// 4 KiB, and btrfs's.
	offsets := []int64{8193 << 10, 16384 << 11, 32768 << 12, 98304 << 12, 64 * mib}
	step := max(int64(sampleEvery), size/maxSamples/block*block)
	for at := step; at < size-mib; at += step {
		offsets = append(offsets, at)
	}
	b := make([]byte, block)
	for _, at := range offsets {
		if at+block > size {
			continue
		}
		if _, err := disk.ReadAt(b, at); err != nil {
			return Content{}, err
		}
		if !zero(b) {
			return Content{Kind: Foreign, What: fmt.Sprintf("unknown data at byte %d, though its start is blank", at)}, nil
		}
	}
	return Content{Kind: Blank}, nil
}

// ext4Size reads an ext4 superblock: its magic, and the file system's size.
func ext4Size(sb []byte) (int64, bool) {
	le := binary.LittleEndian
	if le.Uint16(sb[0x38:]) != 0xef53 {
		return 0, false
	}
	blocks := uint64(le.Uint32(sb[0x4:]))
	const incompat64bit = 0x80
	if le.Uint32(sb[0x60:])&incompat64bit != 0 {
		blocks |= uint64(le.Uint32(sb[0x150:])) << 32
	}
	log := le.Uint32(sb[0x18:])
	if log > 6 || blocks > 1<<40 {
		return 0, true // e2fsck will say what is wrong
	}
	return int64(blocks << (10 + log)), true
}

// ext4Clean says whether e2fsck -p would find nothing to do: valid, without
// errors, and no journal to replay (fs/ext4/ext4.h).
func ext4Clean(sb []byte) bool {
	le := binary.LittleEndian
	const valid, recover = 0x1, 0x4
	return le.Uint16(sb[0x3a:]) == valid && le.Uint32(sb[0x60:])&recover == 0 && le.Uint32(sb[0xe8:]) == 0
}

// markerOffset is where the marker of a disk lies: its last whole block.
func markerOffset(size int64) int64 { return size/block*block - block }

// marker is the content of that block while a format is under way.
func marker(size int64) []byte {
	b := make([]byte, block)
	copy(b, fmt.Sprintf("sovereign-init 4f1d9c0e-6a53-4f0b-9a0c-5b1f2d7e8a36: this disk of %d bytes is being formatted, it holds no data yet\n", size))
	return b
}

func zero(b []byte) bool {
	for _, v := range b {
		if v != 0 {
			return false
		}
	}
	return true
}
