package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// maxAction bounds an action's file; the largest real one (a kernel step with
// its fragments' digests) is a few KiB.
const maxAction = 16 << 20

// Action is what a step made from what. Description is the step's inputs as
// JSON, so that a later miss can say which of them changed.
type Action struct {
	// Name of the step, the same for every version of its inputs:
	// "zlib (arm64)".
	Name        string            `json:"name"`
	Description json.RawMessage   `json:"description"`
	Outputs     map[string]Digest `json:"outputs"`
	// Signer is the key of whoever made it, where that was another machine; empty
	// for what was made here. Whether it counts is decided when it is used.
	Signer string `json:"signer,omitempty"`
}

// Key is the action cache's key for a description of inputs: the hex SHA-256
// of its bytes.
func Key(description []byte) string { return FromBytes(description).Hex() }

// PutAction records what the inputs described by key made. Every output must
// be in the store already.
func (s *Store) PutAction(key string, a Action) error {
	if !isHex(key) {
		return fault.Errorf(fault.Internal, "action key %q is not 64 hex digits", key)
	}
	for name, d := range a.Outputs {
		if !s.Has(d) {
			return fault.Errorf(fault.Internal, "action %q: output %s (%s) is not in the store", a.Name, name, d)
		}
	}
	if err := s.session.hold(Digest(algorithm + key)); err != nil {
		return s.environment(fmt.Errorf("action %q: %w", a.Name, err))
	}
	if len(a.Description) == 0 {
		a.Description = json.RawMessage("null")
	}
	b, err := json.Marshal(a)
	if err != nil {
		return fault.Errorf(fault.Internal, "action %q: %w", a.Name, err)
	}
	if err := s.writeFile(s.actionPath(key), b); err != nil {
		return s.environment(fmt.Errorf("action %q: %w", a.Name, err))
	}
	if err := s.writeFile(s.namePath(a.Name), []byte(key)); err != nil {
		return s.environment(fmt.Errorf("action %q: %w", a.Name, err))
	}
	return nil
}

// Action returns what was recorded under key. It is false if nothing was, or
// if an output's blob is gone, or if the record is damaged: in each case the
// step has to run again.
func (s *Store) Action(key string) (Action, bool, error) {
	if err := s.session.hold(Digest(algorithm + key)); err != nil {
		return Action{}, false, s.environment(fmt.Errorf("action cache: %w", err))
	}
	a, ok, err := s.readAction(key)
	if !ok || err != nil {
		return Action{}, false, err
	}
	for _, d := range a.Outputs {
		if !s.Has(d) {
			return Action{}, false, nil
		}
	}
	if info, err := os.Stat(s.actionPath(key)); err == nil {
		used(s.actionPath(key), info)
	}
	return a, true, nil
}

// LastAction returns the action recorded most recently under a step's name,
// whatever its inputs and whether or not its outputs are still there: compare
// its Description to say why a step has to run again.
func (s *Store) LastAction(name string) (Action, bool, error) {
	key, err := readLimited(s.namePath(name), 128)
	if errors.Is(err, fs.ErrNotExist) {
		return Action{}, false, nil
	}
	if err != nil {
		return Action{}, false, fault.Errorf(fault.Environment, "last action of %q: %w", name, err)
	}
	a, ok, err := s.readAction(string(key))
	if err != nil || !ok || a.Name != name {
		return Action{}, false, err
	}
	return a, true, nil
}

func (s *Store) readAction(key string) (Action, bool, error) {
	if !isHex(key) {
		return Action{}, false, nil
	}
	b, err := readLimited(s.actionPath(key), maxAction)
	if errors.Is(err, fs.ErrNotExist) {
		return Action{}, false, nil
	}
	if err != nil {
		return Action{}, false, fault.Errorf(fault.Environment, "action cache: %w", err)
	}
	var a Action
	if json.Unmarshal(b, &a) != nil {
		return Action{}, false, nil // damaged: as good as absent, rewritten by the next run
	}
	return a, true, nil
}

func (s *Store) actionPath(key string) string {
	return filepath.Join(s.memory, "actions", key+".json")
}

func (s *Store) namePath(name string) string {
	return filepath.Join(s.memory, "names", FromBytes([]byte(name)).Hex())
}

// readLimited reads a file of at most limit bytes; more is an error.
func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	err = errors.Join(err, f.Close())
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return b, err
}
