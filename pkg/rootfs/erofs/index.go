package erofs

import "encoding/binary"

// Compressed contents are a row of extents. Each is some bytes of the file,
// compressed on their own into whole blocks or stored as they are in one. The
// index, behind the inode, has an entry for each block of the file: the head
// of an extent says where in the block it begins, the entries that follow how
// far away the heads are, and the first of those how many blocks the extent
// has in the image. Fourteen bits for most entries, in packs of sixteen with
// one block number, and sixteen bits in packs of two before and after those
// (the compact index of the kernel's fs/erofs/zmap.c).
const (
	layoutFull    = 1 << 1 // eight bytes for each entry; only read
	layoutCompact = 3 << 1

	adviseSmallPacks = 0x1 // packs of sixteen entries
	adviseClusters   = 0x6 // extents may have more than a block in the image
	adviseInline     = 0x8 // the last extent is behind the index

	mapHeader = 8

	entryPlain  = 0
	entryHead   = 1
	entryInside = 2 // not the first of its extent

	entryBits = 12
	// blockCount marks the entry that has an extent's number of blocks, so
	// that there and in distances it is out of range.
	blockCount = 1 << 11

	largePack, smallPack = 16, 2 // entries
)

// extent is a part of a file.
type extent struct {
	size   int64 // in the file, bytes
	block  uint32
	blocks int // in the image; none if it is with the inode
	plain  bool
}

// indexEntry is one block's in the index.
type indexEntry struct {
	kind  byte
	value uint16 // of a head, where it begins; of others, blocks or distance back
	ahead uint16 // distance to the next head
	block uint32 // what the block number of a pack that begins here is
}

// packs says how many entries are in small packs before the large ones, and
// how many are in large ones. The large ones are aligned to 32 bytes; start is
// where the index begins.
func packs(start, entries int64, large bool) (before, inLarge int64) {
	before = (32 - start%32) / 4 & 7
	if !large || before >= entries {
		return entries, 0
	}
	return before, (entries - before) / largePack * largePack
}

// indexSize is the length of the index of a file of that many bytes, with its
// header. The start counts from anything that is aligned to 32 bytes.
func indexSize(start, size int64) int64 {
	entries := (size + BlockSize - 1) / BlockSize
	head := -start&7 + mapHeader
	_, large := packs(start+head, entries, true)
	return head + large*2 + (entries-large+1)/2*8
}

// encodeIndex is what stands behind an inode that begins at a slot and has
// start bytes with its attributes: padding, header and index.
func encodeIndex(start int64, extents []extent, size int64, algorithm byte, inline int) []byte {
	b := make([]byte, -start&7+mapHeader, indexSize(start, size))
	advise := uint16(adviseSmallPacks | adviseClusters)
	header := b[len(b)-mapHeader:]
	if inline > 0 {
		advise |= adviseInline
		binary.LittleEndian.PutUint16(header[2:], uint16(inline))
	}
	binary.LittleEndian.PutUint16(header[4:], advise)
	header[6] = algorithm
	list := indexEntries(extents, size)
	before, large := packs(start+int64(len(b)), int64(len(list)), true)
	for len(list) > 0 {
		n := smallPack
		if before <= 0 && large > 0 {
			n = largePack
			large -= largePack
		}
		before -= smallPack
		n = min(n, len(list))
		b = appendPack(b, list[:n])
		list = list[n:]
	}
	return b
}

// indexEntries lists the index of a file.
func indexEntries(extents []extent, size int64) []indexEntry {
	list := make([]indexEntry, 0, (size+BlockSize-1)/BlockSize)
	for at, i := int64(0), 0; i < len(extents); i++ {
		e := extents[i]
		end := at + e.size
		next := end / BlockSize // the block of the next head
		if end == size {
			next = (size + BlockSize - 1) / BlockSize
		}
		head := int64(len(list))
		kind := byte(entryHead)
		if e.plain {
			kind = entryPlain
		}
		after := e.block + uint32(e.blocks)
		list = append(list, indexEntry{kind: kind, value: uint16(at % BlockSize), block: e.block})
		for n := head + 1; n < next; n++ {
			in := indexEntry{kind: entryInside, value: uint16(min(n-head, blockCount-1)), ahead: uint16(min(next-n, blockCount-1)), block: after}
			if n == head+1 {
				in.value, in.block = blockCount|uint16(max(e.blocks, 1)), e.block
			}
			list = append(list, in)
		}
		at = end
	}
	return list
}

// appendPack appends one or two entries, or sixteen, and their block number:
// that of the first extent whose number of blocks is told in the pack.
func appendPack(b []byte, pack []indexEntry) []byte {
	bits := uint(16)
	slots := smallPack
	if len(pack) == largePack {
		bits, slots = 14, largePack
	}
	data := make([]byte, uint(slots)*bits/8, uint(slots)*bits/8+4)
	for i, e := range pack {
		value := uint32(e.value)
		if e.kind == entryInside && i == slots-1 && e.value&blockCount == 0 {
			value = uint32(e.ahead)
		}
		at := uint(i) * bits
		v := (value | uint32(e.kind)<<entryBits) << (at % 8)
		for n := at / 8; v > 0; n, v = n+1, v>>8 {
			data[n] |= byte(v)
		}
	}
	return append(b, binary.LittleEndian.AppendUint32(data, pack[0].block)...)
}
