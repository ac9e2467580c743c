package ext4

import (
	"context"
	"errors"
	"io"
	"math"
	"slices"
)

const (
	// maxBlock is the number of blocks a file can have.
	maxBlock = 1 << 32
	// maxExtentDepth is the deepest tree that maxBlock extents need.
	maxExtentDepth = 5
	directBlocks   = 12 // of a block map, before the three indirect ones
)

// blockMap says where the blocks of a file are: extents in ascending order,
// holes between them. It reads the file, zeros after its end.
type blockMap struct {
	image *image
	inode *inodeRead // while it is made
	list  []extent
	next  uint64 // the first logical block not yet mapped
	names bool   // a directory: each block is claimed when it is read
	// shared: other files may have the same blocks (shared_blocks).
	shared bool
}

// readMap reads the map of a file's blocks.
func (m *image) readMap(ctx context.Context, n *inodeRead) (*blockMap, error) {
	isDir := n.mode&0o170000 == 0o040000
	x := &blockMap{image: m, inode: n, names: isDir, shared: !isDir && m.ro&roSharedBlocks != 0}
	root := n.raw[0x28 : 0x28+60]
	var err error
	if n.flags&flagExtents != 0 {
		err = x.extents(ctx, root, -1)
	} else {
		err = x.indirect(ctx, root)
	}
	x.inode = nil
	x.list = slices.Clip(x.list)
	return x, err
}

// add maps blocks; unwritten ones are claimed and stay a hole.
func (x *blockMap) add(logical uint64, r run, unwritten bool) error {
	if logical < x.next || logical+r.n > maxBlock {
		return damaged("block %d of the file is mapped out of order", logical)
	}
	x.next = logical + r.n
	if !x.names && !x.shared {
		if err := x.image.claimRun(r); err != nil {
			return err
		}
	} else if !x.image.inside(r) {
		return damaged("blocks %d to %d are outside the file system", r.start, r.end()-1)
	}
	if unwritten {
		return nil
	}
	x.list = append(x.list, extent{uint32(logical), r})
	return x.image.charge(costExtent)
}

// extents reads a node of an extent tree whose depth has to be the one given,
// any for -1.
func (x *blockMap) extents(ctx context.Context, b []byte, depth int) error {
	count, most := int(u16(b, 2)), int(u16(b, 4))
	switch {
	case u16(b, 0) != extentMagic:
		return damaged("a node of the extent tree has no magic number")
	case count > most || extentSize*(most+1) > len(b):
		return damaged("a node of the extent tree has %d entries, room for %d", count, most)
	case depth >= 0 && int(u16(b, 6)) != depth, u16(b, 6) > maxExtentDepth:
		return damaged("the extent tree has a node of depth %d at the wrong place", u16(b, 6))
	}
	depth = int(u16(b, 6))
	for i := range count {
		e := b[extentSize*(i+1):][:extentSize]
		logical := uint64(u32(e, 0))
		if depth == 0 {
			n := uint64(u16(e, 4))
			unwritten := n > maxExtent
			if unwritten {
				n -= maxExtent
			}
			if n == 0 {
				return damaged("an extent of no blocks")
			}
			if err := x.add(logical, run{wide(u32(e, 8), uint32(u16(e, 6))), n}, unwritten); err != nil {
				return err
			}
			continue
		}
		if logical < x.next {
			return damaged("block %d of the file is mapped out of order", logical)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		child, err := x.node(wide(u32(e, 4), uint32(u16(e, 8))))
		if err != nil {
			return err
		}
		x.next = logical
		if err := x.extents(ctx, child, depth-1); err != nil {
			return err
		}
	}
	return nil
}

// node reads a block of an extent tree and verifies its checksum.
func (x *blockMap) node(at uint64) ([]byte, error) {
	if err := x.image.claimBlock(at); err != nil {
		return nil, err
	}
	b := make([]byte, x.image.blockSize)
	if err := x.image.readBlock(b, at); err != nil {
		return nil, err
	}
	if x.image.checksums() {
		tail := extentSize * (int(u16(b, 4)) + 1)
		if tail+4 > len(b) || u32(b, tail) != crc(x.inode.seed, b[:tail]) {
			return nil, damaged("the checksum of block %d, of an extent tree, is wrong", at)
		}
	}
	return b, nil
}

// indirect reads the block map of ext2 and ext3: twelve blocks, then one that
// points to blocks, one to such, and one to those.
func (x *blockMap) indirect(ctx context.Context, root []byte) error {
	logical := uint64(0)
	for i := range directBlocks + 3 {
		if err := x.pointer(ctx, u32(root, 4*i), max(0, i-directBlocks+1), &logical); err != nil {
			return err
		}
	}
	return nil
}

// pointer maps what a pointer of that level leads to, and moves on by as much.
func (x *blockMap) pointer(ctx context.Context, at uint32, level int, logical *uint64) error {
	perBlock := uint64(x.image.blockSize / 4)
	span := uint64(1)
	for range level {
		span *= perBlock
	}
	if at == 0 || *logical >= maxBlock {
		*logical += span
		return nil
	}
	if level == 0 {
		if last := len(x.list) - 1; last >= 0 && x.next == *logical && x.list[last].end() == uint64(at) && !x.names {
			return x.extend(logical)
		}
		err := x.add(*logical, run{uint64(at), 1}, false)
		*logical++
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := x.image.claimBlock(uint64(at)); err != nil {
		return err
	}
	b := make([]byte, x.image.blockSize)
	if err := x.image.readBlock(b, uint64(at)); err != nil {
		return err
	}
	for i := range int(perBlock) {
		if err := x.pointer(ctx, u32(b, 4*i), level-1, logical); err != nil {
			return err
		}
	}
	return nil
}

// extend makes the last extent longer by the block after it.
func (x *blockMap) extend(logical *uint64) error {
	last := &x.list[len(x.list)-1]
	last.n++
	if !x.image.inside(last.run) {
		return damaged("block %d is outside the file system", last.end()-1)
	}
	if !x.shared { // the last claim is that of the last extent
		x.image.runs[len(x.image.runs)-1].n++
	}
	*logical++
	x.next = *logical
	return nil
}

// find returns the extent that a block of the file is in, or else the next.
func (x *blockMap) find(logical uint64) (e extent, mapped, more bool) {
	i, _ := slices.BinarySearchFunc(x.list, logical, func(e extent, logical uint64) int {
		if uint64(e.logical)+e.n <= logical {
			return -1
		}
		return 1
	})
	if i == len(x.list) {
		return extent{}, false, false
	}
	return x.list[i], uint64(x.list[i].logical) <= logical, true
}

// NextData implements rootfs.Holes.
func (x *blockMap) NextData(off int64) (start, end int64, err error) {
	size := x.image.blockSize
	e, mapped, more := x.find(uint64(off / size))
	if !more {
		return math.MaxInt64, math.MaxInt64, nil
	}
	start, end = int64(e.logical)*size, (int64(e.logical)+int64(e.n))*size
	if mapped {
		start = off
	}
	return start, end, nil
}

// ReadAt reads from the file.
func (x *blockMap) ReadAt(p []byte, off int64) (int, error) {
	size := x.image.blockSize
	for done := 0; done < len(p); {
		at := off + int64(done)
		rest := p[done:]
		e, mapped, more := x.find(uint64(at / size))
		start := int64(e.logical) * size
		if !mapped {
			if more && start-at < int64(len(rest)) {
				rest = rest[:start-at]
			}
			clear(rest)
			done += len(rest)
			continue
		}
		if end := start + int64(e.n)*size; end-at < int64(len(rest)) {
			rest = rest[:end-at]
		}
		n, err := x.image.r.ReadAt(rest, int64(e.start)*size+at-start)
		if n < len(rest) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return done + n, err
		}
		done += n
	}
	return len(p), nil
}
