package vault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sovereign-build/sovereign/internal/backupjob"
	"github.com/sovereign-build/sovereign/pkg/backup"
	"github.com/sovereign-build/sovereign/pkg/backup/wal"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/erofs"
)

// errEnough ends the reading of a log: the moment is passed.
var errEnough = errors.New("enough")

// replay makes an image with the log that leads from a backup to a moment. The
// log is read record by record for it, and the record that is the moment's last
// one is what the server is told to stop at: so it can neither stop short without
// a word nor go too far.
func (v *vault) replay(ctx context.Context) (*backupjob.Result, error) {
	q := v.j.ReplayLog
	if q == nil {
		return nil, fault.Errorf(fault.Usage, "a replay needs what is to be replayed")
	}
	if err := q.Target.Check(); err != nil {
		return nil, err
	}
	src, err := v.logSource(ctx, q)
	if err != nil {
		return nil, err
	}
	a := aim{target: q.Target}
	tree := rootfs.New()
	service := q.Base.Service
	if err := addAll(tree, rootfs.Dir(service, 0o755)); err != nil {
		return nil, err
	}
	keep := func(name string, content []byte) error {
		path := filepath.Join(q.Work, name)
		if err := roomFor(path, 2*src.branch.Segment); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return diskError(err)
		}
		// PostgreSQL takes no segment that is short, and none that it cannot write: the
		// copy that its restore_command makes has the mode that it has here.
		if err := os.Truncate(path, src.branch.Segment); err != nil {
			return diskError(err)
		}
		v.progress(int64(tree.Len())*src.branch.Segment, int64(src.extent.To-q.Base.Before))
		return addAll(tree, rootfs.Entry{Path: service + "/" + name, Mode: 0o644, Size: src.branch.Segment, Content: rootfs.File(path)})
	}
	a.reached.Bytes, err = src.walk(ctx, q.Base.Before.Floor(src.branch.Segment), keep, a.record)
	if err != nil {
		return nil, err
	}
	if err := a.check(src, q.AsOf); err != nil {
		return nil, err
	}
	if a.end < q.Base.After {
		return &backupjob.Result{TooEarly: fmt.Sprintf("%v is before the backup, which is of %v", q.Target, q.Base.After)}, nil
	}
	a.reached.Timeline = src.branch.Timeline
	histories, err := src.histories(ctx)
	if err != nil {
		return nil, err
	}
	for name, text := range histories {
		if err := addAll(tree, rootfs.Regular(service+"/"+name, 0o644, text)); err != nil {
			return nil, err
		}
	}
	line := fmt.Sprintf("%s %d %v\n", q.ID, a.reached.Timeline, a.reached.LSN)
	if err := addAll(tree, rootfs.Regular(service+"/target", 0o444, []byte(line))); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(q.Image, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	_, err = erofs.Write(ctx, f, tree, erofs.Options{})
	if err == nil {
		err = fault.Wrap(fault.Environment, f.Sync())
	}
	if closeErr := f.Close(); err == nil && closeErr != nil {
		err = fault.Wrap(fault.Environment, closeErr)
	}
	return &backupjob.Result{Reached: &a.reached, Read: a.reached.Bytes}, err
}

func addAll(t *rootfs.Tree, list ...rootfs.Entry) error {
	for _, e := range list {
		if err := t.Add(e); err != nil {
			return err
		}
	}
	return nil
}

// logSource finds the log that a backup is in.
func (v *vault) logSource(ctx context.Context, q *backupjob.ReplayLog) (*logSource, error) {
	parts, err := v.parts(ctx, v.j.Machine, q.Base.Branch)
	if err != nil {
		return nil, err
	}
	s := &logSource{v: v, parts: parts}
	for _, l := range branches(parts) {
		if l.Extent.From <= q.Base.Before.Floor(l.Branch.Segment) && q.Base.After <= l.Extent.To || s.branch.ID == "" {
			s.branch, s.extent = l.Branch, l.Extent
			if l.AsOf.After(q.AsOf) {
				q.AsOf = l.AsOf
			}
		}
	}
	if v.j.Spool != "" {
		here, err := wal.OpenSpoolReadOnly(v.j.Spool)
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			return nil, err
		case here.Branch.ID == q.Base.Branch:
			s.spool = v.j.Spool
			if s.branch.ID == "" {
				s.branch, s.extent = here.Branch, here.Extent
			} else if here.Extent.To > s.extent.To && here.Extent.From <= s.extent.To {
				from := s.extent.From
				s.branch, s.extent = here.Branch, here.Extent
				s.extent.From = from
			}
		}
	}
	switch {
	case s.branch.ID == "":
		return nil, fault.Errorf(fault.Usage, "the log that this backup is in is not there (branch %s)", q.Base.Branch).
			Hintf("see what there is: sovereign-build backups %s", v.j.Machine)
	case s.extent.From > q.Base.Before.Floor(s.branch.Segment):
		return nil, fault.Errorf(fault.Usage, "the log that this backup is in is there from %v on, and is needed from %v", s.extent.From, q.Base.Before).
			Hintf("choose a later moment")
	}
	return s, nil
}

// aim finds the record that a moment ends with.
type aim struct {
	target  backup.Target
	reached backup.Reached
	end     wal.LSN // behind the last record that counts
	seen    wal.LSN // behind the last record that was read
	newest  time.Time
	found   bool // the log goes on behind the moment, or is the moment's end
}

func (a *aim) record(r wal.Record) error {
	if a.found && a.target.Point == "" {
		return errEnough
	}
	t := a.target
	switch {
	case !t.Time.IsZero() && !r.Time.IsZero() && r.Time.After(t.Time):
		a.found = true
		return errEnough
	case t.LSN != 0 && r.End > t.LSN:
		a.found = true
		return errEnough
	}
	a.seen = r.End
	if r.Time.After(a.newest) {
		a.newest = r.Time
	}
	if !r.Time.IsZero() {
		a.reached.Transactions++
	}
	if t.Point != "" {
		if r.Point != t.Point {
			return nil
		}
		a.found = true
	}
	a.reached.LSN, a.reached.Time, a.end = r.Start, a.newest, r.End
	return nil
}

// check says whether the moment is in the log, and which ones are.
func (a *aim) check(s *logSource, asOf time.Time) error {
	switch t := a.target; {
	case t.Point != "" && !a.found:
		return fault.Errorf(fault.Usage, "the log has no point %q behind this backup", t.Point)
	case !t.Time.IsZero() && !a.found && t.Time.After(a.newest) && t.Time.After(asOf):
		last := a.newest
		if asOf.After(last) {
			last = asOf
		}
		return fault.Errorf(fault.Usage, "%v is not in the log: it ends at %s, with what was done until %s", t, a.seen, moment(last)).
			Hintf("restore that moment, or leave it out for the end of the log")
	case t.LSN != 0 && !a.found && a.seen < t.LSN:
		return fault.Errorf(fault.Usage, "%v is not in the log: it ends at %v", t, a.seen).
			Hintf("restore that place, or leave it out for the end of the log")
	}
	return nil
}

func moment(t time.Time) string {
	if t.IsZero() {
		return "no time that it has"
	}
	return t.UTC().Format(time.RFC3339Nano)
}
