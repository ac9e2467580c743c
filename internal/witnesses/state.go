package witnesses

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

const (
	stateFile = "witness.json"
	maxState  = 64 << 10
	// maxWitnesses bounds those of a machine.
	maxWitnesses = 8
)

// state is witness.json, which only the device's user may read.
type state struct {
	Schema int `json:"schema"`
	// Lineage is of the disk that the witnesses were told of; "" before that.
	Lineage   string  `json:"lineage,omitempty"`
	Witnesses []entry `json:"witnesses"`
}

// entry is one witness.
type entry struct {
	URL   string    `json:"url"`
	Key   string    `json:"key"` // its public one
	Token string    `json:"token"`
	Added time.Time `json:"added"`
	// Signed is what it has signed to keep, last, and At when. Told is what was
	// on its way when its answer was lost.
	Signed *point    `json:"signed,omitempty"`
	At     time.Time `json:"at,omitzero"`
	Told   *point    `json:"told,omitempty"`
	// Alarm is what is wrong with it; "" for nothing.
	Alarm string `json:"alarm,omitempty"`
}

func (e entry) memory() memory { return memory{e.Signed, e.Told} }

func (s state) of(url string) int {
	for n, e := range s.Witnesses {
		if e.URL == url {
			return n
		}
	}
	return -1
}

func (m *Manager) path(name string) string {
	return filepath.Join(m.r.Dir(), "instances", name, stateFile)
}

// load reads a machine's; one without is empty.
func (m *Manager) load(name string) (state, error) {
	s := state{Schema: 1, Witnesses: []entry{}}
	f, err := os.Open(m.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, fault.Wrap(fault.Environment, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err == nil {
		s, err = parseState(f.Name(), text)
	}
	return s, fault.Wrap(fault.Environment, err)
}

func parseState(name string, text []byte) (state, error) {
	var s state
	if len(text) > maxState {
		return s, fault.Errorf(fault.Environment, "%s has more than %d bytes", name, maxState)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	const hint = "if it was edited, undo that; else use the version of this program that wrote it"
	switch err := d.Decode(&s); {
	case err != nil:
		return s, fault.Errorf(fault.Environment, "%s: %w", name, err).Hintf(hint)
	case s.Schema != 1:
		return s, fault.Errorf(fault.Environment, "%s: schema %d is not one that this program reads", name, s.Schema).Hintf(hint)
	case len(s.Witnesses) > maxWitnesses:
		return s, fault.Errorf(fault.Environment, "%s: %d witnesses: want at most %d", name, len(s.Witnesses), maxWitnesses)
	}
	return s, nil
}

// change reads, changes and writes a machine's.
func (m *Manager) change(name string, f func(*state) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.load(name)
	if err != nil {
		return err
	}
	if err := f(&s); err != nil {
		return err
	}
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fault.Wrap(fault.Internal, err)
	}
	return atomicfile.Write(m.path(name), append(text, '\n'), 0o600)
}

// note changes what is known of one witness, if it is still one.
func (m *Manager) note(name, url string, f func(*state, *entry)) error {
	return m.change(name, func(s *state) error {
		if n := s.of(url); n >= 0 {
			f(s, &s.Witnesses[n])
		}
		return nil
	})
}
