package rootfs

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
)

// Conflict is a path that two trees hold with different entries.
type Conflict struct {
	Path string
	Have Entry // in the tree that was merged into; it stays
	Want Entry // in the other tree
	// Reason says what differs: "mode 0644, not 0755".
	Reason string
}

func (c Conflict) String() string { return c.Path + ": " + c.Reason }

// Merge adds every entry of src. A path that both hold with the same
// attributes and contents is no conflict, nor is a directory that either tree
// only implied as a parent; any other one is reported, sorted by path, and
// keeps what t has. An error is a content that could not be read.
func (t *Tree) Merge(src *Tree) ([]Conflict, error) {
	var conflicts []Conflict
	skip := map[string]bool{} // directories of src that conflict
	lost := map[string]bool{} // paths of src that t does not take
	var hard []Entry
	for e := range src.All() {
		if skip[path.Dir(e.Path)] {
			skip[e.Path], lost[e.Path] = true, true
			continue
		}
		have, ok := t.nodes[e.Path]
		switch {
		case ok && have.IsDir() && e.IsDir() && src.nodes[e.Path].implicit:
		case ok && have.IsDir() && e.IsDir() && have.implicit:
			if err := t.put(e); err != nil {
				return nil, err
			}
		case ok:
			reason, err := Difference(have.Entry, e)
			if err != nil {
				return nil, err
			}
			if reason != "" {
				conflicts = append(conflicts, Conflict{Path: e.Path, Have: have.Entry, Want: e, Reason: reason})
				skip[e.Path] = e.IsDir() != have.IsDir()
				lost[e.Path] = true
			}
		case e.Hard != "":
			hard = append(hard, e)
		default:
			if err := t.put(e); err != nil {
				return nil, err
			}
			t.nodes[e.Path].implicit = src.nodes[e.Path].implicit
		}
	}
	for _, e := range hard {
		// A link whose target lost a conflict must not become a link to
		// another file: it keeps its own contents.
		if lost[e.Hard] {
			e.Hard = ""
		}
		if err := t.put(e); err != nil {
			return nil, err
		}
	}
	return conflicts, nil
}

// Difference says how two entries differ in type, mode, owner, link target,
// device numbers, extended attributes or contents, as "X, not Y" with X the
// first one's; "" when they are the same. Paths and hard links are not
// compared.
func Difference(a, b Entry) (string, error) {
	switch {
	case a.Mode != b.Mode:
		return fmt.Sprintf("mode %v, not %v", a.Mode, b.Mode), nil
	case a.UID != b.UID || a.GID != b.GID:
		return fmt.Sprintf("owner %d:%d, not %d:%d", a.UID, a.GID, b.UID, b.GID), nil
	case a.Link != b.Link:
		return fmt.Sprintf("link to %q, not %q", a.Link, b.Link), nil
	case a.Major != b.Major || a.Minor != b.Minor:
		return fmt.Sprintf("device %d:%d, not %d:%d", a.Major, a.Minor, b.Major, b.Minor), nil
	case !maps.EqualFunc(a.Xattrs, b.Xattrs, bytes.Equal):
		return fmt.Sprintf("extended attributes %q, not %q", slices.Sorted(maps.Keys(a.Xattrs)), slices.Sorted(maps.Keys(b.Xattrs))), nil
	case a.Size != b.Size:
		return fmt.Sprintf("%d bytes, not %d", a.Size, b.Size), nil
	case !a.IsRegular() || a.Size == 0:
		return "", nil
	}
	same, err := sameContent(a, b)
	if err != nil || same {
		return "", err
	}
	return fmt.Sprintf("other contents of the same %d bytes", a.Size), nil
}

func sameContent(a, b Entry) (bool, error) {
	ra, err := a.Open()
	if err != nil {
		return false, err
	}
	defer ra.Close()
	rb, err := b.Open()
	if err != nil {
		return false, err
	}
	defer rb.Close()
	ba, bb := bufio.NewReaderSize(ra, 64<<10), bufio.NewReaderSize(rb, 64<<10)
	for {
		x, errA := ba.ReadByte()
		y, errB := bb.ReadByte()
		if errA == io.EOF && errB == io.EOF {
			return true, nil
		}
		if errA == io.EOF || errB == io.EOF {
			return false, nil
		}
		if errA != nil {
			return false, fmt.Errorf("%s: %w", a.Path, errA)
		}
		if errB != nil {
			return false, fmt.Errorf("%s: %w", b.Path, errB)
		}
		if x != y {
			return false, nil
		}
	}
}
