package oci

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// maxLinks is how many symbolic links one name may lead through, Linux's
// MAXSYMLINKS.
const maxLinks = 40

// node is one name in the file system that layers are applied to. A
// rootfs.Tree is a flat map; hiding directories again and again, as hostile
// layers do, needs the hierarchy.
type node struct {
	parent   *node
	children map[string]*node // of a directory
	file     *file            // shared by the names of one file
	length   int              // of the path, in bytes

	// Numbers of layers, from 1: the one that set this name, the last one
	// that set this or a name below, and the last one that hid what lower
	// layers have below.
	set, touched, opaque int
	// implicit is a directory no layer has an entry for.
	implicit bool
}

// file is what hard links share.
type file struct {
	entry rootfs.Entry // Path and Hard are set when the tree is made
	path  string       // first name in the tree, once it is there
}

func implicitDir() *file { return &file{entry: rootfs.Dir("", 0o755)} }

func (n *node) isDir() bool { return n.file.entry.IsDir() }

// overlay is the file system while layers are applied.
type overlay struct {
	root  *node
	layer int // number of the layer being applied, from 1
	// budget has the entries, parents that no layer has an entry for among
	// them: one entry's name can imply 2,000 of those.
	budget *rootfs.Budget
}

func newOverlay(budget *rootfs.Budget) *overlay {
	return &overlay{
		root:   &node{children: map[string]*node{}, file: implicitDir(), implicit: true},
		budget: budget,
	}
}

// dir finds the directory at name, following symbolic links as if the image
// were the whole file system. A missing directory is made.
func (o *overlay) dir(name string) (*node, error) {
	n := o.root
	links := 0
	for rest := name; rest != ""; {
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		switch part {
		case "", ".":
			continue
		case "..": // from a link's target only
			if n.parent != nil {
				n = n.parent
			}
			continue
		}
		c := n.children[part]
		switch {
		case c == nil:
			if err := o.budget.Implied(1); err != nil {
				return nil, err
			}
			var err error
			if c, err = n.add(part, implicitDir()); err != nil {
				return nil, err
			}
			c.implicit = true
			o.touch(c)
		case c.file.entry.IsSymlink():
			if links++; links > maxLinks {
				return nil, fmt.Errorf("%s: more than %d symbolic links", name, maxLinks)
			}
			target := c.file.entry.Link
			if strings.HasPrefix(target, "/") {
				n = o.root
			}
			rest = target + "/" + rest
			continue
		case !c.isDir():
			return nil, fmt.Errorf("%s: its parent %s is not a directory but %v", name, part, c.file.entry.Mode)
		}
		n = c
	}
	return n, nil
}

// add makes a child, replacing one of that name.
func (n *node) add(name string, f *file) (*node, error) {
	c := &node{parent: n, file: f, length: n.length + len(name) + 1}
	// The separator before the first name is counted and is not there.
	if c.length > rootfs.MaxPath+1 || len(name) > rootfs.MaxName {
		return nil, fmt.Errorf("%.40q…: its path is longer than %d bytes", name, rootfs.MaxPath)
	}
	if f.entry.IsDir() {
		c.children = map[string]*node{}
	}
	n.children[name] = c
	return c, nil
}

// touch notes that the current layer has something at n.
func (o *overlay) touch(n *node) {
	for ; n != nil && n.touched != o.layer; n = n.parent {
		n.touched = o.layer
	}
}

// put sets the name to the file. A directory over a directory only changes its
// attributes.
func (o *overlay) put(parent *node, name string, f *file) error {
	n := parent.children[name]
	if n == nil || !n.isDir() || !f.entry.IsDir() {
		var err error
		if n, err = parent.add(name, f); err != nil {
			return err
		}
	}
	n.file, n.implicit, n.set = f, false, o.layer
	o.touch(n)
	return nil
}

// drop takes from a name what lower layers gave it.
func (o *overlay) drop(parent *node, name string, n *node) {
	switch {
	case n.touched != o.layer:
		delete(parent.children, name)
	case n.isDir():
		if n.set != o.layer {
			n.file, n.implicit = implicitDir(), true
		}
		o.hide(n)
	}
}

// hide takes from a directory what lower layers have in it. Each node is
// visited once a layer, however many markers the layer has.
func (o *overlay) hide(dir *node) {
	for n := dir; n != nil; n = n.parent {
		if n.opaque == o.layer {
			return
		}
	}
	o.hideBelow(dir)
}

func (o *overlay) hideBelow(dir *node) {
	if dir.opaque == o.layer {
		return
	}
	dir.opaque = o.layer
	for name, c := range dir.children {
		switch {
		case c.touched != o.layer:
			delete(dir.children, name)
		case c.isDir():
			if c.set != o.layer {
				c.file, c.implicit = implicitDir(), true
			}
			o.hideBelow(c)
		}
	}
}

// tree makes the tree of what is there.
func (o *overlay) tree() (*rootfs.Tree, error) {
	t := rootfs.New()
	if !o.root.implicit {
		root := o.root.file.entry
		root.Path = rootfs.Root
		if err := t.Add(root); err != nil {
			return nil, err
		}
	}
	return t, o.root.addTo(t, "")
}

func (n *node) addTo(t *rootfs.Tree, prefix string) error {
	for _, name := range slices.Sorted(maps.Keys(n.children)) {
		c := n.children[name]
		path := prefix + name
		e := c.file.entry
		e.Path = path
		if c.file.path != "" {
			e = rootfs.Hardlink(path, c.file.path)
		}
		c.file.path = path
		// The tree makes directories that are only implied itself, and knows
		// them for that.
		if !c.implicit || len(c.children) == 0 {
			if err := t.Add(e); err != nil {
				return err
			}
		}
		if err := c.addTo(t, path+"/"); err != nil {
			return err
		}
	}
	return nil
}

// target finds what a hard link is to be another name of, without following
// its last name; nil if it is not there.
func (o *overlay) target(dir, base string) (*node, error) {
	parent, err := o.dir(dir)
	if err != nil {
		return nil, err
	}
	n := parent.children[base]
	if n != nil && n.isDir() {
		return nil, fmt.Errorf("hard link to the directory %s%s", dir, base)
	}
	return n, nil
}
