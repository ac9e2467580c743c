package backups

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sovereign-build/sovereign/internal/backupjob"
	"github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/pkg/backup"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

// Restore is what is to be restored, and to where.
type Restore struct {
	Machine    string // whose backup it is
	Snapshot   string // "": the newest
	Repository string // "": the machine's policy's, or the only one
	// As is the new machine's name; "" puts the disk in the place of that of
	// Machine.
	As string
	// Bundle is the bundle for a new machine where the backup has none of its
	// own and no machine of the device has it; nil: none was sent.
	Bundle *machine.Source
	// Moment is what is to be replayed of the log; nil: nothing.
	Moment *Moment
}

// Restore restores a backup. A new machine is wanted down, and isolated.
func (m *Manager) Restore(ctx context.Context, q Restore) (*runtime.RestoreResult, error) {
	name := q.As
	if name == "" {
		name = q.Machine
	}
	release, err := m.hold("the restore of " + name)
	if err != nil {
		return nil, err
	}
	defer release()
	begin := time.Now()
	state, err := m.State(q.Machine)
	if err != nil {
		return nil, err
	}
	if q.Repository, _, err = m.choose(q.Repository, state); err != nil {
		return nil, err
	}
	var res *runtime.RestoreResult
	switch {
	case q.Moment != nil:
		res, err = m.restoreMoment(ctx, q)
	case q.As == "":
		res, err = m.restoreInPlace(ctx, q)
	default:
		res, err = m.restoreNew(ctx, q, false)
	}
	if err != nil {
		return nil, err
	}
	res.TookS = seconds(begin)
	m.o.Report(name, fmt.Sprintf("restored from %s: %d MiB, %.1f s", res.From, res.Read>>20, res.TookS))
	m.o.Changed(name)
	return res, nil
}

// fetch restores a backup's disk into a place, and its bundle's files.
func (m *Manager) fetch(ctx context.Context, q Restore, name, disk, bundleDir string) (*backupjob.Result, error) {
	where, err := m.load(q.Repository)
	if err != nil {
		return nil, err
	}
	j := m.job(q.Repository, where, backupjob.Restore)
	j.Machine, j.Snapshot, j.Disk, j.BundleDir = q.Machine, q.Snapshot, disk, bundleDir
	res, err := m.run(ctx, j, talk{progress: m.progress(name, runtime.ProgressRestore)})
	if err != nil {
		return nil, err
	}
	if res.Manifest == nil || len(res.Snapshots) != 1 {
		return nil, fault.Errorf(fault.Internal, "%s told nothing of what it has restored", backupjob.Program)
	}
	return res, nil
}

// restoreNew makes a machine of a backup.
func (m *Manager) restoreNew(ctx context.Context, q Restore, temporary bool) (_ *runtime.RestoreResult, err error) {
	s, err := m.r.StageNew(ctx, q.As)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	// First whether it can be done at all.
	about, err := m.fetch(ctx, q, q.As, "", "")
	if err != nil {
		return nil, err
	}
	var newer *runtime.Continuity
	if q.Snapshot != "" && !temporary {
		if newer, err = m.newer(ctx, q, about.Snapshots[0]); err != nil {
			return nil, err
		}
	}
	q.Snapshot = about.Snapshots[0].ID // also where another is made meanwhile
	source, err := m.bundle(about.Manifest, q, s)
	if err != nil {
		return nil, err
	}
	res, err := m.fetch(ctx, q, q.As, s.Disk(), s.BundleDir())
	if err != nil {
		return nil, err
	}
	r := newResult(res, q)
	r.Machine, r.New = q.As, !temporary
	options, err := restoredOptions(res.Manifest, q.As)
	if err != nil {
		return nil, err
	}
	c, err := continuity(res.Manifest)
	if err != nil {
		return nil, err
	}
	return r, s.Commit(ctx, machine.Restored{
		Bundle: source, Digest: res.Manifest.Bundle.Digest, Options: options, FileSystem: res.Manifest.Disk.FileSystem, Continuity: c, GivenUp: newer, Temporary: temporary,
	})
}

// bundle is where the bundle of a backup comes from.
func (m *Manager) bundle(b *backup.Manifest, q Restore, s machine.Place) (machine.Source, error) {
	if b.Bundle.Whole {
		return machine.Source{Dir: s.BundleDir(), From: "the backup " + b.Machine, Given: true}, nil
	}
	if q.Bundle != nil {
		return *q.Bundle, nil
	}
	dir, err := m.r.FindBundle(b.Bundle.Digest)
	if err == nil && dir == "" {
		err = fault.Errorf(fault.Usage, "the backup is without its bundle, and no machine here has it: %s, %s for %s", b.Bundle.Digest, b.Bundle.Name, b.Bundle.Arch).
			Hintf("give the bundle: sovereign-build restore … --bundle DIRECTORY")
	}
	return machine.Source{Dir: dir}, err
}

// restoredOptions are a new machine's. The ports that were asked for are the old
// one's, unless it takes its place.
func restoredOptions(b *backup.Manifest, name string) (machine.Options, error) {
	var o machine.Options
	if len(b.Options) > 0 {
		if err := json.Unmarshal(b.Options, &o); err != nil {
			return o, fault.Errorf(fault.Verification, "the backup's options: %w", err)
		}
	}
	if name != b.Machine {
		o.Ports = nil
	}
	o.Isolated = true
	return o, nil
}

// continuity is where the disk of a backup was in its history; nil where that
// is not known. It is what the restored disk is held to, in the place of what
// the machine had come to by then: a restore is the owner's word.
func continuity(b *backup.Manifest) (*runtime.Continuity, error) {
	if len(b.Continuity) == 0 {
		return nil, nil
	}
	var c runtime.Continuity
	if err := json.Unmarshal(b.Continuity, &c); err != nil {
		return nil, fault.Errorf(fault.Verification, "the backup's place in its disk's history: %w", err)
	}
	return &c, nil
}

func newResult(res *backupjob.Result, q Restore) *runtime.RestoreResult {
	s := res.Snapshots[0]
	return &runtime.RestoreResult{
		Machine: q.Machine, Snapshot: s.ID, From: fmt.Sprintf("%s@%s of %s", s.Machine, s.ID, q.Repository),
		Taken: s.At, Bundle: s.Bundle, Read: res.Read,
	}
}

// restoreInPlace puts a backup's disk in the place of the machine's.
func (m *Manager) restoreInPlace(ctx context.Context, q Restore) (_ *runtime.RestoreResult, err error) {
	i, err := m.r.Instance(ctx, q.Machine)
	if err != nil {
		return nil, err
	}
	s, err := m.r.StageInPlace(ctx, q.Machine)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	res, err := m.fetch(ctx, q, q.Machine, s.Disk(), "")
	if err != nil {
		return nil, err
	}
	r := newResult(res, q)
	c, err := continuity(res.Manifest)
	if err != nil {
		return nil, err
	}
	if err := m.expectBreak(q.Machine, "restored from "+r.From); err != nil {
		return nil, err
	}
	if r.Kept, err = s.Replace(ctx, res.Manifest.Disk.FileSystem, c, r.From); err != nil {
		return nil, err
	}
	if _, _, digest, err := i.ActiveBundle(); err == nil && digest != res.Manifest.Bundle.Digest {
		r.Notes = append(r.Notes, fmt.Sprintf("the backup was made under the bundle %.19s…, and the machine has %.19s…", res.Manifest.Bundle.Digest, digest))
	}
	return r, nil
}
