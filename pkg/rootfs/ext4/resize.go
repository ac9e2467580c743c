package ext4

// writeResizeInode writes what lets a mounted file system grow: inode 7 owns
// the blocks kept for more group descriptors. Its double indirect block points
// to those after the first superblock; each of them, until it is needed, lists
// its copies after the other superblocks (lib/ext2fs/res_gdt.c).
func (w *writer) writeResizeInode() (b [inodeSize]byte, err error) {
	const dind = 13
	double, err := w.allocate()
	if err != nil {
		return b, err
	}
	top := make([]byte, BlockSize)
	var copies []uint64
	for g := uint32(1); g < w.l.groups; g++ {
		if hasSuper(g) {
			copies = append(copies, w.l.groupStart(g))
		}
	}
	n := inode{mode: 0o100600, links: 1, blocks: 1}
	n.size = (pointersInBlock*pointersInBlock + pointersInBlock + 12) * BlockSize
	put32(n.data[4*dind:], uint32(double))
	for i := range w.l.reservedGDT {
		at := 1 + w.l.descBlocks + i
		put32(top[(w.l.descBlocks+i)%pointersInBlock*4:], uint32(at))
		list := make([]byte, BlockSize)
		for j, start := range copies {
			put32(list[4*j:], uint32(at+start))
		}
		n.blocks += 1 + uint64(len(copies))
		if len(copies) > 0 {
			if err := w.out.Put(at, list); err != nil {
				return b, err
			}
		}
	}
	if err := w.out.Put(double, top); err != nil {
		return b, err
	}
	return w.encodeInode(resizeInode, n), nil
}
