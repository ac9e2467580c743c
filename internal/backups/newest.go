package backups

import (
	"context"
	"time"

	"github.com/sovereign-build/sovereign/internal/backupjob"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

// Newest is what a machine's repository remembers of its disk.
type Newest struct {
	// Continuity is the disk's place in its history in the newest backup; nil
	// where there is none, or nothing of it is known.
	Continuity *runtime.Continuity
	Time       time.Time
	Repository string
	// Known: it is the last one that this device has made.
	Known bool
}

// Newest asks the repository that the machine's policy names. A machine without
// a policy has none to be asked.
func (m *Manager) Newest(ctx context.Context, name string) (Newest, error) {
	state, err := m.State(name)
	if err != nil || state.Policy == nil {
		return Newest{}, err
	}
	list, err := m.Backups(ctx, name, state.Policy.Repository)
	if err != nil || len(list) == 0 {
		return Newest{}, err
	}
	last := list[len(list)-1]
	n := Newest{Time: last.At, Repository: state.Policy.Repository, Known: state.Last != nil && state.Last.Snapshot == last.ID}
	res, err := m.ask(ctx, name, state.Policy.Repository, backupjob.Restore, func(j *backupjob.Job) { j.Snapshot = last.ID })
	if err != nil || res.Manifest == nil {
		return Newest{}, err
	}
	n.Continuity, err = continuity(res.Manifest)
	return n, err
}
