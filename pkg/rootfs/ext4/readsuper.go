package ext4

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/bits"
	"strings"
)

// maxGroups is what Read takes: 16 TiB in blocks of 4096 bytes.
const maxGroups = 1 << 17

// Features that only Read meets, as dumpe2fs names them.
const (
	compatSparseSuper2 = 0x200

	incompatRecover    = 0x4
	incompatJournalDev = 0x8
	incompatMetaBG     = 0x10
	incompatMMP        = 0x100
	incompatCsumSeed   = 0x2000
	incompatLargeDir   = 0x4000
	incompatEncrypt    = 0x10000
	incompatCasefold   = 0x20000

	roGDTCsum      = 0x10
	roSharedBlocks = 0x4000
)

// readable are the features whose images Read can read. Features of the other
// two words change nothing for a reader.
const readable = incompatFiletype | incompatMetaBG | incompatExtents | incompat64bit | incompatMMP |
	incompatFlexBG | incompatCsumSeed | incompatLargeDir | incompatEncrypt | incompatCasefold

// super is what Read needs of a superblock (struct ext4_super_block).
type super struct {
	blockSize      int64 // bytes
	blockCount     uint64
	firstBlock     uint64
	groupBlocks    uint64
	groups         uint32
	inodes         uint32
	inodesPerGroup uint32
	inodeSize      int64
	descSize       int
	compat         uint32
	incompat       uint32
	ro             uint32
	firstMetaBG    uint32
	backups        [2]uint32 // groups, of sparse_super2
	journal        uint32    // inode
	uuid           [16]byte
	seed           uint32 // of checksums
}

func (s *super) checksums() bool { return s.ro&roMetadataCsum != 0 }

func u16(b []byte, at int) uint16 { return binary.LittleEndian.Uint16(b[at:]) }
func u32(b []byte, at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }

// wide is a number in two halves.
func wide(low, high uint32) uint64 { return uint64(high)<<32 | uint64(low) }

func (m *image) readSuperblock() error {
	b := make([]byte, 1024)
	if err := m.readAt(b, 1024); err != nil {
		return fmt.Errorf("superblock: %w", err)
	}
	if u16(b, 0x38) != 0xef53 {
		return damaged("superblock: there is no magic number: not an image of ext2, ext3 or ext4")
	}
	s := &m.super
	s.descSize, s.inodeSize = 32, 128
	if u32(b, 0x4c) > 0 { // revision 0 has no features
		s.compat, s.incompat, s.ro = u32(b, 0x5c), u32(b, 0x60), u32(b, 0x64)
		s.inodeSize = int64(u16(b, 0x58))
	}
	if s.checksums() && (b[0x175] != 1 || u32(b, 0x3fc) != crc(^uint32(0), b[:0x3fc])) {
		return damaged("superblock: the checksum is wrong")
	}
	if err := s.checkFeatures(u16(b, 0x3a)); err != nil {
		return fmt.Errorf("superblock: %w", err)
	}
	copy(s.uuid[:], b[0x68:])
	s.seed = crc(^uint32(0), s.uuid[:])
	if s.incompat&incompatCsumSeed != 0 {
		s.seed = u32(b, 0x270)
	}
	var high uint32
	if s.incompat&incompat64bit != 0 {
		s.descSize, high = int(u16(b, 0xfe)), u32(b, 0x150)
	}
	s.blockCount = wide(u32(b, 0x04), high)
	s.inodes, s.inodesPerGroup = u32(b, 0x00), u32(b, 0x28)
	s.firstBlock, s.groupBlocks = uint64(u32(b, 0x14)), uint64(u32(b, 0x20))
	s.firstMetaBG = u32(b, 0x104)
	s.backups = [2]uint32{u32(b, 0x24c), u32(b, 0x250)}
	if s.compat&compatHasJournal != 0 {
		s.journal = u32(b, 0xe0)
	}
	if err := s.checkSizes(u32(b, 0x18)); err != nil {
		return fmt.Errorf("superblock: %w", err)
	}
	// A file cut short is found here, not at the first use of what is gone.
	if err := m.readAt(b[:1], int64(s.blockCount)*s.blockSize-1); err != nil {
		return fmt.Errorf("superblock: %d blocks of %d bytes: %w", s.blockCount, s.blockSize, err)
	}
	return nil
}

func (s *super) checkFeatures(state uint16) error {
	const clean = 1
	switch {
	case s.incompat&incompatJournalDev != 0:
		return unsupported("the image is an external journal, not a file system")
	case s.incompat&incompatRecover != 0:
		return damaged("the file system was not unmounted: its journal holds changes that are not in it yet; replay it by mounting a copy once or by e2fsck -fy")
	case state&clean == 0:
		return damaged("the file system was not unmounted, and has no journal to recover it from; run e2fsck -fy on a copy")
	}
	if unknown := s.incompat &^ readable; unknown != 0 {
		names := []string{}
		for bit := unknown; bit != 0; bit &= bit - 1 {
			names = append(names, featureName(bit&-bit))
		}
		return unsupported("the image has features that are not supported: %s", strings.Join(names, ", "))
	}
	return nil
}

func featureName(bit uint32) string {
	switch bit {
	case 0x1:
		return "compression"
	case 0x400:
		return "ea_inode"
	case 0x1000:
		return "dirdata"
	case 0x8000:
		return "inline_data"
	}
	return fmt.Sprintf("%#x", bit)
}

// checkSizes checks the geometry.
func (s *super) checkSizes(logBlock uint32) error {
	if logBlock > 6 {
		return damaged("blocks of 1024 << %d bytes", logBlock)
	}
	s.blockSize = 1024 << logBlock
	switch {
	case s.inodeSize < 128 || s.inodeSize > s.blockSize || bits.OnesCount64(uint64(s.inodeSize)) != 1:
		return damaged("inodes of %d bytes", s.inodeSize)
	case s.descSize < 32 || s.incompat&incompat64bit != 0 && s.descSize < 64 || s.descSize > 1024 || bits.OnesCount(uint(s.descSize)) != 1:
		return damaged("group descriptors of %d bytes", s.descSize)
	case s.blockCount >= 1<<46 || s.firstBlock > 1 || s.blockCount <= s.firstBlock || s.groupBlocks == 0:
		return damaged("%d blocks from %d on, %d in a group", s.blockCount, s.firstBlock, s.groupBlocks)
	case s.inodesPerGroup == 0 || int64(s.inodesPerGroup) > 8*s.blockSize:
		return damaged("%d inodes in a group", s.inodesPerGroup)
	}
	groups := ceilDiv(s.blockCount-s.firstBlock, s.groupBlocks)
	if groups > maxGroups {
		return unsupported("%d groups of blocks are more than %d", groups, maxGroups)
	}
	s.groups = uint32(groups)
	if uint64(s.inodes) > groups*uint64(s.inodesPerGroup) || s.inodes < rootInode {
		return damaged("%d inodes in %d groups of %d", s.inodes, groups, s.inodesPerGroup)
	}
	return nil
}

// readGroups reads the group descriptors and claims what they point to.
func (m *image) readGroups(ctx context.Context) error {
	perBlock := uint32(m.blockSize) / uint32(m.descSize)
	m.tables = make([]uint64, m.groups)
	tableBlocks := ceilDiv(int64(m.inodesPerGroup)*m.inodeSize, m.blockSize)
	if err := m.claimRun(run{m.superBlock(), 1}); err != nil {
		return err
	}
	b := make([]byte, m.blockSize)
	for g := range m.groups {
		if g%perBlock == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			at := m.descBlock(g / perBlock)
			if err := m.claimRun(run{at, 1}); err != nil {
				return fmt.Errorf("descriptor of group %d: %w", g, err)
			}
			if err := m.readBlock(b, at); err != nil {
				return fmt.Errorf("descriptor of group %d: %w", g, err)
			}
		}
		d := b[int(g%perBlock)*m.descSize:][:m.descSize]
		if !m.descSumRight(g, d) {
			return damaged("descriptor of group %d: the checksum is wrong", g)
		}
		var high [3]uint32
		if m.descSize >= 64 {
			high = [3]uint32{u32(d, 0x20), u32(d, 0x24), u32(d, 0x28)}
		}
		m.tables[g] = wide(u32(d, 8), high[2])
		for _, r := range [...]run{{wide(u32(d, 0), high[0]), 1}, {wide(u32(d, 4), high[1]), 1}, {m.tables[g], uint64(tableBlocks)}} {
			if err := m.claimRun(r); err != nil {
				return fmt.Errorf("descriptor of group %d: %w", g, err)
			}
		}
	}
	return nil
}

// descBlock is where a block of group descriptors is: after the superblock,
// or with meta_bg at the start of the first group it describes.
func (m *image) descBlock(i uint32) uint64 {
	if m.incompat&incompatMetaBG == 0 || i < m.firstMetaBG {
		return m.superBlock() + 1 + uint64(i)
	}
	g := i * (uint32(m.blockSize) / uint32(m.descSize))
	at := m.firstBlock + uint64(g)*m.groupBlocks
	if g == 0 {
		at = m.superBlock()
	}
	if m.hasSuper(g) {
		at++
	}
	return at
}

// superBlock is the block that byte 1024 is in.
func (s *super) superBlock() uint64 { return uint64(1024 / s.blockSize) }

func (s *super) hasSuper(g uint32) bool {
	switch {
	case g == 0:
		return true
	case s.compat&compatSparseSuper2 != 0:
		return g == s.backups[0] || g == s.backups[1]
	case s.ro&roSparseSuper != 0:
		return hasSuper(g)
	}
	return true
}

// descSumRight verifies the checksum of a group descriptor.
func (s *super) descSumRight(g uint32, d []byte) bool {
	const at = 0x1e
	switch {
	case s.checksums():
		sum := crc(crc32Of(s.seed, g), d[:at])
		sum = crc(crc(sum, []byte{0, 0}), d[at+2:])
		return u16(d, at) == uint16(sum)
	case s.ro&roGDTCsum != 0:
		var nr [4]byte
		put32(nr[:], g)
		sum := crc16(crc16(crc16(^uint16(0), s.uuid[:]), nr[:]), d[:at])
		return u16(d, at) == crc16(sum, d[at+2:])
	}
	return true
}

// crc16 is the kernel's crc16(): polynomial 0x8005, bits reflected.
func crc16(sum uint16, p []byte) uint16 {
	for _, c := range p {
		sum ^= uint16(c)
		for range 8 {
			low := sum & 1
			sum >>= 1
			if low != 0 {
				sum ^= 0xa001
			}
		}
	}
	return sum
}
