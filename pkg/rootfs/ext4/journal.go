package ext4

import "encoding/binary"

// minJournal is JBD2_MIN_JOURNAL_BLOCKS.
const minJournal = 1024

// defaultJournal is ext2fs_default_journal_size: blocks of the journal for
// blocks of the file system.
func defaultJournal(blocks uint64) uint64 {
	for _, size := range [...]struct{ below, journal uint64 }{
		{128 << 20, 4 << 20}, {1 << 30, 16 << 20}, {2 << 30, 32 << 20}, {16 << 30, 64 << 20},
		{32 << 30, 128 << 20}, {64 << 30, 256 << 20}, {128 << 30, 512 << 20},
	} {
		if blocks < size.below/BlockSize {
			return size.journal / BlockSize
		}
	}
	return 1 << 30 / BlockSize
}

// writeJournal writes an empty journal: its superblock, big endian
// (include/linux/jbd2.h), and blocks of zeros. It returns its inode.
func (w *writer) writeJournal() (b [inodeSize]byte, err error) {
	x := w.newExtents(w.inodeSeed(journalInode))
	first := uint64(0)
	for done := uint64(0); done < w.l.journal; {
		free := w.alloc.free()
		if free.n == 0 {
			return b, w.full()
		}
		if done == 0 {
			first = free.start
		}
		n := min(free.n, w.l.journal-done)
		w.alloc.take(n)
		if err := x.add(done, free.start, n); err != nil {
			return b, err
		}
		done += n
	}
	n := inode{mode: 0o100600, links: 1, flags: flagExtents, size: w.l.journal * BlockSize}
	if n.data, err = x.root(); err != nil {
		return b, err
	}
	n.blocks = x.blocks
	w.journal = n.data

	be := binary.BigEndian
	sb := make([]byte, 1024)
	be.PutUint32(sb[0x00:], 0xc03b3998)
	be.PutUint32(sb[0x04:], 4) // superblock, version 2
	be.PutUint32(sb[0x0c:], BlockSize)
	be.PutUint32(sb[0x10:], uint32(w.l.journal))
	be.PutUint32(sb[0x14:], 1)        // first block of the log
	be.PutUint32(sb[0x18:], 1)        // first transaction
	be.PutUint32(sb[0x28:], 0x2|0x10) // 64bit, checksum v3
	copy(sb[0x30:], w.o.UUID[:])
	be.PutUint32(sb[0x40:], 1) // users
	sb[0x50] = 4               // CRC-32C
	be.PutUint32(sb[0xfc:], crc(^uint32(0), sb))
	if _, err := w.f.WriteAt(sb, int64(first)*BlockSize); err != nil {
		return b, err
	}
	return w.encodeInode(journalInode, n), nil
}
