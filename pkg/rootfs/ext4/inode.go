package ext4

import (
	"io"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// fastSymlink is the length from which a symbolic link's target has a block.
const fastSymlink = 60

// inode is what differs between inodes.
type inode struct {
	mode     uint32
	uid, gid uint32
	links    uint32
	flags    uint32
	size     uint64
	blocks   uint64   // of BlockSize, all kinds together
	data     [60]byte // i_block
	xattrs   xattrs
	acl      uint64 // the block of the extended attributes
}

func (w *writer) encodeInode(ino uint32, n inode) (b [inodeSize]byte) {
	put16(b[0x00:], uint16(n.mode))
	put16(b[0x02:], uint16(n.uid))
	put32(b[0x04:], uint32(n.size))
	put16(b[0x18:], uint16(n.gid))
	put16(b[0x1a:], uint16(n.links))
	sectors := n.blocks * (BlockSize / sector)
	put32(b[0x1c:], uint32(sectors))
	put32(b[0x20:], n.flags)
	copy(b[0x28:], n.data[:])
	put32(b[0x68:], uint32(n.acl))
	put32(b[0x6c:], uint32(n.size>>32))
	put16(b[0x74:], uint16(sectors>>32))
	put16(b[0x76:], uint16(n.acl>>32))
	put16(b[0x78:], uint16(n.uid>>16))
	put16(b[0x7a:], uint16(n.gid>>16))
	put16(b[0x80:], extraSize)
	// 32 signed bits of seconds, two more above them: ctime, mtime, atime,
	// then the time of creation.
	low, high := splitTime(w.o.Epoch)
	for _, at := range [...][2]int{{0x0c, 0x84}, {0x10, 0x88}, {0x08, 0x8c}, {0x90, 0x94}} {
		put32(b[at[0]:], low)
		put32(b[at[1]:], high)
	}
	n.xattrs.encodeInline(b[128+extraSize:])
	sum := crc(w.inodeSeed(ino), b[:])
	put16(b[0x7c:], uint16(sum))
	put16(b[0x82:], uint16(sum>>16))
	return b
}

func splitTime(t int64) (low, high uint32) {
	low = uint32(t)
	return low, uint32((t-int64(int32(low)))>>32) & 3
}

// inodeSeed begins every checksum of what belongs to an inode. All have
// generation 0.
func (w *writer) inodeSeed(ino uint32) uint32 { return crc32Of(crc32Of(w.seed, ino), 0) }

// writeEntry writes the data of an entry and then its inode.
func (w *writer) writeEntry(e rootfs.Entry, ino uint32) error {
	n := inode{mode: rootfs.UnixMode(e.Mode), uid: e.UID, gid: e.GID, links: 1}
	if links, ok := w.plan.links[ino]; ok {
		n.links = links
	}
	var err error
	if n.xattrs, err = encodeXattrs(e); err != nil {
		return err
	}
	x := w.newExtents(w.inodeSeed(ino))
	mapped := true
	switch {
	case e.IsDir():
		err = w.directory(x, e.Path, ino, &n)
	case e.IsRegular():
		n.size = uint64(e.Size)
		err = w.in.Read(w.ctx, e, func(block uint64, data []byte) error { return w.putData(x, block, data) })
	case e.IsSymlink():
		n.size = uint64(len(e.Link))
		if mapped = n.size >= fastSymlink; !mapped {
			copy(n.data[:], e.Link)
			break
		}
		b := make([]byte, BlockSize)
		copy(b, e.Link)
		err = w.putDirBlock(x, 0, b)
	default:
		mapped = false
		if e.IsDevice() {
			putDevice(n.data[:], e.Major, e.Minor)
		}
	}
	if err != nil {
		return err
	}
	if mapped {
		n.flags |= flagExtents
		if n.data, err = x.root(); err != nil {
			return err
		}
	}
	n.blocks = x.blocks
	if n.xattrs.needsBlock() {
		if n.acl, err = w.allocate(); err != nil {
			return err
		}
		n.blocks++
		if err := w.out.Put(n.acl, n.xattrs.encodeBlock(w.seed, n.acl)); err != nil {
			return err
		}
	}
	b := w.encodeInode(ino, n)
	return w.table.put(ino, b[:])
}

// putDevice writes the numbers of a device: the old form where they fit.
func putDevice(data []byte, major, minor uint32) {
	if major < 256 && minor < 256 {
		put32(data, major<<8|minor)
		return
	}
	put32(data[4:], minor&0xff|major<<8|minor&^0xff<<12)
}

// directory writes a directory's blocks and completes its inode.
func (w *writer) directory(x *extents, name string, ino uint32, n *inode) error {
	d := w.plan.dirs[name]
	parent, least := uint32(rootInode), 1
	if name != rootfs.Root {
		parent = w.parents[name]
	}
	n.links = 2 + d.subdirs
	if n.links > MaxLinks {
		n.links = 1 // dir_nlink: not counted
	}
	if name == lostFound {
		least = lostFoundBlocks
	}
	blocks, indexed, err := w.writeDirectory(x, name, ino, parent, w.entries(d, name == rootfs.Root), least)
	n.size = blocks * BlockSize
	if indexed {
		n.flags |= flagIndex
	}
	return err
}

// inodeTable writes the inode tables in ascending order of inodes.
type inodeTable struct {
	w    io.WriterAt
	l    *layout
	buf  []byte
	from uint32 // the first inode in buf
}

// put adds the next inode.
func (t *inodeTable) put(ino uint32, b []byte) error {
	const most = 64 << 10
	if len(t.buf) > 0 && (len(t.buf) == most || t.l.groupOfInode(ino) != t.l.groupOfInode(t.from)) {
		if err := t.flush(); err != nil {
			return err
		}
	}
	if len(t.buf) == 0 {
		t.from = ino
	}
	t.buf = append(t.buf, b...)
	return nil
}

func (t *inodeTable) flush() error {
	if len(t.buf) == 0 {
		return nil
	}
	g := t.l.groupOfInode(t.from)
	at := int64(t.l.tables[g].inodeTable)*BlockSize + int64((t.from-1)%t.l.inodesPerGroup)*inodeSize
	_, err := t.w.WriteAt(t.buf, at)
	t.buf = t.buf[:0]
	return err
}
