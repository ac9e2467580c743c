package backups

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/sovereign-build/sovereign/internal/backupjob"
	"github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/pkg/backup"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

// Backup makes a backup of a machine, running or not, in a repository ("": its
// policy's, or the only one). It returns when the backup is there and has been
// looked for.
func (m *Manager) Backup(ctx context.Context, name, repository string, withBundle bool) (*backup.Snapshot, error) {
	release, err := m.hold("the backup of " + name)
	if err != nil {
		return nil, err
	}
	defer release()
	state, err := m.State(name)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	s, err := m.backup(ctx, name, repository, withBundle, state)
	if err != nil {
		if !cancelled(ctx, err) && fault.ClassOf(err) != fault.Usage {
			noteErr := m.change(name, func(s *State) { s.Failed = noteFailure(s.Failed, err) })
			if noteErr != nil {
				m.o.Report(name, "its backups: "+noteErr.Error())
			}
			m.o.Report(name, "no backup: "+err.Error())
		}
		return nil, err
	}
	m.o.Report(name, fmt.Sprintf("backed up as %s: %d MiB read, %d MiB stored, %.1f s", s.ID, s.Read>>20, s.Stored>>20, time.Since(begin).Seconds()))
	former := state.Log
	return s, m.change(name, func(state *State) {
		state.Last, state.Failed = &Done{Snapshot: s.ID, At: s.At, TookS: seconds(begin)}, nil
		switch l := state.Log; {
		case l == nil:
		case s.Log != nil && s.Log.Branch == l.Branch:
			l.Wanted = false
		case former != nil && former.Branch == l.Branch:
			l.Tried = s.At
		}
	})
}

func seconds(begin time.Time) float64 { return float64(time.Since(begin).Milliseconds()) / 1000 }

func (m *Manager) backup(ctx context.Context, name, repository string, withBundle bool, state State) (*backup.Snapshot, error) {
	i, err := m.r.Instance(ctx, name)
	if err != nil {
		return nil, err
	}
	repository, where, err := m.choose(repository, state)
	if err != nil {
		return nil, err
	}
	dir, b, digest, err := i.ActiveBundle()
	if err != nil {
		return nil, err
	}
	options, err := json.Marshal(i.Options())
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err)
	}
	before := m.noteLogPosition(ctx, name)
	disk, err := i.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	after := m.noteLogPosition(ctx, name)
	// It is released by itself when this program ends.
	defer disk.Close()
	j := m.job(repository, where, backupjob.Backup)
	j.Machine, j.BundleManifest = name, filepath.Join(dir, bundle.ManifestFile)
	if withBundle {
		j.BundleFiles = map[string]string{bundle.ManifestFile: j.BundleManifest}
		for _, a := range b.Artifacts {
			j.BundleFiles[a.File] = filepath.Join(dir, a.File)
		}
	}
	j.Manifest = &backup.Manifest{
		Machine: name, Taken: disk.At, Live: disk.Live, HoldMS: disk.HoldMS, Marks: disk.Marks, Options: options,
		Bundle: backup.Bundle{Name: b.Name, Arch: b.Arch, Digest: digest},
		Disk:   backup.Disk{FileSystem: i.FileSystem()},
	}
	if before != nil && after != nil && disk.Live && before.Branch == after.Branch && before.Timeline == after.Timeline {
		before.After = after.After
		j.Manifest.Log = before
	}
	if disk.Continuity != nil {
		if j.Manifest.Continuity, err = json.Marshal(disk.Continuity); err != nil {
			return nil, fault.Wrap(fault.Internal, err)
		}
	}
	data, scratch := disk.Files()
	if j.Disk = data.Name(); scratch != nil {
		j.Scratch = scratch.Name()
	}
	// What is read of a snapshot that is lost is of no use.
	ctx, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-disk.Done():
			lost(disk.Err())
		case <-stop:
		}
	}()
	res, err := m.run(ctx, j, talk{progress: m.progress(name, runtime.ProgressBackup), agree: agree(disk)})
	if err != nil {
		return nil, err
	}
	if len(res.Snapshots) != 1 {
		return nil, fault.Errorf(fault.Internal, "%s told of %d backups", backupjob.Program, len(res.Snapshots))
	}
	return &res.Snapshots[0], nil
}

// noteLogPosition is where the machine is in its log; nil where that is not
// known: then no moment after the backup can be restored from it, and what the
// log lacks is said where that is looked for.
func (m *Manager) noteLogPosition(ctx context.Context, name string) *backup.LogPosition {
	at, err := m.logPosition(ctx, name)
	if err != nil && !errors.Is(err, errDown) && ctx.Err() == nil {
		m.o.Report(name, "where it is in its log: "+err.Error())
	}
	return at
}

// agree answers whether what was read of a disk was of one instant.
func agree(disk *machine.Snapshot) func(context.Context) backupjob.Answer {
	return func(ctx context.Context) backupjob.Answer {
		if err := disk.Held(ctx); err != nil {
			return backupjob.Answer{Abort: err.Error()}
		}
		return backupjob.Answer{}
	}
}

// Backups lists those of a machine in a repository, oldest first; without a
// name those of all.
func (m *Manager) Backups(ctx context.Context, name, repository string) ([]backup.Snapshot, error) {
	res, err := m.ask(ctx, name, repository, backupjob.List, nil)
	if err != nil {
		return nil, err
	}
	return res.Snapshots, nil
}

// Verify looks for all that a machine's backups lead to, of all machines
// without a name, and reads percent of it.
func (m *Manager) Verify(ctx context.Context, name, id, repository string, percent float64) (*runtime.Verified, error) {
	if percent < 0 || percent > 100 {
		return nil, fault.Errorf(fault.Usage, "%g %% are not from 0 to 100", percent)
	}
	begin := time.Now()
	res, err := m.ask(ctx, name, repository, backupjob.Verify, func(j *backupjob.Job) { j.Snapshot, j.Percent = id, percent })
	if err != nil {
		return nil, err
	}
	return &runtime.Verified{Backups: res.Checked, Read: res.Read, TookS: seconds(begin)}, nil
}

// ask runs a job about a machine that may be none of this device.
func (m *Manager) ask(ctx context.Context, name, repository string, verb backupjob.Verb, with func(*backupjob.Job)) (*backupjob.Result, error) {
	m.jobs.add(1)
	defer m.jobs.add(-1)
	state, err := m.State(name)
	if err != nil {
		return nil, err
	}
	repository, where, err := m.choose(repository, state)
	if err != nil {
		return nil, err
	}
	j := m.job(repository, where, verb)
	j.Machine = name
	if with != nil {
		with(&j)
	}
	return m.run(ctx, j, talk{progress: m.progress(name, runtime.ProgressVerify)})
}
