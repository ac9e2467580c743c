package ext4

import (
	"encoding/binary"
	"hash/crc32"
)

const (
	groupBlocks     = 8 * BlockSize // a group's bitmap is one block
	inodeSize       = 256
	extraSize       = 32 // of the inode's fields past 128 bytes
	inodesPerBlock  = BlockSize / inodeSize
	descSize        = 64
	flexGroups      = 16 // groups whose bitmaps and inode tables lie together
	pointersInBlock = BlockSize / 4
	sector          = 512 // the unit of i_blocks
)

// Inode numbers with a meaning.
const (
	rootInode      = 2
	resizeInode    = 7
	journalInode   = 8
	lostFoundInode = 11
	firstInode     = 11 // that is not reserved
)

// Flags of inodes, groups and the superblock.
const (
	flagIndex   = 0x1000  // EXT4_INDEX_FL
	flagExtents = 0x80000 // EXT4_EXTENTS_FL

	groupInodeUninit = 1 // its inode bitmap was never written
	groupBlockUninit = 2 // its block bitmap was never written
	groupZeroed      = 4 // its inode table is zeroed

	unsignedHash = 2 // names are hashed as unsigned bytes on every machine
	hashHalfMD4  = 1
)

// Features, as dumpe2fs names them.
const (
	compatHasJournal  = 0x4
	compatExtAttr     = 0x8
	compatResizeInode = 0x10
	compatDirIndex    = 0x20

	incompatFiletype = 0x2
	incompatExtents  = 0x40
	incompat64bit    = 0x80
	incompatFlexBG   = 0x200

	roSparseSuper  = 0x1
	roLargeFile    = 0x2
	roHugeFile     = 0x8
	roDirNlink     = 0x20
	roExtraIsize   = 0x40
	roMetadataCsum = 0x400
)

// crc is CRC-32C as the kernel's crc32c(): without inverting at the beginning
// and the end.
func crc(seed uint32, p []byte) uint32 {
	return ^crc32.Update(^seed, crc32.MakeTable(crc32.Castagnoli), p)
}

// crc32Of is crc over a number of 32 bits.
func crc32Of(seed, v uint32) uint32 {
	var b [4]byte
	put32(b[:], v)
	return crc(seed, b[:])
}

func ceilDiv[T uint32 | uint64 | int64](a, b T) T { return (a + b - 1) / b }

func roundUp[T uint32 | uint64 | int64 | int](a, b T) T { return (a + b - 1) / b * b }

// All numbers but the journal's are little endian.
func put16(b []byte, v uint16) { binary.LittleEndian.PutUint16(b, v) }
func put32(b []byte, v uint32) { binary.LittleEndian.PutUint32(b, v) }
func put64(b []byte, v uint64) { binary.LittleEndian.PutUint64(b, v) }
