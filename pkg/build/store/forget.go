package store

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Forgetful returns a store with the same blobs that remembers actions in
// another directory, on the same file system. It begins with the actions of s
// but those for whose names forget is true: such a step is done again, while
// its inputs need no second fetching.
func (s *Store) Forgetful(dir string, forget func(name string) bool) (*Store, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	f := &Store{dir: s.dir, memory: abs, session: s.session}
	for _, sub := range []string{"actions", "names"} {
		if err := os.MkdirAll(filepath.Join(abs, sub), 0o755); err != nil {
			return nil, s.environment(fmt.Errorf("content store: %w", err))
		}
	}
	return f, s.Actions(func(key string, a Action) error {
		if forget(a.Name) {
			return nil
		}
		return f.PutAction(key, a)
	})
}

// Actions calls f with every action whose outputs are all there, in the order
// of their keys, until f returns an error.
func (s *Store) Actions(f func(key string, a Action) error) error {
	entries, err := os.ReadDir(filepath.Join(s.memory, "actions"))
	if err != nil {
		return s.environment(fmt.Errorf("action cache: %w", err))
	}
	for _, e := range entries {
		key, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		a, ok, err := s.Action(key)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if err := f(key, a); err != nil {
			return err
		}
	}
	return nil
}
