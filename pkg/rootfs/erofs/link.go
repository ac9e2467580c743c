package erofs

import (
	"encoding/binary"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// What is needed of the on-disk format, from the kernel's fs/erofs/erofs_fs.h.
const (
	superblockOffset = 1024
	magicNumber      = 0xe0f5e1e2
	inodesOffset     = 16 // in the superblock: number of inodes, 8 bytes
	metaOffset       = 40 // first block of the inodes, 4 bytes
	rootOffset       = 14 // node number of the root, 2 bytes
	uuidOffset       = 48

	slot          = 32 // a node number counts units of this
	compactInode  = 32
	extendedInode = 64
	direntSize    = 12

	layoutPlain  = 0
	layoutInline = 2
)

// image reads directories of a finished image, to find entries in place.
type image struct {
	r    io.ReaderAt
	size int64
	meta int64 // where node 0 is, bytes
	root uint64
	inos uint64
}

func openImage(r io.ReaderAt, size int64) (*image, error) {
	var sb [128]byte
	if _, err := r.ReadAt(sb[:], superblockOffset); err != nil {
		return nil, fmt.Errorf("superblock: %w", err)
	}
	if got := binary.LittleEndian.Uint32(sb[:]); got != magicNumber {
		return nil, fmt.Errorf("superblock has magic %#x", got)
	}
	return &image{
		r: r, size: size,
		meta: int64(binary.LittleEndian.Uint32(sb[metaOffset:])) * BlockSize,
		root: uint64(binary.LittleEndian.Uint16(sb[rootOffset:])),
		inos: binary.LittleEndian.Uint64(sb[inodesOffset:]),
	}, nil
}

// setInodes takes the inodes that hard links left without a name out of the
// count.
func (m *image) setInodes(w io.WriterAt, unused int) error {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], m.inos-uint64(unused))
	_, err := w.WriteAt(b[:], superblockOffset+inodesOffset)
	return err
}

// link makes all names those of the first one's inode. The others were written
// as empty inodes of the same type, whose 32 bytes stay unused.
func (m *image) link(w io.WriterAt, names []string) error {
	nid, _, err := m.find(names[0])
	if err != nil {
		return err
	}
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], nid)
	for _, name := range names[1:] {
		_, at, err := m.find(name)
		if err != nil {
			return err
		}
		if _, err := w.WriteAt(b[:], at); err != nil {
			return err
		}
	}
	return nil
}

// find returns the node number of a path and where its directory entry is.
func (m *image) find(name string) (nid uint64, at int64, err error) {
	dir := m.root
	if parent := path.Dir(name); parent != rootfs.Root {
		for part := range strings.SplitSeq(parent, "/") {
			if dir, _, err = m.entry(dir, part); err != nil {
				return 0, 0, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	if nid, at, err = m.entry(dir, path.Base(name)); err != nil {
		return 0, 0, fmt.Errorf("%s: %w", name, err)
	}
	return nid, at, nil
}

// entry finds a name in a directory.
func (m *image) entry(dir uint64, name string) (nid uint64, at int64, err error) {
	blocks, size, err := m.directory(dir)
	if err != nil {
		return 0, 0, err
	}
	for i := int64(0); i*BlockSize < size; i++ {
		b := make([]byte, min(BlockSize, size-i*BlockSize))
		if _, err := m.r.ReadAt(b, blocks(i)); err != nil && err != io.EOF {
			return 0, 0, err
		}
		first := int(binary.LittleEndian.Uint16(b[8:]))
		if first < direntSize || first > len(b) || first%direntSize != 0 {
			return 0, 0, fmt.Errorf("directory entries of node %d are damaged", dir)
		}
		for o := 0; o < first; o += direntSize {
			start, end := int(binary.LittleEndian.Uint16(b[o+8:])), len(b)
			if o+direntSize < first {
				end = int(binary.LittleEndian.Uint16(b[o+direntSize+8:]))
			}
			if start > end || end > len(b) {
				return 0, 0, fmt.Errorf("directory entries of node %d are damaged", dir)
			}
			if strings.TrimRight(string(b[start:end]), "\x00") == name {
				return binary.LittleEndian.Uint64(b[o:]), blocks(i) + int64(o), nil
			}
		}
	}
	return 0, 0, fmt.Errorf("%q is not in directory node %d", name, dir)
}

// directory returns where each block of a directory is, and its size.
func (m *image) directory(nid uint64) (blocks func(int64) int64, size int64, err error) {
	at := m.meta + int64(nid)*slot
	var b [extendedInode]byte
	if n, err := m.r.ReadAt(b[:], at); n < compactInode {
		return nil, 0, fmt.Errorf("node %d: %w", nid, err)
	}
	format := binary.LittleEndian.Uint16(b[0:])
	head := int64(compactInode)
	size = int64(binary.LittleEndian.Uint32(b[8:]))
	if format&1 == 1 {
		head = extendedInode
		size = int64(binary.LittleEndian.Uint64(b[8:]))
	}
	if n := int64(binary.LittleEndian.Uint16(b[2:])); n > 0 {
		head += 12 + (n-1)*4 // extended attributes
	}
	if size < 0 || size > m.size {
		return nil, 0, fmt.Errorf("node %d: %d bytes do not fit the image", nid, size)
	}
	start := int64(binary.LittleEndian.Uint32(b[16:])) * BlockSize
	inline := at + head
	switch layout := format >> 1 & 7; layout {
	case layoutPlain:
		return func(i int64) int64 { return start + i*BlockSize }, size, nil
	case layoutInline:
		last := size / BlockSize
		return func(i int64) int64 {
			if i == last {
				return inline
			}
			return start + i*BlockSize
		}, size, nil
	default:
		return nil, 0, fmt.Errorf("node %d: layout %d is not known", nid, layout)
	}
}
