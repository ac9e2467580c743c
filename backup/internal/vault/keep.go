package vault

import (
	"context"
	"errors"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/maintenance"
	"github.com/kopia/kopia/snapshot"
	"github.com/kopia/kopia/snapshot/policy"
	"github.com/kopia/kopia/snapshot/snapshotmaintenance"

	"github.com/sovereign-build/sovereign/internal/backupjob"
	"github.com/sovereign-build/sovereign/pkg/backup"
)

// pin marks the last backup from which a restore was proven: no rule forgets
// it.
const pin = "sovereign-proven"

// keep forgets what the rules do not keep, and has kopia do what is due of its
// maintenance, with its own margins: nothing is removed that was not let go of
// a day before.
func (v *vault) keep(ctx context.Context) (*backupjob.Result, error) {
	res := &backupjob.Result{}
	if v.j.Rules != nil && !v.j.Rules.All() {
		n, err := v.forget(ctx, *v.j.Rules)
		if err != nil {
			return nil, err
		}
		res.Forgotten = n
	}
	n, err := v.keepLogs(ctx)
	if err != nil {
		return nil, err
	}
	res.Forgotten += n
	direct, ok := v.r.(repo.DirectRepository)
	if !ok {
		return res, nil // its server does it
	}
	err = repo.DirectWriteSession(ctx, direct, repo.WriteSessionOptions{Purpose: "maintenance"}, func(ctx context.Context, w repo.DirectRepositoryWriter) error {
		return snapshotmaintenance.Run(ctx, w, maintenance.ModeAuto, false, maintenance.SafetyFull)
	})
	var others maintenance.NotOwnedError
	if errors.As(err, &others) {
		err = nil // another device does it
	}
	return res, writeError(err)
}

func (v *vault) forget(ctx context.Context, k backup.Keep) (forgotten int, err error) {
	at := source(v.r, v.j.Machine)
	if server, ok := v.r.(repo.RemoteRetentionPolicy); ok {
		ids, err := server.ApplyRetentionPolicy(ctx, at.Path, true)
		return len(ids), writeError(err)
	}
	if err := v.pinProven(ctx, at); err != nil {
		return 0, err
	}
	number := func(n int) *policy.OptionalInt { o := policy.OptionalInt(n); return &o }
	no := policy.OptionalBool(false)
	rules := policy.RetentionPolicy{
		KeepLatest: number(k.Latest), KeepHourly: number(k.Hourly), KeepDaily: number(k.Daily), KeepWeekly: number(k.Weekly),
		KeepMonthly: number(k.Monthly), KeepAnnual: number(k.Yearly), IgnoreIdenticalSnapshots: &no,
	}
	err = writeSession(ctx, v.r, "forget", nil, func(ctx context.Context, w repo.RepositoryWriter) error {
		p, err := policy.GetDefinedPolicy(ctx, w, at)
		if errors.Is(err, policy.ErrPolicyNotFound) {
			p, err = &policy.Policy{}, nil
		}
		if err != nil {
			return readError("the rules of "+v.j.Machine, err)
		}
		p.RetentionPolicy = rules
		if err := policy.SetPolicy(ctx, w, at, p); err != nil {
			return err
		}
		gone, err := policy.ApplyRetentionPolicy(ctx, w, at, true)
		forgotten = len(gone)
		return err
	})
	return forgotten, err
}

// pinProven pins the newest backup with a drill that passed, and no other.
func (v *vault) pinProven(ctx context.Context, at snapshot.SourceInfo) error {
	reports, err := drills(ctx, v.r, v.j.Machine)
	if err != nil {
		return err
	}
	list, err := find(ctx, v.r, kindBackup, v.j.Machine)
	if err != nil {
		return err
	}
	passed := map[string]bool{}
	for _, d := range reports {
		passed[d.Snapshot] = d.Passed
	}
	last := ""
	for _, k := range list {
		if passed[k.tag(tagID)] && k.Source == at {
			last = k.tag(tagID)
		}
	}
	return writeSession(ctx, v.r, "pin", nil, func(ctx context.Context, w repo.RepositoryWriter) error {
		for _, k := range list {
			add, remove := []string{pin}, []string(nil)
			if k.tag(tagID) != last {
				add, remove = nil, add
			}
			if k.Source == at && k.UpdatePins(add, remove) {
				if err := snapshot.UpdateSnapshot(ctx, w, k.Manifest); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
