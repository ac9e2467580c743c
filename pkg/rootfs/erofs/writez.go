package erofs

import (
	"slices"

	"github.com/sovereign-build/sovereign/pkg/rootfs/internal/blocks"
)

// zWriter writes an image with compressed files. How large those become is
// known when they are, so contents are written first, by path, and what stands
// with the inodes is held until all are: indexes, two bytes for a block, and
// ends of files that are less than one.
type zWriter struct {
	*writer
	algorithm byte
	data      int64 // block that is written next
	inodes    int64 // bytes of inodes that have a place
	behind    [][]byte
	next      int // node that has no place yet
	// of the file whose pieces come:
	extents []extent
	written int64
}

// compress places and writes the plan.
func (w *writer) compress(c Compression) error {
	z := &zWriter{writer: w, algorithm: algorithms[c.Algorithm], data: 1, behind: make([][]byte, len(w.p.nodes))}
	if err := w.batches(c, z.batch); err != nil {
		return err
	}
	if err := z.others(len(w.p.nodes)); err != nil {
		return err
	}
	// What is not a file's comes last: names need the places of all inodes.
	for i := range w.p.nodes {
		n := &w.p.nodes[i]
		if n.kind == direntFile {
			continue
		}
		var err error
		if z.data, err = n.placeData(z.data, z.inodes); err != nil {
			return err
		}
	}
	w.p.end(z.data, z.inodes)
	for i := range w.p.nodes {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		var err error
		if n := &w.p.nodes[i]; n.kind == direntFile {
			e, _ := w.p.tree.Lookup(n.path)
			err = w.inode(int32(i), e, z.behind[i])
			z.behind[i] = nil
		} else {
			err = w.node(int32(i))
		}
		if err != nil {
			return err
		}
	}
	if err := w.out.Flush(); err != nil {
		return err
	}
	return w.flushMeta()
}

// others gives the nodes up to one their places, which have no pieces, and
// writes what contents they have.
func (z *zWriter) others(upTo int) error {
	for ; z.next < upTo; z.next++ {
		n := z.p.complete(z.next)
		z.inodes = n.place(z.inodes)
		if n.kind != direntFile || n.size == 0 {
			continue
		}
		var err error
		if z.data, err = n.placeData(z.data, z.inodes); err != nil {
			return err
		}
		e, _ := z.p.tree.Lookup(n.path)
		if z.behind[z.next], err = z.contents(int32(z.next), e); err != nil {
			return err
		}
	}
	return nil
}

// batch writes the pieces of a batch.
func (z *zWriter) batch(b *batch) error {
	data, out := 0, 0
	for i := range b.pieces {
		p := &b.pieces[i]
		if err := z.piece(p, b.data[data:p.end], b.blocks[out:p.out], b.blocks[p.out:p.inline]); err != nil {
			return err
		}
		data, out = p.end, p.inline
	}
	return nil
}

func (z *zWriter) piece(p *piece, data, out, inline []byte) error {
	n := &z.p.nodes[p.file.node]
	if p.first {
		if err := z.others(int(p.file.node)); err != nil {
			return err
		}
		z.p.complete(z.next)
		z.next++
		n.compressed = worthIt(p.extents, len(inline), len(data))
		if !n.compressed {
			p.file.plain.Store(true)
			z.inodes = n.place(z.inodes)
			var err error
			if z.data, err = n.placeData(z.data, z.inodes); err != nil {
				return err
			}
		}
	}
	var err error
	if n.compressed {
		err = z.compressed(n, p.extents, out)
	} else {
		err = z.plain(p.file.node, data)
	}
	if z.written += int64(len(data)); p.last {
		if n.compressed && err == nil {
			err = z.finish(p.file.node, data, inline)
		}
		z.written = 0
	}
	return err
}

// worthIt says whether a file is compressed, by its first piece.
func worthIt(extents []extent, inline, size int) bool {
	cost := inline + int(indexSize(0, int64(size)))
	for _, e := range extents {
		cost += e.blocks * BlockSize
	}
	if size <= BlockSize {
		// There is nothing less to read, and more to do.
		cost += size / 8
	}
	return len(extents) > 0 && cost < size
}

// compressed writes a compressed piece.
func (z *zWriter) compressed(n *node, extents []extent, out []byte) error {
	if err := n.room(z.data+int64(len(out)/BlockSize), z.inodes); err != nil {
		return err
	}
	for _, e := range extents {
		e.block += uint32(z.data)
		z.extents = append(z.extents, e)
	}
	return z.append(n, out)
}

// append writes blocks of a compressed file.
func (z *zWriter) append(n *node, out []byte) error {
	for len(out) > 0 {
		part := out[:min(len(out), blocks.Chunk)]
		if err := z.put(uint64(z.data), part); err != nil {
			return err
		}
		z.data += int64(len(part) / BlockSize)
		n.data += uint32(len(part) / BlockSize)
		out = out[len(part):]
	}
	return nil
}

// plain writes a piece of a file that is not compressed.
func (z *zWriter) plain(i int32, data []byte) error {
	n := &z.p.nodes[i]
	block := uint64(n.data) + uint64(z.written/BlockSize)
	if n.inline && z.written+int64(len(data)) == n.size {
		whole := len(data) - n.tail()
		z.behind[i] = slices.Clone(data[whole:])
		data = data[:whole]
	}
	for len(data) > 0 {
		part := data[:min(len(data), blocks.Chunk)]
		data = data[len(part):]
		if rest := len(part) % BlockSize; rest > 0 {
			part = append(slices.Clone(part), make([]byte, BlockSize-rest)...)
		}
		if err := blocks.Runs(block, part, z.put); err != nil {
			return err
		}
		block += uint64(len(part) / BlockSize)
	}
	return nil
}

// finish places the inode of a compressed file. The data of the last extent
// gets a block after all if there is no room for it; data is the file's last
// piece.
func (z *zWriter) finish(i int32, data, inline []byte) error {
	n := &z.p.nodes[i]
	start := int64(n.inodeSize() + n.xattrs)
	n.index, n.end = int32(indexSize(start, n.size)), int32(len(inline))
	z.inodes = n.place(z.inodes)
	if len(inline) > 0 && !n.inline {
		last := &z.extents[len(z.extents)-1]
		last.block, last.blocks = uint32(z.data), 1
		// Compressed data of one block of the file in one of the image is
		// what no other writer makes, and older readers do not take it.
		cluster := appendCluster(nil, inline)
		if (n.size-last.size)/BlockSize == (n.size-1)/BlockSize {
			last.plain = true
			cluster = append(data[int64(len(data))-last.size:len(data):len(data)], make([]byte, BlockSize-last.size)...)
		}
		if err := z.append(n, cluster); err != nil {
			return err
		}
		inline = nil
	}
	z.behind[i] = append(encodeIndex(start, z.extents, n.size, z.algorithm, len(inline)), inline...)
	z.extents = z.extents[:0]
	return nil
}
