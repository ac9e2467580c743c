package ext4

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"path"
	"slices"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

const lostFound = "lost+found"

// plan is a tree with its inode numbers, in the order the inodes have.
type plan struct {
	tree      *rootfs.Tree
	paths     []string          // sorted
	inodes    []uint32          // of paths; names of one file share one
	alias     []bool            // of paths: an earlier name has the inode
	links     map[uint32]uint32 // of files with several names, by inode
	dirs      map[string]*directory
	lastInode uint32
	// addLostFound: the tree has none.
	addLostFound bool
	data         uint64 // blocks for contents, directories and attributes at most
}

// directory is what is in a directory: positions in plan.paths.
type directory struct {
	children []int32
	subdirs  uint32
	bytes    uint64 // of the entries
}

func newPlan(t *rootfs.Tree) (*plan, error) {
	p := &plan{tree: t, links: map[uint32]uint32{}, dirs: map[string]*directory{rootfs.Root: {}}, lastInode: firstInode}
	first := map[string]string{} // the first name of a file, by the others
	groups := t.HardLinks()
	for target, names := range groups {
		if len(names) > MaxLinks {
			return nil, fault.Errorf(fault.Usage, "%s has %d names, more than %d", target, len(names), MaxLinks)
		}
		for _, name := range names[1:] {
			first[name] = target
		}
	}
	p.paths = make([]string, 0, t.Len())
	p.inodes = make([]uint32, 0, t.Len())
	p.alias = make([]bool, 0, t.Len())
	e, ok := t.Lookup(lostFound)
	switch {
	case !ok:
		p.addLostFound = true
		p.dirs[lostFound] = &directory{}
		p.dirs[rootfs.Root].subdirs++
		p.dirs[rootfs.Root].bytes += uint64(direntSize(lostFound))
	case !e.IsDir():
		return nil, fault.Errorf(fault.Usage, "%s is %v; ext4 needs it to be a directory", lostFound, e.Mode)
	}
	root, _ := t.Lookup(rootfs.Root)
	if err := p.add(root); err != nil {
		return nil, err
	}
	numbers := map[string]uint32{} // of files with several names
	for e := range t.All() {
		target, isAlias := first[e.Path]
		var ino uint32
		switch {
		case isAlias:
			ino = numbers[target]
		case e.Path == lostFound:
			ino = lostFoundInode
		default:
			p.lastInode++
			ino = p.lastInode
		}
		if names := groups[e.Path]; names != nil {
			numbers[e.Path] = ino
			p.links[ino] = uint32(len(names))
		}
		dir := p.dirs[path.Dir(e.Path)]
		dir.children = append(dir.children, int32(len(p.paths)))
		dir.bytes += uint64(direntSize(path.Base(e.Path)))
		if e.IsDir() {
			dir.subdirs++
			p.dirs[e.Path] = &directory{}
		}
		p.paths = append(p.paths, e.Path)
		p.inodes = append(p.inodes, ino)
		p.alias = append(p.alias, isAlias)
		if !isAlias {
			if err := p.add(e); err != nil {
				return nil, err
			}
		}
	}
	for _, d := range p.dirs {
		p.data += d.maxBlocks()
	}
	p.data += lostFoundBlocks
	return p, nil
}

// add checks that ext4 can hold an entry and counts its blocks, but those of
// directories.
func (p *plan) add(e rootfs.Entry) error {
	x, err := encodeXattrs(e)
	if err != nil {
		return err
	}
	if x.needsBlock() {
		p.data++
	}
	switch {
	case e.Size > maxFile:
		return fault.Errorf(fault.Usage, "%s: %d bytes are more than the %d of an ext4 file", e.Path, e.Size, int64(maxFile))
	case e.IsDevice() && (e.Major >= 1<<12 || e.Minor >= 1<<20):
		return fault.Errorf(fault.Usage, "%s: device %d:%d is out of range", e.Path, e.Major, e.Minor)
	case e.IsRegular():
		// A file with holes has less data than it saves the extent tree; one
		// without has an extent for each of the runs groups come in.
		n := ceilDiv(uint64(e.Size), BlockSize)
		p.data += n + n/(groupBlocks/2)
	case e.IsSymlink() && len(e.Link) >= fastSymlink:
		p.data++
	}
	return nil
}

// layout lays out the file system for the options.
func (p *plan) layout(o Options) (*layout, error) {
	least := uint64(p.lastInode) + uint64(p.lastInode)/8 + 16
	lay := func(blocks uint64) (*layout, error) {
		journal := uint64(o.JournalSize) / BlockSize
		if journal == 0 {
			journal = defaultJournal(blocks)
		}
		return newLayout(blocks, least, uint64(o.BytesPerInode), journal)
	}
	if o.Size != 0 {
		return lay(uint64(o.Size) / BlockSize)
	}
	// Larger file systems have larger fixed parts: grow until all fits.
	content := p.data + p.data/8 + 8<<20/BlockSize
	for blocks := max(content, MinSize/BlockSize); ; {
		const step = 1 << 20 / BlockSize
		blocks = roundUp(blocks, step)
		if blocks*BlockSize > MaxSize {
			return nil, fault.Errorf(fault.Usage, "the tree needs %d blocks, more than an image can have", content)
		}
		l, err := lay(blocks)
		if err != nil {
			blocks += blocks / 4
			continue
		}
		if need := content + l.overhead(); need > l.blocks {
			blocks = max(need, blocks+step)
			continue
		}
		return l, nil
	}
}

// uuid is a UUID of version 8 (RFC 9562) from all that can be known of the
// tree without reading contents.
func (p *plan) uuid(o Options) (id [16]byte) {
	h := sha256.New()
	fmt.Fprintf(h, "ext4 %d %d %q %d %d %d\n", o.Epoch, o.Size, o.Label, o.BytesPerInode, o.ReservedPercent, o.JournalSize)
	entry := func(name string, ino uint32) {
		e, _ := p.tree.Lookup(name)
		fmt.Fprintf(h, "%q %d %o %d %d %d %q %d %d\n", name, ino, rootfs.UnixMode(e.Mode), e.UID, e.GID, e.Size, e.Link, e.Major, e.Minor)
		for _, key := range slices.Sorted(maps.Keys(e.Xattrs)) {
			fmt.Fprintf(h, " %q %q\n", key, e.Xattrs[key])
		}
	}
	entry(rootfs.Root, rootInode)
	for i, name := range p.paths {
		entry(name, p.inodes[i])
	}
	copy(id[:], h.Sum(nil))
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return id
}

// hashSeed is what names are hashed with: fixed for a UUID.
func hashSeed(uuid [16]byte) (seed [4]uint32) {
	sum := sha256.Sum256(append([]byte("ext4 directory hash\n"), uuid[:]...))
	for i := range seed {
		seed[i] = binary.LittleEndian.Uint32(sum[4*i:])
	}
	return seed
}
