package backups

import (
	"context"
	"slices"
	"time"

	"github.com/sovereign-build/sovereign/internal/backupjob"
	"github.com/sovereign-build/sovereign/pkg/backup"
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

// maxHosts bounds the devices whose newest backups are looked into.
const maxHosts = 4

// Newest asks the repository that the machine's policy names for the newest
// backup of its disk, known by its lineage, by whichever device it was made. A
// machine without a policy has no repository to be asked.
func (m *Manager) Newest(ctx context.Context, name, lineage string) (Newest, error) {
	state, err := m.State(name)
	if err != nil || state.Policy == nil {
		return Newest{}, err
	}
	repository := state.Policy.Repository
	list, err := m.Backups(ctx, name, repository)
	if err != nil {
		return Newest{}, err
	}
	var best Newest
	hosts := map[string]bool{}
	for _, s := range slices.Backward(list) {
		if hosts[s.Host] || len(hosts) == maxHosts {
			continue
		}
		hosts[s.Host] = true
		c, err := m.place(ctx, name, s.ID, repository)
		if err != nil {
			return Newest{}, err
		}
		if c != nil && c.Lineage == lineage && (best.Continuity == nil || c.Epoch > best.Continuity.Epoch) {
			best = Newest{Continuity: c, Time: s.At, Repository: repository, Known: state.Last != nil && state.Last.Snapshot == s.ID}
		}
	}
	return best, nil
}

// place is a backup's place in its disk's history; nil where it has none.
func (m *Manager) place(ctx context.Context, name, id, repository string) (*runtime.Continuity, error) {
	res, err := m.ask(ctx, name, repository, backupjob.Restore, func(j *backupjob.Job) { j.Snapshot = id })
	if err != nil || res.Manifest == nil {
		return nil, err
	}
	return continuity(res.Manifest)
}

// newer is where the newest backup of a device is that has made another one, in
// the same history: who restores that has given it up.
func (m *Manager) newer(ctx context.Context, q Restore, than backup.Snapshot) (*runtime.Continuity, error) {
	list, err := m.Backups(ctx, q.Machine, q.Repository)
	if err != nil {
		return nil, err
	}
	for _, s := range slices.Backward(list) {
		if s.Host == than.Host && s.ID != than.ID {
			return m.place(ctx, q.Machine, s.ID, q.Repository)
		} else if s.Host == than.Host {
			break // it is the newest
		}
	}
	return nil, nil
}
