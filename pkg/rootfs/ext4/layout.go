package ext4

import (
	"slices"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// run is a number of blocks that follow each other.
type run struct{ start, n uint64 }

func (r run) end() uint64 { return r.start + r.n }

// layout says where the fixed parts of a file system are.
type layout struct {
	blocks         uint64
	groups         uint32
	inodesPerGroup uint32
	descBlocks     uint64 // of one copy of the group descriptors
	reservedGDT    uint64 // blocks after them, kept for growing
	journal        uint64 // blocks
	tables         []groupTables
	taken          []run // all of the above but the journal, sorted
}

type groupTables struct{ blockBitmap, inodeBitmap, inodeTable uint64 }

// newLayout lays out a file system of about that many blocks: a last group too
// small for its own tables is left out, as mke2fs does. There is an inode for
// each bytesPerInode, and at least so many.
func newLayout(blocks, least, bytesPerInode, journal uint64) (*layout, error) {
	const descsInBlock = BlockSize / descSize
	l := &layout{blocks: blocks, journal: journal}
	for {
		l.groups = uint32(ceilDiv(l.blocks, groupBlocks))
		l.descBlocks = ceilDiv(uint64(l.groups), descsInBlock)
		// As mke2fs: room to grow 1024 times, to 2³² blocks at most, and as
		// much as inode 7 can point to.
		most := min(l.blocks*1024, 1<<32-1)
		l.reservedGDT = min(ceilDiv(ceilDiv(most, groupBlocks), descsInBlock)-l.descBlocks, pointersInBlock)
		inodes := max(least, l.blocks*BlockSize/bytesPerInode)
		perGroup := roundUp(ceilDiv(inodes, uint64(l.groups)), inodesPerBlock)
		if perGroup > groupBlocks {
			return nil, fault.Errorf(fault.Usage, "%d inodes do not fit %d groups of blocks; give a larger size", inodes, l.groups)
		}
		l.inodesPerGroup = uint32(perGroup)
		last := l.groups - 1
		rest := l.blocks - l.groupStart(last)
		if rest >= l.baseBlocks(last)+2+l.tableBlocks()+50 {
			break
		}
		if last == 0 {
			return nil, fault.Errorf(fault.Usage, "%d blocks do not hold the tables of %d inodes; give a larger size", blocks, inodes)
		}
		l.blocks -= rest
	}
	if err := l.place(); err != nil {
		return nil, err
	}
	return l, nil
}

// place finds the bitmaps and inode tables their blocks: for each flexible
// group from its first block on.
func (l *layout) place() error {
	l.tables = make([]groupTables, l.groups)
	for g := range l.groups {
		if n := l.baseBlocks(g); n > 0 {
			l.taken = append(l.taken, run{l.groupStart(g), n})
		}
	}
	for first := uint32(0); first < l.groups; first += flexGroups {
		flex := l.tables[first:min(first+flexGroups, l.groups)]
		pos := l.groupStart(first)
		take := func(n uint64) uint64 {
			start := l.fit(pos, n)
			l.taken = append(l.taken, run{start, n})
			pos = start + n
			return start
		}
		n := uint64(len(flex))
		blockBitmaps, inodeBitmaps := take(n), take(n)
		for i := range flex {
			flex[i] = groupTables{blockBitmaps + uint64(i), inodeBitmaps + uint64(i), take(l.tableBlocks())}
		}
		if pos > l.blocks {
			return fault.Errorf(fault.Usage, "%d blocks do not hold their own inode tables; give a larger size or more bytes per inode", l.blocks)
		}
	}
	slices.SortFunc(l.taken, func(a, b run) int { return int(int64(a.start) - int64(b.start)) })
	return nil
}

// fit is the first place at or after pos for n blocks without a copy of the
// superblock in them.
func (l *layout) fit(pos, n uint64) uint64 {
	for g := uint32(pos / groupBlocks); g < l.groups && l.groupStart(g) < pos+n; g++ {
		if base := l.baseBlocks(g); base > 0 && pos < l.groupStart(g)+base {
			pos = l.groupStart(g) + base
		}
	}
	return pos
}

func (l *layout) inodes() uint32                 { return l.groups * l.inodesPerGroup }
func (l *layout) tableBlocks() uint64            { return uint64(l.inodesPerGroup / inodesPerBlock) }
func (l *layout) groupStart(g uint32) uint64     { return uint64(g) * groupBlocks }
func (l *layout) groupEnd(g uint32) uint64       { return min(l.groupStart(g)+groupBlocks, l.blocks) }
func (l *layout) groupOfInode(ino uint32) uint32 { return (ino - 1) / l.inodesPerGroup }

// baseBlocks is how many blocks at the start of a group hold the superblock,
// the descriptors and the room for more of them.
func (l *layout) baseBlocks(g uint32) uint64 {
	if !hasSuper(g) {
		return 0
	}
	return 1 + l.descBlocks + l.reservedGDT
}

// overhead is how many blocks the fixed parts take.
func (l *layout) overhead() uint64 {
	n := l.journal + 1 // the block of inode 7
	for _, r := range l.taken {
		n += r.n
	}
	return n
}

// hasSuper says whether a group begins with a superblock (sparse_super).
func hasSuper(g uint32) bool {
	if g <= 1 {
		return true
	}
	for _, base := range []uint64{3, 5, 7} {
		n := base
		for n < uint64(g) {
			n *= base
		}
		if n == uint64(g) {
			return true
		}
	}
	return false
}

// allocator hands out the blocks that are not taken, in ascending order.
type allocator struct {
	taken  []run
	at     int // in taken
	cursor uint64
	end    uint64
}

// free is the run of free blocks at the cursor; none are left when it is
// empty.
func (a *allocator) free() run {
	for a.at < len(a.taken) && a.taken[a.at].start == a.cursor {
		a.cursor = a.taken[a.at].end()
		a.at++
	}
	end := a.end
	if a.at < len(a.taken) {
		end = a.taken[a.at].start
	}
	return run{a.cursor, end - a.cursor}
}

// take takes n blocks of what free returned.
func (a *allocator) take(n uint64) { a.cursor += n }

// used is the number of blocks in use.
func (a *allocator) used() uint64 {
	n := a.cursor
	for _, r := range a.taken[a.at:] {
		n += r.n
	}
	return n
}

// inGroup calls mark for each run of used blocks in [start, end).
func (a *allocator) inGroup(start, end uint64, mark func(run)) {
	if start < a.cursor {
		mark(run{start, min(a.cursor, end) - start})
	}
	i, _ := slices.BinarySearchFunc(a.taken, start, func(r run, start uint64) int {
		if r.end() <= start {
			return -1
		}
		return 1
	})
	for ; i < len(a.taken) && a.taken[i].start < end; i++ {
		from, to := max(a.taken[i].start, start, a.cursor), min(a.taken[i].end(), end)
		if from < to {
			mark(run{from, to - from})
		}
	}
}
