package rootfs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"slices"
)

// ChangeKind says what happened to a path between two trees.
type ChangeKind string

// Kinds of changes.
const (
	Added   ChangeKind = "added"
	Removed ChangeKind = "removed"
	Changed ChangeKind = "changed"
)

// Change is one path that differs between two trees.
type Change struct {
	Path string     `json:"path"`
	Kind ChangeKind `json:"kind"`
	// Attributes differ; empty for a path that is in one tree only.
	Attributes []Attribute `json:"attributes,omitempty"`
	// Bytes is set when both are regular files with different contents.
	Bytes *BytesChange `json:"bytes,omitempty"`
}

// Attribute is one attribute before and after, as text: "mode" (as ls shows
// it), "owner" (UID:GID), "size" (bytes), "digest" ("sha256:…"), "link",
// "device" (major:minor), "hard link" (the first name of the file) and
// "xattr NAME" (hex; empty where there is none).
type Attribute struct {
	Name   string `json:"name"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// BytesChange is the first difference of two files' contents.
type BytesChange struct {
	// Offset of the first byte that differs, counted from 0; the length of
	// the shorter file when that is the start of the longer.
	Offset int64 `json:"offset"`
	// Before and After are up to 16 bytes from there, in hex.
	Before string `json:"before"`
	After  string `json:"after"`
}

// shown is how many bytes of a difference are.
const shown = 16

// Diff compares two trees, contents included, and returns what differs,
// sorted by path. Equal trees give none.
func Diff(ctx context.Context, a, b *Tree) ([]Change, error) {
	paths := slices.Sorted(maps.Keys(a.nodes))
	for p := range b.nodes {
		if _, ok := a.nodes[p]; !ok {
			paths = append(paths, p)
		}
	}
	slices.Sort(paths)
	firstA, firstB := firstNames(a), firstNames(b)
	var changes []Change
	bufs := new(diffBuffers)
	for _, p := range paths {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		before, inA := a.Lookup(p)
		after, inB := b.Lookup(p)
		switch {
		case !inA:
			changes = append(changes, Change{Path: p, Kind: Added})
			continue
		case !inB:
			changes = append(changes, Change{Path: p, Kind: Removed})
			continue
		}
		c := Change{Path: p, Kind: Changed}
		c.compare("hard link", firstA[p], firstB[p])
		c.compareEntries(before, after)
		if before.IsRegular() && after.IsRegular() {
			if err := c.compareContents(before, after, bufs); err != nil {
				return nil, err
			}
		}
		if len(c.Attributes) > 0 {
			changes = append(changes, c)
		}
	}
	return changes, nil
}

// firstNames maps every hard link that is not the first name of its file to
// the one that is.
func firstNames(t *Tree) map[string]string {
	first := map[string]string{}
	for name, names := range t.HardLinks() {
		for _, other := range names[1:] {
			first[other] = name
		}
	}
	return first
}

func (c *Change) compare(name, before, after string) {
	if before != after {
		c.Attributes = append(c.Attributes, Attribute{name, before, after})
	}
}

func (c *Change) compareEntries(a, b Entry) {
	c.compare("mode", a.Mode.String(), b.Mode.String())
	c.compare("owner", fmt.Sprintf("%d:%d", a.UID, a.GID), fmt.Sprintf("%d:%d", b.UID, b.GID))
	c.compare("link", a.Link, b.Link)
	if a.IsDevice() || b.IsDevice() {
		c.compare("device", fmt.Sprintf("%d:%d", a.Major, a.Minor), fmt.Sprintf("%d:%d", b.Major, b.Minor))
	}
	names := slices.Collect(maps.Keys(a.Xattrs))
	names = slices.AppendSeq(names, maps.Keys(b.Xattrs))
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		c.compare("xattr "+name, hex.EncodeToString(a.Xattrs[name]), hex.EncodeToString(b.Xattrs[name]))
	}
}

// diffBuffers are what two files are read into, once for all of them: a tree
// has hundreds of thousands.
type diffBuffers [2][64 << 10]byte

// compareContents reads both files to their ends, for their digests.
func (c *Change) compareContents(a, b Entry, bufs *diffBuffers) (err error) {
	before, err := openHashed(a)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, before.Close()) }()
	after, err := openHashed(b)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, after.Close()) }()
	x, y := bufs[0][:], bufs[1][:]
	var at int64
	for {
		n, errA := io.ReadFull(before, x)
		m, errB := io.ReadFull(after, y)
		if c.Bytes == nil && !bytes.Equal(x[:n], y[:m]) {
			i := 0
			for i < min(n, m) && x[i] == y[i] {
				i++
			}
			c.Bytes = &BytesChange{at + int64(i), hex.EncodeToString(x[i:min(n, i+shown)]), hex.EncodeToString(y[i:min(m, i+shown)])}
		}
		for _, e := range []error{errA, errB} {
			if e != nil && !errors.Is(e, io.EOF) && !errors.Is(e, io.ErrUnexpectedEOF) {
				return fmt.Errorf("%s: %w", c.Path, e)
			}
		}
		if errA != nil && errB != nil {
			break
		}
		at += int64(len(x))
	}
	c.compare("size", fmt.Sprint(before.n), fmt.Sprint(after.n))
	c.compare("digest", before.digest(), after.digest())
	return nil
}

// hashed is the contents of an entry, hashed as they are read.
type hashed struct {
	io.ReadCloser
	h hash.Hash
	n int64
}

func openHashed(e Entry) (*hashed, error) {
	rc, err := e.Open()
	if err != nil {
		return nil, err
	}
	return &hashed{ReadCloser: rc, h: sha256.New()}, nil
}

func (h *hashed) Read(p []byte) (int, error) {
	n, err := h.ReadCloser.Read(p)
	h.h.Write(p[:n])
	h.n += int64(n)
	return n, err
}

func (h *hashed) digest() string { return "sha256:" + hex.EncodeToString(h.h.Sum(nil)) }
