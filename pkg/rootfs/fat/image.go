package fat

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

const (
	mib = 1 << 20
	// leastSize is the smallest size in whole MiB that FAT32 can have.
	leastSize = 33 * mib
	// maxFile is the largest file, in bytes.
	maxFile = 1<<32 - 1
)

// Options of a file system.
type Options struct {
	// Size in bytes, a multiple of SectorSize. 0 takes the smallest number of
	// MiB, 33 or more, that holds the tree.
	Size int64
	// Type is FAT16, FAT32 or Auto.
	Type Type
	// Epoch is every time in the image, Unix seconds. FAT begins in 1980, so
	// an earlier time is written as 1980-01-01; after 2107 is an error. FAT has
	// local times without a zone: they are in UTC.
	Epoch int64
	// Label is the volume's name: up to 11 of A-Z, 0-9, space and some
	// punctuation. "" is none.
	Label string
	// Serial is the volume's serial number; Linux shows it as the UUID. 0
	// derives one from the contents.
	Serial uint32
}

// Image is a file system laid out and ready to be written.
type Image struct {
	geometry
	root   *node
	nodes  []*node // all with the root, in the order of their clusters
	used   int64   // clusters
	label  short
	serial uint32
	time   dosTime
}

// node is a file or directory.
type node struct {
	rootfs.Entry
	name     string
	short    short
	exact    bool // the short name is the name
	parent   *node
	children []*node
	// names are the children's, without case.
	names map[string]string
	// first cluster, and how many follow each other from there. 0 and 0 are an
	// empty file, or FAT16's root directory.
	first, count int64
}

var noLabel = makeShort("NO NAME", "")

// New lays out the tree. Errors name the path or option they are about and are
// of class fault.Usage.
func New(t *rootfs.Tree, o Options) (*Image, error) {
	image, err := newImage(t, o)
	if err != nil {
		return nil, fault.Errorf(fault.Usage, "fat: %w", err)
	}
	return image, nil
}

func newImage(t *rootfs.Tree, o Options) (*Image, error) {
	i := &Image{serial: o.Serial, label: noLabel}
	var err error
	if i.time, err = newDOSTime(o.Epoch); err != nil {
		return nil, err
	}
	if o.Label != "" {
		if i.label, err = label(o.Label); err != nil {
			return nil, err
		}
	}
	if err := i.read(t); err != nil {
		return nil, err
	}
	if o.Size != 0 {
		if i.geometry, err = newGeometry(o.Type, o.Size); err != nil {
			return nil, err
		}
		if err := i.allocate(); err != nil {
			return nil, fmt.Errorf("%w; give it a larger size", err)
		}
		return i, nil
	}
	var least int64
	for _, n := range i.nodes {
		least += n.Size
	}
	for size := max(leastSize, least/mib*mib); ; size += mib {
		if i.geometry, err = newGeometry(o.Type, size); err != nil {
			return nil, err
		}
		if err = i.allocate(); err == nil || !errors.Is(err, errFull) {
			return i, err
		}
	}
}

// Size of the image in bytes.
func (i *Image) Size() int64 { return i.total * SectorSize }

// Type is FAT16 or FAT32.
func (i *Image) Type() Type { return i.kind }

func label(s string) (short, error) {
	if len(s) > len(short{}) || strings.TrimSpace(s) != s {
		return short{}, fmt.Errorf("label %q is not 1 to 11 characters without spaces around them", s)
	}
	for j := range len(s) {
		if s[j] != ' ' && !shortChar(s[j]) {
			return short{}, fmt.Errorf("label %q: %q cannot be in a label; use A-Z, 0-9, space, - and _", s, s[j])
		}
	}
	l := makeShort("", "")
	copy(l[:], s)
	if l == noLabel {
		return short{}, fmt.Errorf("label %q stands for none", s)
	}
	return l, nil
}

// read takes the tree's entries and names them.
func (i *Image) read(t *rootfs.Tree) error {
	root, _ := t.Lookup(rootfs.Root)
	i.root = &node{Entry: root, names: map[string]string{}}
	i.nodes = []*node{i.root}
	dirs := map[string]*node{rootfs.Root: i.root}
	for e := range t.All() {
		if !e.IsDir() && !e.IsRegular() {
			return fmt.Errorf("%s is a %s, which FAT cannot hold; remove it from the tree", e.Path, kindOf(e))
		}
		if e.Size > maxFile {
			return fmt.Errorf("%s: %d bytes, more than the %d of a file on FAT", e.Path, e.Size, int64(maxFile))
		}
		n := &node{Entry: e, name: path.Base(e.Path), parent: dirs[path.Dir(e.Path)]}
		if err := checkName(n.name); err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
		if other, ok := n.parent.names[fold(n.name)]; ok {
			return fmt.Errorf("%s and %s are one name on FAT; rename one", path.Join(path.Dir(e.Path), other), e.Path)
		}
		n.parent.names[fold(n.name)] = n.name
		if e.IsDir() {
			n.names = map[string]string{}
			dirs[e.Path] = n
		}
		n.parent.children = append(n.parent.children, n)
		i.nodes = append(i.nodes, n)
	}
	for _, dir := range dirs {
		if err := i.shortNames(dir); err != nil {
			return fmt.Errorf("%s: %w", dir.Path, err)
		}
	}
	return nil
}

func kindOf(e rootfs.Entry) string {
	switch e.Mode.Type() {
	case fs.ModeSymlink:
		return "symbolic link"
	case fs.ModeNamedPipe:
		return "pipe"
	case fs.ModeSocket:
		return "socket"
	}
	return "device"
}

// shortNames gives a directory's children their short names: first to those
// whose name is one.
func (i *Image) shortNames(dir *node) error {
	s := shortNames{used: map[short]bool{}, next: map[string]int{}}
	for _, c := range dir.children {
		if c.short, c.exact = exactShort(c.name); c.exact {
			s.used[c.short] = true
		}
	}
	for _, c := range dir.children {
		var err error
		if !c.exact {
			if c.short, err = s.generate(c.name); err != nil {
				return err
			}
		}
	}
	if n := i.entries(dir); n > maxEntries {
		return fmt.Errorf("%d directory entries, more than %d", n, maxEntries)
	}
	return nil
}

var errFull = errors.New("the tree does not fit")

// allocate gives every node its clusters, one after the other.
func (i *Image) allocate() error {
	next := int64(2)
	for _, n := range i.nodes {
		size := n.Size
		if n.IsDir() {
			size = int64(i.entries(n)) * entrySize
			if n == i.root && i.kind == FAT32 {
				size = max(size, 1) // it has a cluster even when empty
			}
		}
		n.first, n.count = 0, 0
		if n == i.root && i.kind == FAT16 {
			if size > rootEntries*entrySize {
				return fmt.Errorf("the root directory has %d entries, more than FAT16's %d", size/entrySize, rootEntries)
			}
			continue
		}
		if n.count = (size + i.clusterBytes() - 1) / i.clusterBytes(); n.count > 0 {
			n.first = next
			next += n.count
		}
		if next-2 > i.clusters {
			return fmt.Errorf("%w: %d clusters of %d bytes are not enough", errFull, i.clusters, i.clusterBytes())
		}
	}
	i.used = next - 2
	return nil
}
