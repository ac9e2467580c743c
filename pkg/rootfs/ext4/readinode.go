package ext4

import (
	"context"
	"fmt"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// Flags of inodes that only Read meets.
const (
	flagCompressed = 0x4
	flagEncrypted  = 0x800
	flagVerity     = 0x100000
	flagXattrInode = 0x200000
	flagInlineData = 0x10000000
)

// inodeRead is an inode of the image (struct ext4_inode).
type inodeRead struct {
	number   uint32
	raw      []byte
	mode     uint16
	uid, gid uint32
	flags    uint32
	size     int64
	acl      uint64 // the block of the extended attributes
	seed     uint32 // of the checksums of what belongs to it
	data     *blockMap
}

// readInode reads and verifies an inode that is in use.
func (m *image) readInode(number uint32) (*inodeRead, error) {
	if number == 0 || number > m.inodes {
		return nil, damaged("there are %d inodes", m.inodes)
	}
	at := int64(m.tables[(number-1)/m.inodesPerGroup])*m.blockSize + int64((number-1)%m.inodesPerGroup)*m.inodeSize
	b := make([]byte, m.inodeSize)
	if err := m.readAt(b, at); err != nil {
		return nil, err
	}
	generation := u32(b, 0x64)
	n := &inodeRead{
		number: number, raw: b, mode: u16(b, 0),
		uid:   uint32(u16(b, 0x78))<<16 | uint32(u16(b, 0x02)),
		gid:   uint32(u16(b, 0x7a))<<16 | uint32(u16(b, 0x18)),
		flags: u32(b, 0x20),
		acl:   wide(u32(b, 0x68), uint32(u16(b, 0x76))),
		seed:  crc32Of(crc32Of(m.seed, number), generation),
	}
	if err := m.verifyInode(n); err != nil {
		return nil, err
	}
	isDir := rootfs.ModeFromUnix(uint32(n.mode)).IsDir()
	n.size = int64(u32(b, 0x04))
	if !isDir || m.incompat&incompatLargeDir != 0 {
		n.size = int64(wide(u32(b, 0x04), u32(b, 0x6c)))
	}
	if n.size < 0 || n.size > maxBlock*m.blockSize {
		return nil, damaged("a size of %d bytes", uint64(n.size))
	}
	switch {
	case u16(b, 0x1a) == 0:
		return nil, damaged("it is named but has a link count of 0")
	case n.flags&flagInlineData != 0:
		return nil, unsupported("data inside the inode are not supported")
	case n.flags&flagEncrypted != 0:
		return nil, unsupported("it is encrypted, which is not supported")
	case n.flags&flagVerity != 0:
		return nil, unsupported("it has fs-verity, which is not supported")
	case n.flags&flagCompressed != 0 && n.flags&flagExtents == 0:
		return nil, unsupported("it is compressed, which is not supported")
	case n.flags&flagXattrInode != 0:
		return nil, damaged("it holds an extended attribute but has a name")
	}
	return n, nil
}

// verifyInode verifies the checksum.
func (m *image) verifyInode(n *inodeRead) error {
	extra := 0
	if m.inodeSize > 128 {
		extra = int(u16(n.raw, 0x80))
		if extra%4 != 0 || int64(128+extra) > m.inodeSize {
			return damaged("%d bytes of further fields in an inode of %d", extra, m.inodeSize)
		}
	}
	if !m.checksums() {
		return nil
	}
	want, mask := uint32(u16(n.raw, 0x7c)), uint32(0xffff)
	b := append([]byte(nil), n.raw...)
	put16(b[0x7c:], 0)
	if extra >= 4 {
		want |= uint32(u16(n.raw, 0x82)) << 16
		mask = ^uint32(0)
		put16(b[0x82:], 0)
	}
	if crc(n.seed, b)&mask != want {
		return damaged("the checksum of the inode is wrong")
	}
	return nil
}

// readJournal claims the blocks of the journal.
func (m *image) readJournal(ctx context.Context) error {
	if m.journal == 0 {
		return nil
	}
	n, err := m.readInode(m.journal)
	if err != nil {
		return fmt.Errorf("inode %d: %w", m.journal, err)
	}
	_, err = m.readMap(ctx, n)
	return err
}
