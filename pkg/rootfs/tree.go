package rootfs

import (
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"strings"
)

// Tree is a file system: entries by path. The zero value is not usable; New
// makes one. A tree is not safe for concurrent changes; reading it from
// several goroutines is.
type Tree struct {
	nodes map[string]*node
	// links counts the hard links to a path, so that removing a path nobody
	// links to stays cheap.
	links map[string]int
	// searched counts the entries that Remove has looked at: all of them for
	// each directory, and for each file that others are links to.
	searched int64
}

type node struct {
	Entry
	// implicit is a parent directory made by Add: a later Add of that
	// directory gives it its attributes.
	implicit bool
}

// New returns a tree that holds only its root directory, 0755 of root.
func New() *Tree {
	t := &Tree{nodes: map[string]*node{}, links: map[string]int{}}
	t.nodes[Root] = &node{Entry: Entry{Path: Root, Mode: fs.ModeDir | 0o755}, implicit: true}
	return t
}

// Add adds an entry. Missing parents become directories, 0755 of root; a
// parent that is anything but a directory (a symbolic link too) is an error,
// as is a path that is there already (fs.ErrExist), except a directory that
// Add itself made as a parent. A hard link takes the attributes of its target,
// which must be there and be no directory.
func (t *Tree) Add(e Entry) error {
	if old, ok := t.nodes[e.Path]; ok && (!old.implicit || !e.IsDir()) {
		return fmt.Errorf("%s: %w", e.Path, fs.ErrExist)
	}
	return t.put(e)
}

// Set is Add that replaces what is at the path. A directory replaced by
// anything but a directory loses what is below it. A hard link of a file to
// itself changes nothing.
func (t *Tree) Set(e Entry) error {
	if old, ok := t.nodes[e.Path]; ok && (!old.IsDir() || !e.IsDir()) {
		// Checked first, so that a bad entry leaves the tree as it was.
		if err := t.checkNew(&e); err != nil {
			return err
		}
		if e.Hard == e.Path {
			return nil // the two are names of one file already
		}
		t.Remove(e.Path)
	}
	return t.put(e)
}

func (t *Tree) put(e Entry) error {
	if err := t.checkNew(&e); err != nil {
		return err
	}
	if e.Path != Root {
		for dir := parentOf(e.Path); t.nodes[dir] == nil; dir = parentOf(dir) {
			t.nodes[dir] = &node{Entry: Entry{Path: dir, Mode: fs.ModeDir | 0o755}, implicit: true}
		}
	}
	if e.Hard != "" {
		t.links[e.Hard]++
	}
	t.nodes[e.Path] = &node{Entry: e}
	return nil
}

// parentOf is the directory that holds a path of a tree, without looking at the
// rest of it: a path may have 2,000 parts.
func parentOf(name string) string {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i]
	}
	return Root
}

// checkNew completes e and says why it cannot be in the tree.
func (t *Tree) checkNew(e *Entry) error {
	if e.Hard != "" {
		target, ok := t.nodes[e.Hard]
		if !ok {
			return fmt.Errorf("%s: hard link to %s, which is not there: %w", e.Path, e.Hard, fs.ErrNotExist)
		}
		if target.IsDir() {
			return fmt.Errorf("%s: hard link to the directory %s", e.Path, e.Hard)
		}
		link := target.Entry
		link.Path, link.Hard = e.Path, target.Path
		if target.Hard != "" {
			link.Hard = target.Hard
		}
		*e = link
	}
	if s, ok := e.Content.(sized); ok && e.Mode.IsRegular() {
		if e.Size != 0 && e.Size != s.Size() {
			return fmt.Errorf("%s: size %d, contents of %d bytes", e.Path, e.Size, s.Size())
		}
		e.Size = s.Size()
	}
	if err := e.check(); err != nil {
		return err
	}
	if e.Path == Root {
		if !e.IsDir() {
			return fmt.Errorf("the root of a tree must be a directory")
		}
		return nil
	}
	for dir := parentOf(e.Path); dir != Root; dir = parentOf(dir) {
		p, ok := t.nodes[dir]
		if ok && !p.IsDir() {
			return fmt.Errorf("%s: the parent %s is not a directory but %v", e.Path, dir, p.Mode)
		}
		if ok {
			break // whose own parents are directories
		}
	}
	return nil
}

// Remove removes a path and everything below it. A hard link to a removed
// path keeps the contents. Removing what is not there does nothing; the root
// stays, empty.
func (t *Tree) Remove(name string) {
	n, ok := t.nodes[name]
	if !ok {
		return
	}
	if n.IsDir() {
		t.searched += int64(len(t.nodes))
		for p := range t.nodes {
			if p != Root && p != name && (name == Root || len(p) > len(name) && p[:len(name)] == name && p[len(name)] == '/') {
				t.removeOne(p)
			}
		}
	}
	if name != Root {
		t.removeOne(name)
	}
}

func (t *Tree) removeOne(name string) {
	n := t.nodes[name]
	delete(t.nodes, name)
	if n.Hard != "" {
		if t.links[n.Hard]--; t.links[n.Hard] == 0 {
			delete(t.links, n.Hard)
		}
	}
	if t.links[name] == 0 {
		return
	}
	// The first of the other names, in order, takes the target's place.
	var others []string
	t.searched += int64(len(t.nodes))
	for p, o := range t.nodes {
		if o.Hard == name {
			others = append(others, p)
		}
	}
	delete(t.links, name)
	slices.Sort(others)
	for i, p := range others {
		if i == 0 {
			t.nodes[p].Hard = ""
			continue
		}
		t.nodes[p].Hard = others[0]
		t.links[others[0]]++
	}
}

// Lookup returns the entry at a path; Root is the root directory.
func (t *Tree) Lookup(name string) (Entry, bool) {
	n, ok := t.nodes[name]
	if !ok {
		return Entry{}, false
	}
	return n.Entry, true
}

// Len is the number of entries without the root.
func (t *Tree) Len() int { return len(t.nodes) - 1 }

// All gives every entry but the root, sorted by path as bytes, which puts
// parents before what they hold. The tree may be changed while it runs; the
// entries are those it held at the start, less those removed since.
func (t *Tree) All() iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		for _, p := range slices.Sorted(maps.Keys(t.nodes)) {
			if p == Root {
				continue
			}
			if n, ok := t.nodes[p]; ok && !yield(n.Entry) {
				return
			}
		}
	}
}

// HardLinks returns the groups of two and more names of one file: by the name
// that sorts first, all names sorted. It does not depend on which name is the
// target of which, so writers use it to be independent of the order of
// insertion.
func (t *Tree) HardLinks() map[string][]string {
	byTarget := map[string][]string{}
	for target := range t.links {
		byTarget[target] = []string{target}
	}
	for p, n := range t.nodes {
		if n.Hard != "" {
			byTarget[n.Hard] = append(byTarget[n.Hard], p)
		}
	}
	groups := make(map[string][]string, len(byTarget))
	for _, names := range byTarget {
		slices.Sort(names)
		groups[names[0]] = names
	}
	return groups
}

// Dir is a directory entry; perm may hold setgid and sticky bits.
func Dir(name string, perm fs.FileMode) Entry {
	return Entry{Path: name, Mode: fs.ModeDir | perm}
}

// Regular is a regular file that holds data.
func Regular(name string, perm fs.FileMode, data []byte) Entry {
	return Entry{Path: name, Mode: perm, Size: int64(len(data)), Content: Bytes(data)}
}

// Symlink is a symbolic link to target.
func Symlink(name, target string) Entry {
	return Entry{Path: name, Mode: fs.ModeSymlink | 0o777, Link: target}
}

// Hardlink is another name of the entry at target.
func Hardlink(name, target string) Entry { return Entry{Path: name, Hard: target} }
