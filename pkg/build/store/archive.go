package store

import (
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// An archive is a tar of contentsFile, which lists what follows, and the blobs
// in the order of their digests:
//
//	contents.json
//	blobs/sha256/abcd…
//
// The same contents give the same bytes.
const (
	contentsFile  = "contents.json"
	blobDir       = "blobs/sha256/"
	archiveSchema = 1
)

// Bounds of an archive that is imported.
const (
	maxContents = 64 << 20 // bytes of contents.json
	maxBlobs    = 1_000_000
)

// Blob is one blob of an archive.
type Blob struct {
	// Name says what it is, to people: "linux 6.12.107".
	Name   string `json:"name"`
	Digest Digest `json:"digest"`
	Size   int64  `json:"size"` // bytes
}

// Contents is what an archive holds.
type Contents struct {
	// Blobs in any order; one given twice is written once.
	Blobs []Blob
	// Actions by key, for inputs that are made and not fetched under a digest
	// known before. Their outputs are among Blobs.
	Actions map[string]Action
}

// contents is contents.json.
type contents struct {
	Schema  int               `json:"schema"`
	Blobs   []Blob            `json:"blobs"`
	Actions map[string]Action `json:"actions"`
}

// sorted gives the one order and form of c.
func (c Contents) sorted() (contents, error) {
	out := contents{Schema: archiveSchema, Blobs: slices.Clone(c.Blobs), Actions: c.Actions}
	slices.SortStableFunc(out.Blobs, func(a, b Blob) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	out.Blobs = slices.CompactFunc(out.Blobs, func(a, b Blob) bool { return a.Digest == b.Digest })
	if out.Blobs == nil {
		out.Blobs = []Blob{}
	}
	if out.Actions == nil {
		out.Actions = map[string]Action{}
	}
	return out, out.check()
}

// check says what no archive may have.
func (c contents) check() error {
	if c.Schema != archiveSchema {
		return fmt.Errorf("schema %d is not %d; use the version of this program that wrote the archive", c.Schema, archiveSchema)
	}
	if len(c.Blobs) > maxBlobs {
		return fmt.Errorf("more than %d blobs", maxBlobs)
	}
	has := map[Digest]bool{}
	for i, b := range c.Blobs {
		switch {
		case b.Digest.Hex() == "" || b.Size < 0:
			return fmt.Errorf("blob %d: %q of %d bytes is not a blob", i, b.Digest, b.Size)
		case i > 0 && b.Digest <= c.Blobs[i-1].Digest:
			return fmt.Errorf("blob %d: %s is not sorted behind the one before it", i, b.Digest)
		}
		has[b.Digest] = true
	}
	for key, a := range c.Actions {
		if Key(a.Description) != key {
			return fmt.Errorf("action %q: %s is not the digest of its description", a.Name, key)
		}
		for name, d := range a.Outputs {
			if !has[d] {
				return fmt.Errorf("action %q: output %s (%s) is not among the blobs", a.Name, name, d)
			}
		}
	}
	return nil
}

// readContents reads contents.json.
func readContents(r io.Reader) (contents, error) {
	var c contents
	data, err := io.ReadAll(io.LimitReader(r, maxContents+1))
	if err != nil {
		return c, err
	}
	if len(data) > maxContents {
		return c, fmt.Errorf("%s is larger than %d bytes", contentsFile, maxContents)
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("%s: %w", contentsFile, err)
	}
	if err := c.check(); err != nil {
		return c, fmt.Errorf("%s: %w", contentsFile, err)
	}
	return c, nil
}

func blobName(d Digest) string { return path.Join(blobDir, d.Hex()) }

// notArchive is the error for a file of another kind.
func notArchive(err error) error {
	return fault.Errorf(fault.Source, "not an archive of a content store: %w", err)
}
