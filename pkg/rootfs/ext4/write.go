package ext4

import (
	"context"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/internal/blocks"
)

// writer is one image under way.
type writer struct {
	ctx      context.Context
	f        File
	plan     *plan
	l        *layout
	o        Options
	seed     uint32 // of every checksum
	hashSeed [4]uint32
	alloc    allocator
	in       blocks.Reader
	out      blocks.Writer
	table    inodeTable
	usedDirs []uint32 // by group
	parents  map[string]uint32
	journal  [60]byte // the journal's extents, for the superblock
}

func newWriter(ctx context.Context, f File, p *plan, l *layout, o Options) *writer {
	return &writer{
		ctx: ctx, f: f, plan: p, l: l, o: o,
		seed:     crc(^uint32(0), o.UUID[:]),
		hashSeed: hashSeed(o.UUID),
		alloc:    allocator{taken: l.taken, end: l.blocks},
		out:      blocks.Writer{W: f},
		table:    inodeTable{w: f, l: l, buf: make([]byte, 0, 64<<10)},
		usedDirs: make([]uint32, l.groups),
		parents:  map[string]uint32{},
	}
}

// write writes everything in ascending order of inodes, data of each before
// it, and at last what sums it up.
func (w *writer) write() error {
	if err := w.reserved(); err != nil {
		return err
	}
	for i, name := range w.plan.paths {
		if w.plan.alias[i] || name == lostFound {
			continue
		}
		if err := w.ctx.Err(); err != nil {
			return err
		}
		e, _ := w.plan.tree.Lookup(name)
		if err := w.entry(e, w.plan.inodes[i]); err != nil {
			return err
		}
	}
	if err := w.table.flush(); err != nil {
		return err
	}
	if err := w.out.Flush(); err != nil {
		return err
	}
	return w.summary()
}

func (w *writer) entry(e rootfs.Entry, ino uint32) error {
	if e.IsDir() {
		w.usedDirs[w.l.groupOfInode(ino)]++
		for _, i := range w.plan.dirs[e.Path].children {
			if child := w.plan.paths[i]; w.plan.dirs[child] != nil {
				w.parents[child] = ino
			}
		}
	}
	return w.writeEntry(e, ino)
}

// reserved writes the inodes 1 to 11: the root, the two that belong to the
// file system, lost+found, and the unused ones, which are empty.
func (w *writer) reserved() error {
	for ino := uint32(1); ino < firstInode; ino++ {
		var b [inodeSize]byte
		var err error
		switch ino {
		case rootInode:
			e, _ := w.plan.tree.Lookup(rootfs.Root)
			if err := w.entry(e, ino); err != nil {
				return err
			}
			continue
		case resizeInode:
			b, err = w.writeResizeInode()
		case journalInode:
			b, err = w.writeJournal()
		}
		if err != nil {
			return err
		}
		if err := w.table.put(ino, b[:]); err != nil {
			return err
		}
	}
	e, _ := w.plan.tree.Lookup(lostFound)
	if w.plan.addLostFound {
		e = rootfs.Dir(lostFound, 0o700)
		w.parents[lostFound] = rootInode
	}
	return w.entry(e, lostFoundInode)
}

// allocate takes one block.
func (w *writer) allocate() (uint64, error) {
	free := w.alloc.free()
	if free.n == 0 {
		return 0, w.full()
	}
	w.alloc.take(1)
	return free.start, nil
}

func (w *writer) full() error {
	e := fault.Errorf(fault.Usage, "the tree does not fit an image of %d bytes", w.o.Size)
	fit := w.o
	fit.Size = 0
	if l, err := w.plan.layout(fit); err == nil {
		return e.Hintf("give a size of %d bytes, or none", l.blocks*BlockSize)
	}
	return e
}
