package ext4

// summary writes bitmaps, group descriptors and superblocks.
func (w *writer) summary() error {
	descs := make([]byte, w.l.descBlocks*BlockSize)
	for g := range w.l.groups {
		if err := w.group(g, descs[g*descSize:(g+1)*descSize]); err != nil {
			return err
		}
	}
	for g := range w.l.groups {
		if !hasSuper(g) {
			continue
		}
		at, sb := int64(w.l.groupStart(g))*BlockSize, w.superblock(g)
		if _, err := w.f.WriteAt(descs, at+BlockSize); err != nil {
			return err
		}
		if g == 0 {
			at += 1024 // the first one comes after room for a boot loader
		}
		if _, err := w.f.WriteAt(sb, at); err != nil {
			return err
		}
	}
	return nil
}

// group writes the bitmaps of a group and its descriptor into d. Bitmaps that
// the kernel can make up itself are not written.
func (w *writer) group(g uint32, d []byte) error {
	l, t := w.l, w.l.tables[g]
	start, end := l.groupStart(g), l.groupEnd(g)
	flags := uint16(groupZeroed)

	blocks := newBitmap(end - start)
	free := end - start
	w.alloc.inGroup(start, end, func(r run) {
		blocks.set(r.start-start, r.n)
		free -= r.n
	})
	if onlyBase := end-start-free == l.baseBlocks(g); onlyBase && g != 0 && g != l.groups-1 {
		flags |= groupBlockUninit
	} else if _, err := w.f.WriteAt(blocks, int64(t.blockBitmap)*BlockSize); err != nil {
		return err
	} else {
		sum := crc(w.seed, blocks)
		put16(d[0x18:], uint16(sum))
		put16(d[0x38:], uint16(sum>>16))
	}

	used := uint32(0)
	if before := g * l.inodesPerGroup; before < w.plan.lastInode {
		used = min(w.plan.lastInode-before, l.inodesPerGroup)
	}
	if used == 0 {
		flags |= groupInodeUninit
	} else {
		inodes := newBitmap(uint64(l.inodesPerGroup))
		inodes.set(0, uint64(used))
		if _, err := w.f.WriteAt(inodes, int64(t.inodeBitmap)*BlockSize); err != nil {
			return err
		}
		sum := crc(w.seed, inodes[:l.inodesPerGroup/8])
		put16(d[0x1a:], uint16(sum))
		put16(d[0x3a:], uint16(sum>>16))
	}

	// Each number has its low half in the first 32 bytes, its high in the rest.
	put := func(low, high int, v uint32) {
		put16(d[low:], uint16(v))
		put16(d[high:], uint16(v>>16))
	}
	for i, at := range [...]uint64{t.blockBitmap, t.inodeBitmap, t.inodeTable} {
		put32(d[4*i:], uint32(at))
		put32(d[0x20+4*i:], uint32(at>>32))
	}
	put(0x0c, 0x2c, uint32(free))
	put(0x0e, 0x2e, l.inodesPerGroup-used)
	put(0x10, 0x30, w.usedDirs[g])
	put16(d[0x12:], flags)
	put(0x1c, 0x32, l.inodesPerGroup-used)
	put16(d[0x1e:], uint16(crc(crc32Of(w.seed, g), d)))
	return nil
}

// bitmap is one block; the bits past the first n are set.
type bitmap []byte

func newBitmap(n uint64) bitmap {
	b := make(bitmap, BlockSize)
	b.set(n, BlockSize*8-n)
	return b
}

func (b bitmap) set(from, n uint64) {
	for ; n > 0 && from%8 != 0; from, n = from+1, n-1 {
		b[from/8] |= 1 << (from % 8)
	}
	for ; n >= 8; from, n = from+8, n-8 {
		b[from/8] = 0xff
	}
	for ; n > 0; from, n = from+1, n-1 {
		b[from/8] |= 1 << (from % 8)
	}
}

// superblock is the one of a group (struct ext4_super_block).
func (w *writer) superblock(group uint32) []byte {
	l := w.l
	b := make([]byte, 1024)
	u16 := func(at int, v uint16) { put16(b[at:], v) }
	u32 := func(at int, v uint32) { put32(b[at:], v) }
	wide := func(low, high int, v uint64) { u32(low, uint32(v)); u32(high, uint32(v>>32)) }
	at := func(low, high int) { u32(low, uint32(w.o.Epoch)); b[high] = byte(w.o.Epoch >> 32) }

	u32(0x00, l.inodes())
	wide(0x04, 0x150, l.blocks)
	wide(0x08, 0x154, l.blocks*uint64(w.o.ReservedPercent)/100)
	wide(0x0c, 0x158, l.blocks-w.alloc.used())
	u32(0x10, l.inodes()-w.plan.lastInode)
	u32(0x18, 2) // blocks of 1024 << 2
	u32(0x1c, 2)
	u32(0x20, groupBlocks)
	u32(0x24, groupBlocks)
	u32(0x28, l.inodesPerGroup)
	at(0x30, 0x274)   // written
	u16(0x36, 0xffff) // never checked by the count of mounts
	u16(0x38, 0xef53) // magic
	u16(0x3a, 1)      // clean
	u16(0x3c, 1)      // after errors: continue
	at(0x40, 0x277)   // checked
	u32(0x4c, 1)      // revision
	u32(0x54, firstInode)
	u16(0x58, inodeSize)
	u16(0x5a, uint16(group))
	u32(0x5c, compatHasJournal|compatExtAttr|compatResizeInode|compatDirIndex)
	u32(0x60, incompatFiletype|incompatExtents|incompat64bit|incompatFlexBG)
	u32(0x64, roSparseSuper|roLargeFile|roHugeFile|roDirNlink|roExtraIsize|roMetadataCsum)
	copy(b[0x68:], w.o.UUID[:])
	copy(b[0x78:0x88], w.o.Label)
	u16(0xce, uint16(l.reservedGDT))
	u32(0xe0, journalInode)
	for i, word := range w.hashSeed {
		u32(0xec+4*i, word)
	}
	b[0xfc] = hashHalfMD4
	b[0xfd] = 1 // the journal's extents are kept here too
	u16(0xfe, descSize)
	u32(0x100, 0x0c) // mounted with user_xattr, acl
	at(0x108, 0x276) // made
	copy(b[0x10c:], w.journal[:])
	size := l.journal * BlockSize
	wide(0x14c, 0x148, size)
	u16(0x15c, extraSize)
	u16(0x15e, extraSize)
	u32(0x160, unsignedHash)
	b[0x174] = 4 // 1 << 4 = flexGroups
	b[0x175] = 1 // CRC-32C
	u32(0x3fc, crc(^uint32(0), b[:0x3fc]))
	return b
}
