package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Inputs lists what in the store no step has made, with the actions that keep
// accepts and their outputs: everything that was fetched, for whichever lock.
func (s *Store) Inputs(keep func(Action) bool) (Contents, error) {
	c := Contents{Actions: map[string]Action{}}
	made := map[Digest]bool{}
	names := map[Digest]string{}
	err := s.walk("actions", func(base string) error {
		key := strings.TrimSuffix(base, ".json")
		a, ok, err := s.readAction(key)
		if err != nil || !ok {
			return err
		}
		kept := keep(a)
		for _, d := range a.Outputs {
			if kept {
				kept = s.Has(d)
			}
			made[d] = true
		}
		if kept {
			c.Actions[key] = a
		}
		return nil
	})
	if err != nil {
		return c, err
	}
	for _, a := range c.Actions {
		for _, d := range a.Outputs {
			made[d], names[d] = false, a.Name
		}
	}
	err = s.walk("blobs/sha256", func(base string) error {
		d, err := ParseDigest(algorithm + base)
		if err != nil || made[d] {
			return nil // not a blob's name, or a step's output
		}
		size, err := s.Size(d)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		name := names[d]
		if name == "" {
			name = base[:12]
		}
		c.Blobs = append(c.Blobs, Blob{Name: name, Digest: d, Size: size})
		return err
	})
	return c, err
}

// walk calls fn with the name of every file below a directory of the store.
func (s *Store) walk(sub string, fn func(base string) error) error {
	err := filepath.WalkDir(filepath.Join(s.dir, sub), func(_ string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return fn(d.Name())
	})
	if err != nil {
		return s.environment(fmt.Errorf("content store: %w", err))
	}
	return nil
}
