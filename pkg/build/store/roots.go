package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Kinds of roots.
const (
	LockRoot   = "lock"   // a lock file
	BundleRoot = "bundle" // a bundle's directory
)

// Root is something outside the store that names blobs in it. The store
// remembers where it is, and forgets it when it is gone.
type Root struct {
	Kind string `json:"kind"`
	Path string `json:"path"` // absolute
	// Digests are what it named when it was last used.
	Digests []Digest `json:"digests"`
}

// AddRoot remembers a root, or that it was used again.
func (s *Store) AddRoot(r Root) error {
	if !filepath.IsAbs(r.Path) {
		return fault.Errorf(fault.Internal, "the root %s is not an absolute path", r.Path)
	}
	r.Digests = slices.Clone(r.Digests)
	slices.Sort(r.Digests)
	r.Digests = slices.Compact(r.Digests)
	if err := s.session.hold(r.Digests...); err != nil {
		return s.environment(fmt.Errorf("content store: %w", err))
	}
	text, err := json.Marshal(r)
	if err != nil {
		return fault.Errorf(fault.Internal, "root %s: %w", r.Path, err)
	}
	path := filepath.Join(s.dir, "roots", FromBytes([]byte(r.Kind+"\x00"+r.Path)).Hex()+".json")
	if info, err := os.Stat(path); err == nil {
		// The same again needs no writing, and a build no syncing.
		if have, err := readLimited(path, maxAction); err == nil && bytes.Equal(have, text) {
			used(path, info)
			return nil
		}
	}
	if err := s.writeFile(path, text); err != nil {
		return s.environment(fmt.Errorf("root %s: %w", r.Path, err))
	}
	return nil
}

// eachRoot calls fn for each root, with the path of its record and the time of
// its last use. A damaged record is nobody's.
func (s *Store) eachRoot(fn func(record string, lastUse time.Time, r Root) error) error {
	dir := filepath.Join(s.dir, "roots")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		info, err := e.Info()
		var text []byte
		if err == nil {
			text, err = readLimited(path, maxAction)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		var r Root
		if json.Unmarshal(text, &r) != nil {
			r = Root{}
		}
		if err := fn(path, info.ModTime(), r); err != nil {
			return err
		}
	}
	return nil
}

// Roots are what outside of the store names blobs in it, in no order.
func (s *Store) Roots() ([]Root, error) {
	var all []Root
	err := s.eachRoot(func(_ string, _ time.Time, r Root) error {
		if r.Path != "" {
			all = append(all, r)
		}
		return nil
	})
	return all, s.environment(err)
}
