package ext4

const (
	extentMagic  = 0xf30a
	extentSize   = 12 // of the header and of each entry
	inodeExtents = 4
	blockExtents = (BlockSize - extentSize) / extentSize
	extentTail   = extentSize + blockExtents*extentSize // where the checksum is
	maxExtent    = 32768                                // blocks of an initialized extent
)

// extents maps the blocks of one file. Entries come in ascending order;
// blocks of the tree are written as soon as they are full, so that a file with
// any number of holes takes little memory.
type extents struct {
	w      *writer
	seed   uint32     // of the inode's checksums
	levels [][]extent // from the leaves up; not yet written
	blocks uint64     // of data and of the tree itself
}

// extent is a run of blocks, or above the leaves the block with the extents
// from logical on.
type extent struct {
	logical uint32
	run
}

func (w *writer) newExtents(seed uint32) *extents {
	return &extents{w: w, seed: seed, levels: make([][]extent, 1)}
}

// add maps n blocks from logical on to the disk.
func (x *extents) add(logical, start, n uint64) error {
	x.blocks += n
	if leaf := x.levels[0]; len(leaf) > 0 {
		last := &leaf[len(leaf)-1]
		if uint64(last.logical)+last.n == logical && last.end() == start {
			more := min(n, maxExtent-last.n)
			last.n += more
			logical, start, n = logical+more, start+more, n-more
		}
	}
	for n > 0 {
		part := min(n, maxExtent)
		if err := x.push(0, extent{uint32(logical), run{start, part}}); err != nil {
			return err
		}
		logical, start, n = logical+part, start+part, n-part
	}
	return nil
}

func (x *extents) push(level int, e extent) error {
	if level == len(x.levels) {
		x.levels = append(x.levels, nil)
	}
	if len(x.levels[level]) == blockExtents {
		if err := x.flush(level); err != nil {
			return err
		}
	}
	x.levels[level] = append(x.levels[level], e)
	return nil
}

// flush writes a level's block and enters it in the level above.
func (x *extents) flush(level int) error {
	at, err := x.w.allocate()
	if err != nil {
		return err
	}
	x.blocks++
	b := make([]byte, BlockSize)
	encodeExtents(b, level, blockExtents, x.levels[level])
	put32(b[extentTail:], crc(x.seed, b[:extentTail]))
	if err := x.w.out.Put(at, b); err != nil {
		return err
	}
	first := x.levels[level][0].logical
	x.levels[level] = x.levels[level][:0]
	return x.push(level+1, extent{first, run{at, 1}})
}

// root finishes the tree and returns what the inode holds of it.
func (x *extents) root() (b [60]byte, err error) {
	for level := 0; ; level++ {
		if level == len(x.levels)-1 && len(x.levels[level]) <= inodeExtents {
			encodeExtents(b[:], level, inodeExtents, x.levels[level])
			return b, nil
		}
		if err := x.flush(level); err != nil {
			return b, err
		}
	}
}

func encodeExtents(b []byte, depth, most int, list []extent) {
	put16(b[0:], extentMagic)
	put16(b[2:], uint16(len(list)))
	put16(b[4:], uint16(most))
	put16(b[6:], uint16(depth))
	for i, e := range list {
		p := b[extentSize*(i+1):]
		put32(p, e.logical)
		if depth == 0 {
			put16(p[4:], uint16(e.n))
			put16(p[6:], uint16(e.start>>32))
			put32(p[8:], uint32(e.start))
		} else {
			put32(p[4:], uint32(e.start))
			put16(p[8:], uint16(e.start>>32))
		}
	}
}

// putData writes whole blocks of a file to the next free ones.
func (w *writer) putData(x *extents, logical uint64, data []byte) error {
	for len(data) > 0 {
		free := w.alloc.free()
		if free.n == 0 {
			return w.full()
		}
		n := min(free.n, uint64(len(data)/BlockSize))
		w.alloc.take(n)
		part := data[:n*BlockSize]
		if err := w.out.Put(free.start, part); err != nil {
			return err
		}
		if err := x.add(logical, free.start, n); err != nil {
			return err
		}
		logical, data = logical+n, data[len(part):]
	}
	return nil
}
