package ext4

import (
	"bytes"
	"path"
)

// directory reads the names of a directory. Those of an indexed one are read
// like those of a linear one: the blocks of the index look empty.
func (w *walk) directory(d pending) error {
	if d.size == 0 || d.size%w.blockSize != 0 {
		return damaged("a directory of %d bytes", d.size)
	}
	for logical := range uint64(d.size / w.blockSize) {
		e, mapped, _ := d.data.find(logical)
		if !mapped {
			return damaged("block %d of the directory is a hole", logical)
		}
		at := e.start + logical - uint64(e.logical)
		if err := w.claimBlock(at); err != nil {
			return err
		}
		if err := w.readBlock(w.block, at); err != nil {
			return err
		}
		if w.checksums() && !w.namesSumRight(d.inodeRead) {
			return damaged("the checksum of block %d of the directory is wrong", logical)
		}
		if err := w.dirBlock(d, logical == 0); err != nil {
			return err
		}
	}
	return nil
}

// namedError is about a path it names, below the directory that is read.
type namedError struct{ error }

// Unwrap returns the error inside.
func (e namedError) Unwrap() error { return e.error }

// dirBlock reads the names of one block.
func (w *walk) dirBlock(d pending, first bool) error {
	nr := 0
	for pos := 0; pos < len(w.block); nr++ {
		b := w.block[pos:]
		if len(b) < direntHead {
			return damaged("a name reaches over the end of its block")
		}
		size := recordLength(b, w.blockSize)
		number, length, kind := u32(b, 0), int(b[6]), b[7]
		if number == 0 && len(b) == dirTail && w.checksums() {
			break // the block's checksum, made to look like a name not in use
		}
		if w.incompat&incompatFiletype == 0 {
			length, kind = int(u16(b, 6)), 0
		}
		if size%4 != 0 || size < direntHead+length || size > len(b) {
			return damaged("a name of %d bytes in %d of the %d left in its block", length, size, len(b))
		}
		name := string(b[direntHead : direntHead+length])
		pos += size
		if first && nr < 2 {
			if want, inode := [...]string{".", ".."}[nr], [...]uint32{d.number, d.parent}[nr]; name != want || number != inode {
				return damaged("its name %q is %.40q, inode %d, not inode %d", want, name, number, inode)
			}
			continue
		}
		if number == 0 {
			continue // not in use
		}
		if name == "" || name == "." || name == ".." || bytes.IndexByte(b[direntHead:direntHead+length], '/') >= 0 {
			return damaged("the name %q is not one", name)
		}
		if err := w.add(path.Join(d.path, name), number, d.number, kind); err != nil {
			return namedError{err}
		}
	}
	if first && nr < 2 {
		return damaged("the directory does not name itself and its parent")
	}
	return nil
}

// recordLength is the length of an entry. Its low two bits are the high ones
// where blocks have 64 KiB; 65535 and 0 are a whole block of that size.
func recordLength(b []byte, blockSize int64) int {
	n := int(u16(b, 4))
	if blockSize < 1<<16 {
		return n
	}
	if n == 1<<16-1 || n == 0 {
		return 1 << 16
	}
	return n&^3 | n&3<<16
}

// namesSumRight verifies the checksum of the block read last: that of a part
// of the index, told by how its only entry fills the block, or of names.
func (w *walk) namesSumRight(n *inodeRead) bool {
	b := w.block
	if n.flags&flagIndex != 0 {
		switch first := recordLength(b, w.blockSize); {
		case first == len(b):
			return w.indexSumRight(n, indexNodeAt)
		case first == 12 && recordLength(b[12:], w.blockSize) == len(b)-12 && u32(b, 24) == 0 && b[29] == 8:
			return w.indexSumRight(n, indexRootAt)
		}
	}
	tail := b[len(b)-dirTail:]
	return u32(tail, 0) == 0 && u16(tail, 4) == dirTail && tail[6] == 0 && tail[7] == 0xde &&
		u32(tail, 8) == crc(n.seed, b[:len(b)-dirTail])
}

func (w *walk) indexSumRight(n *inodeRead, at int) bool {
	b := w.block
	limit, count := int(u16(b, at)), int(u16(b, at+2))
	tail := at + 8*limit
	if count > limit || tail+indexTail > len(b) {
		return false
	}
	sum := crc(crc(n.seed, b[:at+8*count]), b[tail:tail+4])
	return u32(b, tail+4) == crc(sum, []byte{0, 0, 0, 0})
}
