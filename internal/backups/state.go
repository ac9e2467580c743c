package backups

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/backup"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

// stateFile is in a machine's directory.
const (
	stateFile = "backup.json"
	maxState  = 1 << 20
)

// State is that file: what is wanted of a machine's backups, and what became of
// them.
type State struct {
	Schema int            `json:"schema"`
	Policy *backup.Policy `json:"policy,omitempty"`
	// Since is when the policy was last changed.
	Since time.Time `json:"since,omitzero"`
	Last  *Done     `json:"last,omitempty"`
	Drill *Done     `json:"drill,omitempty"`
	// Failed and DrillFailed are tries that came after those; nil: none.
	Failed      *Failure `json:"failed,omitempty"`
	DrillFailed *Failure `json:"drill_failed,omitempty"`
	// Log is what became of the log; nil where none was kept yet.
	Log *LogState `json:"log,omitempty"`
}

// Done is a backup or a drill that was done.
type Done struct {
	Snapshot string    `json:"snapshot"`
	At       time.Time `json:"at"`
	TookS    float64   `json:"took_s"`
	// Log is how far a drill has replayed the log; nil: it did not.
	Log *backup.Reached `json:"log,omitempty"`
}

// Failure is one that failed.
type Failure struct {
	At    time.Time   `json:"at"`
	Tries int         `json:"tries"`
	Class fault.Class `json:"class"`
	Why   string      `json:"why"`
}

func (m *Manager) statePath(machine string) string {
	return filepath.Join(m.r.Dir(), "instances", machine, stateFile)
}

// State reads a machine's; one without is empty.
func (m *Manager) State(machine string) (State, error) {
	s := State{Schema: 1}
	path := m.statePath(machine)
	text, err := readBounded(path, maxState)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	if err := decode(path, text, &s); err != nil {
		return s, err
	}
	if s.Schema != 1 {
		return s, fault.Errorf(fault.Environment, "%s: schema %d is not one that this program reads", path, s.Schema).Hintf("use the version of this program that wrote it")
	}
	return s, nil
}

// change changes a machine's state.
func (m *Manager) change(machine string, f func(*State)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.State(machine)
	if err != nil {
		return err
	}
	f(&s)
	if err := atomicfile.Write(m.statePath(machine), encode(s), 0o600); err != nil {
		return err
	}
	m.o.Changed(machine)
	m.poke()
	return nil
}

func encode(v any) []byte {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(err) // of values of this package
	}
	return append(text, '\n')
}

// slack is how many times as long as its policy has it a backup or a drill may
// be away before that is an alarm.
const slack = 2

// Status is what status says of a machine's backups; nil where there is nothing
// to say.
func (m *Manager) Status(machine string, now time.Time) *runtime.BackupStatus {
	s, err := m.State(machine)
	if err != nil {
		return &runtime.BackupStatus{Alarms: []string{err.Error()}}
	}
	if s.Policy == nil && s.Last == nil && s.Failed == nil && s.Drill == nil && s.DrillFailed == nil {
		return nil
	}
	b := &runtime.BackupStatus{Policy: s.Policy, Alarms: s.alarms(now)}
	if why, ok := m.holding.Load(machine); ok {
		b.Waiting, _ = why.(string)
	}
	b.Log = m.logStatus(machine, s)
	b.Alarms = append(b.Alarms, logAlarms(b.Log, s, m.isUp(machine), now)...)
	if d := s.Last; d != nil {
		b.Last = &runtime.BackupDone{Snapshot: d.Snapshot, At: d.At, TookS: d.TookS}
	}
	if d := s.Drill; d != nil {
		b.Proven = &runtime.BackupDone{Snapshot: d.Snapshot, At: d.At, TookS: d.TookS, Log: d.Log}
	}
	return b
}

// alarms says what is wrong, in the order of what it may cost.
func (s State) alarms(now time.Time) []string {
	var list []string
	if f := s.Failed; f != nil {
		what := "the last backup failed"
		if f.Class == fault.Source {
			what = "the repository is away"
		}
		list = append(list, fmt.Sprintf("%s (%d tries until %s): %s", what, f.Tries, f.At.Format(time.RFC3339), f.Why))
	}
	if f := s.DrillFailed; f != nil {
		list = append(list, fmt.Sprintf("the last drill failed, at %s: %s", f.At.Format(time.RFC3339), f.Why))
	}
	if s.Policy == nil {
		return list
	}
	old := func(what string, every time.Duration, d *Done) {
		if every == 0 {
			return
		}
		since, said := s.Since, "there is none"
		if d != nil {
			since, said = d.At, "the last one was at "+d.At.Format(time.RFC3339)
		}
		if age := now.Sub(since); age > slack*every {
			list = append(list, fmt.Sprintf("no %s for %v, where there is to be one every %v: %s", what, age.Round(time.Minute), every, said))
		}
	}
	old("backup", s.Policy.Every(), s.Last)
	old("drill that passed", s.Policy.Drill(), s.Drill)
	return list
}

// decode reads a file of ours; a key that it does not know is of a newer
// version, which wants something that this one would not do.
func decode(path string, text []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fault.Errorf(fault.Environment, "%s: %w", path, err).
			Hintf("if it was edited, undo that; else use the version of this program that wrote it")
	}
	return nil
}
