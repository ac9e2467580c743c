package ext4

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// What Read takes of memory beside entries, names and attributes, in bytes:
// measured, as rootfs.Budget's are.
const (
	costExtent = 32 // in a file's map, and as a claim
	costBlock  = 64 // of a block claimed
	costXattr  = 96
)

// Read reads an image of ext2, ext3 or ext4 into a tree: block sizes of 1 to
// 64 KiB, extents and block maps, linear and indexed directories, with or
// without checksums, which are verified where there are any. The tree's
// contents read from r when they are opened, so r must stay open as long as
// the tree is used. For an image inside a disk give an io.SectionReader.
//
// Damage is an error of class fault.Source that names the path it was found
// at: also a block or a directory that is used twice. So is an image of more
// than rootfs.DefaultLimits has of entries and of memory, extents included, a
// journal that was not replayed, and a feature that changes what a reader has
// to do and that Read does not know (inline data, encryption, fs-verity,
// attributes in inodes of their own).
//
// A lost+found that is empty, 0700 and of root is left out: Write adds it.
func Read(ctx context.Context, r io.ReaderAt) (*rootfs.Tree, error) {
	m := &image{r: r, budget: rootfs.NewBudget(rootfs.DefaultLimits()), claims: newClaims()}
	if err := m.readSuperblock(); err != nil {
		return nil, fmt.Errorf("ext4: %w", err)
	}
	if err := m.readGroups(ctx); err != nil {
		return nil, fmt.Errorf("ext4: %w", err)
	}
	if err := m.readJournal(ctx); err != nil {
		return nil, fmt.Errorf("ext4: the journal: %w", err)
	}
	w := walk{image: m, ctx: ctx, tree: rootfs.New(), names: map[uint32]string{}}
	if err := w.run(); err != nil {
		return nil, fmt.Errorf("ext4: %w", err)
	}
	if err := m.checkClaims(); err != nil {
		return nil, fmt.Errorf("ext4: %w", err)
	}
	return w.tree, nil
}

// image is what is known of the image that is being read.
type image struct {
	r io.ReaderAt
	super
	tables []uint64 // of inodes, by group
	budget *rootfs.Budget
	claims
}

// damaged is the error of what an image should not hold.
func damaged(format string, args ...any) error {
	return fault.Errorf(fault.Source, format, args...).Hintf("check a copy of the image with e2fsck -f")
}

// unsupported is the error of what an image may hold and Read cannot read.
func unsupported(format string, args ...any) error {
	return fault.Errorf(fault.Source, format, args...).Hintf("mount the image, and give the directory")
}

// charge counts memory that what the image says makes Read take.
func (m *image) charge(n int) error { return m.budget.Memory(int64(n)) }

// readAt fills b from a place in the image; what is not there is damage.
func (m *image) readAt(b []byte, at int64) error {
	n, err := m.r.ReadAt(b, at)
	switch {
	case n == len(b):
		return nil
	case errors.Is(err, io.EOF), err == nil:
		return damaged("the image ends before byte %d", at+int64(len(b)))
	}
	return fault.Wrap(fault.Environment, err)
}

// readBlock reads one block of the file system.
func (m *image) readBlock(b []byte, block uint64) error {
	if !m.inside(run{block, 1}) {
		return damaged("block %d is outside the file system", block)
	}
	return m.readAt(b, int64(block)*m.blockSize)
}

// walk makes the tree, directory by directory.
type walk struct {
	*image
	ctx   context.Context
	tree  *rootfs.Tree
	names map[uint32]string // first name of each inode
	queue []pending
	block []byte // the one read last of a directory
	found bool   // something is in lost+found
}

// pending is a directory whose names are still to be read.
type pending struct {
	*inodeRead
	path   string
	parent uint32
}

func (w *walk) run() error {
	w.block = make([]byte, w.blockSize)
	if err := w.add(rootfs.Root, rootInode, rootInode, 0); err != nil {
		return err
	}
	for len(w.queue) > 0 {
		d := w.queue[0]
		w.queue[0] = pending{} // gives its map free
		w.queue = w.queue[1:]
		var named namedError
		if err := w.directory(d); errors.As(err, &named) {
			return named.error
		} else if err != nil {
			return fmt.Errorf("%.255s: inode %d: %w", d.path, d.number, err)
		}
	}
	if e, ok := w.tree.Lookup(lostFound); ok && !w.found && e.Mode == fs.ModeDir|0o700 && e.UID == 0 && e.GID == 0 && len(e.Xattrs) == 0 {
		w.tree.Remove(lostFound)
	}
	return nil
}

// add adds a name to the tree. kind is what the directory says of its type, 0
// where it does not.
func (w *walk) add(name string, number, parent uint32, kind byte) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if err := w.budget.Count(1); err != nil {
		return err
	}
	if err := w.budget.Entry(rootfs.Entry{Path: name}); err != nil {
		return err
	}
	w.found = w.found || path.Dir(name) == lostFound
	first, seen := w.names[number]
	if seen {
		if e, ok := w.tree.Lookup(first); ok && e.IsDir() {
			return damaged("%.255s: inode %d is the directory %.255s already", name, number, first)
		}
		return w.put(rootfs.Hardlink(name, first))
	}
	n, err := w.readInode(number)
	if err != nil {
		return fmt.Errorf("%.255s: inode %d: %w", name, number, err)
	}
	e, err := w.entry(name, n)
	if err != nil {
		return fmt.Errorf("%.255s: inode %d: %w", name, number, err)
	}
	if kind != 0 && kind != rootfs.DirentType(e.Mode) {
		return damaged("%.255s: the directory has it as type %d, inode %d is %v", name, kind, number, e.Mode)
	}
	w.names[number] = name
	if e.IsDir() {
		n.raw = nil
		w.queue = append(w.queue, pending{n, name, parent})
	}
	return w.put(e)
}

func (w *walk) put(e rootfs.Entry) error {
	add := w.tree.Add
	if e.Path == rootfs.Root {
		add = w.tree.Set
	}
	if err := add(e); err != nil {
		return fault.Wrap(fault.Source, err)
	}
	return nil
}

// entry is the entry of an inode.
func (w *walk) entry(name string, n *inodeRead) (rootfs.Entry, error) {
	e := rootfs.Entry{Path: name, Mode: rootfs.ModeFromUnix(uint32(n.mode)), UID: n.uid, GID: n.gid}
	var err error
	if e.Xattrs, err = w.readXattrs(n); err != nil {
		return e, err
	}
	switch {
	case e.IsDir(), e.IsRegular():
		if n.data, err = w.readMap(w.ctx, n); err != nil {
			return e, err
		}
		if e.IsRegular() && n.size > 0 {
			e.Size, e.Content = n.size, rootfs.Section(n.data, 0, n.size)
		}
	case e.IsSymlink():
		e.Link, err = w.readLink(n)
	case e.IsDevice():
		e.Major, e.Minor = device(n.raw[0x28:])
	}
	return e, err
}

// readLink reads the target of a symbolic link.
func (w *walk) readLink(n *inodeRead) (string, error) {
	if n.size <= 0 || n.size > rootfs.MaxPath {
		return "", damaged("a symbolic link of %d bytes", n.size)
	}
	if err := w.charge(int(n.size)); err != nil {
		return "", err
	}
	if n.size < fastSymlink && n.flags&flagExtents == 0 {
		return string(n.raw[0x28 : 0x28+n.size]), nil
	}
	data, err := w.readMap(w.ctx, n)
	if err != nil {
		return "", err
	}
	b := make([]byte, n.size)
	if _, err := data.ReadAt(b, 0); err != nil {
		return "", err
	}
	return string(b), nil
}

// device is the inverse of putDevice.
func device(data []byte) (major, minor uint32) {
	if old := binary.LittleEndian.Uint32(data); old != 0 {
		return old >> 8 & 0xff, old & 0xff
	}
	v := binary.LittleEndian.Uint32(data[4:])
	return v >> 8 & 0xfff, v&0xff | v>>12&0xfff00
}
