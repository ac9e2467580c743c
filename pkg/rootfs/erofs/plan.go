package erofs

import (
	"math"
	"path"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// maxFile is the largest file: block numbers have 32 bits.
const maxFile = math.MaxUint32 * BlockSize

// plan says where everything is, before anything is written.
type plan struct {
	tree     *rootfs.Tree
	nodes    []node            // the root, then by path
	children map[int32][]child // of directories, by node
	inodes   uint64
	meta     uint32 // first block of the inodes
	blocks   uint32 // in all
}

// child is a name that is not the root's.
type child struct {
	path string
	node int32
}

// node is an inode.
type node struct {
	path     string
	parent   int32
	kind     byte
	extended bool
	inline   bool // the part of a block at the end is with the inode
	// compressed contents have an index with the inode and, if inline is set,
	// the data of the last extent, of that many bytes; data is how many
	// blocks they have.
	compressed bool
	index      int32
	end        int32
	links      uint32
	xattrs     int    // bytes
	size       int64  // of the contents
	at         int64  // from the first block of the inodes, bytes
	data       uint32 // first block of the contents
}

func (n *node) nid() uint64 { return uint64(n.at / slot) }

func (n *node) inodeSize() int {
	if n.extended {
		return extendedInode
	}
	return compactInode
}

// rest is how much of the contents can be with the inode.
func (n *node) rest() int64 {
	if n.compressed {
		return int64(n.end)
	}
	return n.size % BlockSize
}

// tail is how much of the contents is with the inode.
func (n *node) tail() int {
	if n.inline {
		return int(n.rest())
	}
	return 0
}

// fullBlocks is how many blocks the rest of the contents takes.
func (n *node) fullBlocks() int64 {
	return (n.size - int64(n.tail()) + BlockSize - 1) / BlockSize
}

// Kinds of inodes.
const (
	direntFile = 1
	direntDir  = 2
)

func newPlan(t *rootfs.Tree) (*plan, error) {
	p := &plan{tree: t, nodes: make([]node, 0, t.Len()+1), children: map[int32][]child{}}
	groups := t.HardLinks()
	first := map[string]string{} // the first name of a file, by the others
	for target, names := range groups {
		for _, name := range names[1:] {
			first[name] = target
		}
	}
	dirs, linked := map[string]int32{}, map[string]int32{}
	root, _ := t.Lookup(rootfs.Root)
	if err := p.add(root, 0, 1); err != nil {
		return nil, err
	}
	dirs[rootfs.Root] = 0
	for e := range t.All() {
		parent := dirs[path.Dir(e.Path)]
		id := int32(len(p.nodes))
		if target, ok := first[e.Path]; ok {
			id = linked[target]
		} else {
			links := uint32(1)
			if names := groups[e.Path]; names != nil {
				links, linked[e.Path] = uint32(len(names)), id
			}
			if err := p.add(e, parent, links); err != nil {
				return nil, err
			}
		}
		if e.IsDir() {
			dirs[e.Path] = id
			p.nodes[parent].links++
		}
		p.children[parent] = append(p.children[parent], child{e.Path, id})
	}
	return p, nil
}

// add adds an inode with all that is known of it on its own.
func (p *plan) add(e rootfs.Entry, parent int32, links uint32) error {
	n := node{path: e.Path, parent: parent, kind: rootfs.DirentType(e.Mode), links: links, size: e.Size}
	if e.Size > maxFile {
		return fault.Errorf(fault.Usage, "%s: %d bytes, larger than an image of 2³² blocks of %d bytes", e.Path, e.Size, BlockSize)
	}
	if e.IsDevice() && (e.Major >= 1<<12 || e.Minor >= 1<<20) {
		return fault.Errorf(fault.Usage, "%s: device %d:%d is out of range", e.Path, e.Major, e.Minor)
	}
	if e.IsDir() {
		n.links++
	}
	if e.IsSymlink() {
		n.size = int64(len(e.Link))
	}
	x, err := encodeXattrs(e)
	if err != nil {
		return err
	}
	n.xattrs = len(x)
	n.extended = e.UID > math.MaxUint16 || e.GID > math.MaxUint16 || n.size > math.MaxUint32
	p.nodes = append(p.nodes, n)
	return nil
}

// place gives every inode and every content its place.
func (p *plan) place() error {
	at, data := int64(0), int64(1) // the superblock has the first block
	for i := range p.nodes {
		n := p.complete(i)
		at = n.place(at)
		var err error
		if data, err = n.placeData(data, at); err != nil {
			return err
		}
	}
	p.end(data, at)
	return nil
}

// complete is a node with what is known of it only when all are there.
func (p *plan) complete(i int) *node {
	n := &p.nodes[i]
	if n.kind == direntDir {
		n.size = dirSize(p.names(int32(i)))
		n.extended = n.extended || n.size > math.MaxUint32
	}
	n.extended = n.extended || n.links > math.MaxUint16
	return n
}

// placeData puts contents that are not compressed at a block and returns the
// next one. The inodes so far have that many bytes.
func (n *node) placeData(block, inodes int64) (next int64, err error) {
	blocks := n.fullBlocks()
	if blocks == 0 {
		return block, nil
	}
	if err := n.room(block+blocks, inodes); err != nil {
		return 0, err
	}
	n.data = uint32(block)
	return block + blocks, nil
}

// room checks that an image can be as large.
func (n *node) room(blocks, inodes int64) error {
	if blocks+inodes/BlockSize >= math.MaxUint32 {
		return fault.Errorf(fault.Usage, "%s: the tree is larger than an image of 2³² blocks of %d bytes", n.path, BlockSize)
	}
	return nil
}

// end says where the inodes are and how large the image is.
func (p *plan) end(data, inodes int64) {
	p.inodes = uint64(len(p.nodes))
	p.meta = uint32(data)
	p.blocks = uint32(data + (inodes+BlockSize-1)/BlockSize)
}

// place puts an inode at or after a position and returns where the next one
// may be. Neither the inode nor the contents with it may cross a block.
func (n *node) place(at int64) (next int64) {
	size := int64(n.inodeSize())
	if at%BlockSize+size > BlockSize {
		at = (at + BlockSize - 1) / BlockSize * BlockSize
	}
	head, tail := size+int64(n.xattrs)+int64(n.index), n.rest()
	if tail > 0 {
		room := BlockSize - (at+head)%BlockSize
		if room >= tail {
			n.inline = true
		} else if left := -at & (BlockSize - 1); left < BlockSize-tail && head%BlockSize+tail <= BlockSize {
			// Leaving the rest of this block empty costs less than a block
			// of its own for the tail.
			at += left
			n.inline = true
		}
	}
	n.at = at
	end := at + head + int64(n.tail())
	return (end + slot - 1) / slot * slot
}
