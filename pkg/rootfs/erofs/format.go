package erofs

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

const (
	superOffset   = 1024
	superMagic    = 0xe0f5e1e2
	superChecksum = 4
	superUUID     = 48

	compatChecksum = 1
	compatMtime    = 2 // the one time of an inode is that of its contents

	superBlockBits  = 12
	superInodes     = 40
	superIncompat   = 80
	superAlgorithms = 84
	superSize       = 128

	incompatPadding  = 0x1 // compressed data ends with its last block
	incompatClusters = 0x2 // and has any number of them; configurations follow the superblock
	incompatInline   = 0x10

	slot          = 32 // a node number counts units of this
	compactInode  = 32
	extendedInode = 64
	direntSize    = 12
	xattrHeader   = 12
	xattrEntry    = 4

	layoutPlain  = 0 << 1
	layoutInline = 2 << 1 // the last part of the contents follows the inode
)

// superblock is the rest of the first block from superOffset on, without
// UUID and checksum.
func (p *plan) superblock(o Options) []byte {
	b := make([]byte, BlockSize-superOffset)
	le := binary.LittleEndian
	le.PutUint32(b, superMagic)
	le.PutUint32(b[8:], compatChecksum|compatMtime)
	b[superBlockBits] = 12 // 1 << 12 = BlockSize
	le.PutUint16(b[14:], uint16(p.nodes[0].nid()))
	le.PutUint64(b[16:], p.inodes)
	le.PutUint64(b[24:], uint64(o.Epoch))
	le.PutUint32(b[36:], p.blocks)
	le.PutUint32(b[superInodes:], p.meta)
	o.Compression.describe(b)
	return b
}

// checksum is CRC-32C as the kernel has it, without inverting at the end.
func checksum(sb []byte) uint32 {
	return ^crc32.Checksum(sb, crc32.MakeTable(crc32.Castagnoli))
}

// encodeInode is a node's inode. A compact one has the superblock's time.
func (n *node) encodeInode(e rootfs.Entry, epoch int64, serial uint32) []byte {
	le := binary.LittleEndian
	b := make([]byte, n.inodeSize())
	format := uint16(layoutPlain)
	if n.inline {
		format = layoutInline
	}
	if n.compressed {
		format = layoutCompact
	}
	data := n.data
	if e.IsDevice() {
		// The kernel's new_encode_dev.
		data = e.Minor&0xff | e.Major<<8 | e.Minor&^0xff<<12
	}
	if n.xattrs > 0 {
		le.PutUint16(b[2:], uint16((n.xattrs-xattrHeader)/4+1))
	}
	le.PutUint16(b[4:], uint16(rootfs.UnixMode(e.Mode)))
	le.PutUint32(b[16:], data)
	le.PutUint32(b[20:], serial)
	if !n.extended {
		le.PutUint16(b[0:], format)
		le.PutUint16(b[6:], uint16(n.links))
		le.PutUint32(b[8:], uint32(n.size))
		le.PutUint16(b[24:], uint16(e.UID))
		le.PutUint16(b[26:], uint16(e.GID))
		return b
	}
	le.PutUint16(b[0:], format|1)
	le.PutUint64(b[8:], uint64(n.size))
	le.PutUint32(b[24:], e.UID)
	le.PutUint32(b[28:], e.GID)
	le.PutUint64(b[32:], uint64(epoch))
	le.PutUint32(b[44:], n.links)
	return b
}
