package ext4

import (
	"cmp"
	"path"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

const (
	direntHead = 8 // without the name
	dirTail    = 12
	leafRoom   = BlockSize - dirTail
	// leafFill is how far a block of an indexed directory is filled, so that
	// the next names do not split it at once; as e2fsck -D.
	leafFill = leafRoom * 4 / 5

	indexRootAt = 32 // of the entries, in the first block
	indexNodeAt = 8
	indexTail   = 8
	rootLimit   = (BlockSize - indexRootAt - indexTail) / 8
	nodeLimit   = (BlockSize - indexNodeAt - indexTail) / 8

	// lostFoundBlocks are what lost+found has from the start, so that e2fsck
	// can put files there without allocating.
	lostFoundBlocks = 4
)

// dirent is a name in a directory.
type dirent struct {
	name  string
	inode uint32
	kind  byte
	// of an indexed directory only
	hash, minor uint32
}

// direntSize is what a name takes in a directory.
func direntSize(name string) int { return roundUp(direntHead+len(name), 4) }

// maxBlocks is an upper bound of what a directory takes.
func (d *directory) maxBlocks() uint64 {
	const dots = 24
	if d.bytes <= leafRoom-dots {
		return 1
	}
	const longest = direntHead + 256
	leaves := d.bytes/(leafFill-longest) + 1
	return 1 + leaves/nodeLimit + 1 + leaves
}

// entries are the names in a directory, "." and ".." left out.
func (w *writer) entries(d *directory, isRoot bool) []dirent {
	list := make([]dirent, 0, len(d.children)+1)
	for _, i := range d.children {
		e, _ := w.plan.tree.Lookup(w.plan.paths[i])
		list = append(list, dirent{name: path.Base(e.Path), inode: w.plan.inodes[i], kind: rootfs.DirentType(e.Mode)})
	}
	if isRoot && w.plan.addLostFound {
		list = append(list, dirent{name: lostFound, inode: lostFoundInode, kind: 2})
		slices.SortFunc(list, func(a, b dirent) int { return strings.Compare(a.name, b.name) })
	}
	return list
}

// writeDirectory writes the blocks of a directory, at least so many of them,
// and returns whether it is indexed.
func (w *writer) writeDirectory(x *extents, name string, self, parent uint32, list []dirent, least int) (blocks uint64, indexed bool, err error) {
	dots := []dirent{{name: ".", inode: self, kind: 2}, {name: "..", inode: parent, kind: 2}}
	size := 0
	for _, e := range list {
		size += direntSize(e.name)
	}
	if size+24 <= leafRoom {
		err := w.putDirBlock(x, 0, x.leaf(append(dots, list...)))
		for n := 1; err == nil && n < least; n++ {
			err = w.putDirBlock(x, uint64(n), x.leaf(nil))
		}
		return uint64(max(1, least)), false, err
	}
	for i := range list {
		list[i].hash, list[i].minor = nameHash(w.hashSeed, list[i].name)
	}
	slices.SortFunc(list, func(a, b dirent) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.minor, b.minor), strings.Compare(a.name, b.name))
	})
	leaves := splitLeaves(list)
	nodes := uint64(0)
	if len(leaves) > rootLimit {
		nodes = ceilDiv(uint64(len(leaves)), nodeLimit)
	}
	if nodes > rootLimit {
		return 0, false, fault.Errorf(fault.Usage, "%s: %d names are more than an index of two levels holds", name, len(list))
	}
	index := make([]indexEntry, len(leaves))
	for i, leaf := range leaves {
		h := leaf[0].hash
		if i > 0 && leaves[i-1][len(leaves[i-1])-1].hash == h {
			h |= 1 // this hash goes on from the block before
		}
		index[i] = indexEntry{h, uint32(1 + nodes + uint64(i))}
	}
	levels := 0
	var nodeBlocks [][]byte
	if nodes > 0 {
		levels = 1
		var top []indexEntry
		for part := range slices.Chunk(index, nodeLimit) {
			top = append(top, indexEntry{part[0].hash, uint32(1 + len(top))})
			nodeBlocks = append(nodeBlocks, x.indexNode(part))
		}
		index = top
	}
	if err := w.putDirBlock(x, 0, x.indexRoot(dots, levels, index)); err != nil {
		return 0, false, err
	}
	for i, b := range nodeBlocks {
		if err := w.putDirBlock(x, uint64(1+i), b); err != nil {
			return 0, false, err
		}
	}
	for i, leaf := range leaves {
		if err := w.putDirBlock(x, 1+nodes+uint64(i), x.leaf(leaf)); err != nil {
			return 0, false, err
		}
	}
	return 1 + nodes + uint64(len(leaves)), true, nil
}

// splitLeaves cuts a sorted list into what each block holds.
func splitLeaves(list []dirent) (leaves [][]dirent) {
	start, size := 0, 0
	for i, e := range list {
		n := direntSize(e.name)
		if size+n > leafFill {
			leaves = append(leaves, list[start:i])
			start, size = i, 0
		}
		size += n
	}
	return append(leaves, list[start:])
}

func (w *writer) putDirBlock(x *extents, logical uint64, b []byte) error {
	at, err := w.allocate()
	if err != nil {
		return err
	}
	if err := w.out.Put(at, b); err != nil {
		return err
	}
	return x.add(logical, at, 1)
}

// leaf is a block of names; the last one's length reaches to the checksum.
func (x *extents) leaf(list []dirent) []byte {
	b := make([]byte, BlockSize)
	pos := 0
	for i, e := range list {
		size := direntSize(e.name)
		if i == len(list)-1 {
			size = leafRoom - pos
		}
		e.encode(b[pos:], size)
		pos += size
	}
	if len(list) == 0 {
		put16(b[4:], leafRoom)
	}
	tail := b[leafRoom:]
	put16(tail[4:], dirTail)
	tail[7] = 0xde // EXT4_FT_DIR_CSUM
	put32(tail[8:], crc(x.seed, b[:leafRoom]))
	return b
}

func (e dirent) encode(b []byte, size int) {
	put32(b, e.inode)
	put16(b[4:], uint16(size))
	b[6], b[7] = byte(len(e.name)), e.kind
	copy(b[direntHead:], e.name)
}

// indexEntry points to the block with the names from hash on.
type indexEntry struct{ hash, block uint32 }

func (x *extents) indexRoot(dots []dirent, levels int, list []indexEntry) []byte {
	b := make([]byte, BlockSize)
	dots[0].encode(b, 12)
	dots[1].encode(b[12:], BlockSize-12)
	b[28], b[29], b[30] = hashHalfMD4, 8, byte(levels)
	x.putIndex(b, indexRootAt, rootLimit, list)
	return b
}

func (x *extents) indexNode(list []indexEntry) []byte {
	b := make([]byte, BlockSize)
	put16(b[4:], BlockSize) // an empty entry over the whole block
	x.putIndex(b, indexNodeAt, nodeLimit, list)
	return b
}

func (x *extents) putIndex(b []byte, at, limit int, list []indexEntry) {
	for i, e := range list {
		put32(b[at+8*i:], e.hash)
		put32(b[at+8*i+4:], e.block)
	}
	// The first entry's hash is always zero; its place has the counts.
	put16(b[at:], uint16(limit))
	put16(b[at+2:], uint16(len(list)))
	// The checksum leaves out what is not in use, and counts the tail's
	// reserved word and itself as zeros.
	sum := crc(x.seed, b[:at+8*len(list)])
	put32(b[at+8*limit+4:], crc(sum, make([]byte, indexTail)))
}
