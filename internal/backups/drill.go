package backups

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sovereign-build/sovereign/internal/backupjob"
	"github.com/sovereign-build/sovereign/pkg/backup"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

const (
	// drillPrefix begins the name of a drill's machine.
	drillPrefix = "drill-"
	// readyLimit is how long its services have to become healthy.
	readyLimit = 10 * time.Minute
	// checkLimit is how long the services' own checks may take.
	checkLimit = time.Hour
	checkTries = 3
	// discardLimit is how long the machine may take to be gone.
	discardLimit = time.Minute
)

// Drill restores a backup into a machine without a network that is nobody's,
// has it replay its log as far as the repository has it, unless noLog, has its
// services checked, and leaves a report in the repository, also of a restore that
// failed. An error is of the drill itself: what it found is in the report.
func (m *Manager) Drill(ctx context.Context, name, id, repository string, noLog bool) (*backup.Drill, error) {
	release, err := m.hold("the drill of " + name)
	if err != nil {
		return nil, err
	}
	defer release()
	state, err := m.State(name)
	if err != nil {
		return nil, err
	}
	repository, where, err := m.choose(repository, state)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	d := &backup.Drill{Machine: name, At: now()}
	err = m.drill(ctx, Restore{Machine: name, Snapshot: id, Repository: repository, As: temporaryName(drillPrefix, name)}, state, noLog, d)
	if err != nil {
		return nil, m.noteDrill(ctx, name, err)
	}
	d.TookS = seconds(begin)
	j := m.job(repository, where, backupjob.Report)
	j.Machine, j.Drill = name, d
	res, err := m.run(ctx, j, talk{})
	if err == nil && len(res.Drills) != 1 {
		err = fault.Errorf(fault.Internal, "%s told of %d reports", backupjob.Program, len(res.Drills))
	}
	if err != nil {
		return nil, m.noteDrill(ctx, name, err)
	}
	d = &res.Drills[0]
	if failed := d.Failed(); failed != nil {
		m.o.Report(name, "the drill failed: "+failed.Error())
		return d, m.noteState(name, func(s *State) { s.DrillFailed = noteFailure(s.DrillFailed, failed) })
	}
	m.o.Report(name, fmt.Sprintf("a restore of %s was proven: %.1f s to the disk, %.1f s to healthy services", d.Snapshot, d.RestoreS, d.BootS))
	return d, m.noteState(name, func(s *State) {
		s.Drill, s.DrillFailed = &Done{Snapshot: d.Snapshot, At: d.At, TookS: d.RestoreS + d.BootS, Log: d.Log}, nil
	})
}

// noteState changes the state of a machine that may be none of this device.
func (m *Manager) noteState(name string, f func(*State)) error {
	if _, err := m.r.Wanted(name); err != nil {
		return err
	}
	if !m.has(name) {
		return nil
	}
	return m.change(name, f)
}

func (m *Manager) noteDrill(ctx context.Context, name string, err error) error {
	if cancelled(ctx, err) || fault.ClassOf(err) == fault.Usage {
		return err
	}
	m.o.Report(name, "no drill: "+err.Error())
	return errors.Join(err, m.noteState(name, func(s *State) { s.DrillFailed = noteFailure(s.DrillFailed, err) }))
}

// temporaryName is the name of a machine that is nobody's, and has to do with
// another.
func temporaryName(prefix, name string) string {
	name = prefix + name
	return name[:min(len(name), 32)]
}

// temporary chooses the repository for a restore into a machine that is nobody's,
// and names that; nothing of which is left after end.
func (m *Manager) temporary(ctx context.Context, q *Restore, what, prefix string) (end func() error, err error) {
	release, err := m.hold(what + q.Machine)
	if err != nil {
		return nil, err
	}
	state, err := m.State(q.Machine)
	if err == nil {
		q.Repository, _, err = m.choose(q.Repository, state)
	}
	name := temporaryName(prefix, q.Machine)
	if err == nil {
		err = m.r.Discard(ctx, name)
	}
	if err != nil {
		release()
		return nil, err
	}
	q.As = name
	return func() error {
		defer release()
		return m.discard(ctx, name)
	}, nil
}

// drill restores, boots and checks. What is wrong with the backup stands in the
// report; what keeps the drill from being done is the error.
func (m *Manager) drill(ctx context.Context, q Restore, state State, noLog bool, d *backup.Drill) (err error) {
	if err := m.r.Discard(ctx, q.As); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.discard(ctx, q.As)) }()
	about, err := m.fetch(ctx, q, q.As, "", "")
	if err != nil {
		return err
	}
	d.Snapshot, d.Taken = about.Snapshots[0].ID, about.Manifest.Taken
	q.Snapshot = d.Snapshot
	log, passed := m.drillLog(ctx, q, state.promises(q.Repository, about.Manifest, time.Now()), about.Manifest.Log, noLog, d)
	if log != nil {
		defer func() { err = errors.Join(err, log.close()) }()
	}
	if err := blame(ctx, passed); err != nil {
		return err
	}
	if passed != nil {
		return nil
	}
	passed = d.Step("read", func() (string, error) {
		begin := time.Now()
		res, err := m.restoreNew(ctx, q, true)
		d.RestoreS = seconds(begin)
		if err != nil {
			return "", err
		}
		d.Read = res.Read
		return fmt.Sprintf("%d bytes, each held to its sum", res.Read), nil
	})
	if err := blame(ctx, passed); err != nil {
		return err
	}
	if passed != nil {
		return nil
	}
	passed = d.Step("services", func() (string, error) {
		begin := time.Now()
		s, err := m.boot(ctx, q.As, log)
		d.BootS = seconds(begin)
		if err != nil {
			return "", err
		}
		said := healthy(s)
		if log != nil {
			said += fmt.Sprintf(", the log was replayed until %v", log.reached.LSN)
			d.Log = &log.reached
		}
		return said, nil
	})
	if ctx.Err() != nil || passed != nil {
		return context.Cause(ctx)
	}
	limit, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	m.checks(limit, m.o.Host.Machine(q.As), about.Manifest, d)
	return context.Cause(ctx)
}

// promises says whether by the machine's policy a repository has the log of a
// backup: one that was made there once besides, and one that is older than any
// moment that is to be had, need not have it.
func (s State) promises(repository string, b *backup.Manifest, now time.Time) bool {
	p, l := s.Policy, s.Log
	return b.Log != nil && l != nil && wishOf(s).log && p.Repository == repository && b.Log.Branch == l.Branch &&
		(p.RecoverForS == 0 || now.Sub(b.Taken) < time.Duration(p.RecoverForS)*time.Second)
}

// drillLog has the log of a backup ready to be replayed, as far as the repository
// has it; nil: there is none to replay. What is wrong with the log stands in the
// report, also that it is not there, where that is promised.
func (m *Manager) drillLog(ctx context.Context, q Restore, promised bool, at *backup.LogPosition, noLog bool, d *backup.Drill) (*replayed, error) {
	const step = "log"
	switch {
	case at == nil:
		return nil, nil
	case noLog:
		d.Skip(step, "it was left out")
		return nil, nil
	}
	// What this device has and the repository has not yet, is not what a drill is
	// about, and the end of a backup of a moment ago may be in it.
	if k := m.logKeeper(q.Machine); k != nil {
		if err := k.storeNow(ctx); err != nil {
			return nil, err
		}
	}
	q.Moment = &Moment{Branch: at.Branch, Stored: true}
	var log *replayed
	var early *tooEarly
	err := d.Step(step, func() (said string, err error) {
		if log, err = m.prepare(ctx, q); err != nil {
			return "", err
		}
		until := "no transaction"
		if !log.reached.Time.IsZero() {
			until = fmt.Sprintf("%d transactions until %s", log.reached.Transactions, log.reached.Time.UTC().Format(time.RFC3339Nano))
		}
		return fmt.Sprintf("%d bytes, each record held to its checksum and to the one before: %s", log.reached.Bytes, until), nil
	})
	// What is not there would be the mistake of whoever asks for a moment.
	absent := fault.ClassOf(err) == fault.Usage
	switch {
	case errors.As(err, &early), absent && !promised:
		d.Checks = d.Checks[:len(d.Checks)-1]
		d.Skip(step, "the repository has not the log that the backup ends in: "+err.Error())
		return nil, nil
	case absent:
		err = fault.Errorf(fault.Verification, "%w", err)
	}
	return log, err
}

// blame tells what is wrong with the device, or the way to the repository, from
// what is wrong with the backup.
func blame(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err == nil || fault.ClassOf(err) == fault.Verification:
		return nil
	}
	return err
}

func healthy(s runtime.Status) string {
	n := 0
	for _, v := range s.Guest.Services {
		if v.Healthy {
			n++
		}
	}
	return fmt.Sprintf("%d of %d services are healthy", n, len(s.Guest.Services))
}

// checks has the guest's services say whether what they found is whole, and
// whether it is what they had when the backup was made.
func (m *Manager) checks(ctx context.Context, machine *runtime.Machine, b *backup.Manifest, d *backup.Drill) {
	var found map[string]agent.RestoredService
	var err error
	// A session that was lost on a busy host says nothing of the backup.
	for range checkTries {
		if found, err = machine.CheckRestored(ctx); err == nil || errors.Is(err, runtime.ErrTooOld) || ctx.Err() != nil {
			break
		}
	}
	if errors.Is(err, runtime.ErrTooOld) {
		d.Skip("checks", "the guest's image is too old to have any")
		d.Judge()
		return
	}
	if err != nil {
		d.Step("checks", func() (string, error) { return "", err }) //nolint:errcheck // it stands in the report
		return
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		c := found[name]
		if c.Checked {
			d.Checks = append(d.Checks, backup.Check{Name: name + ": check", Passed: c.Error == "", Said: c.Error, Seconds: float64(c.TookMS) / 1000})
		}
		was, marked := b.Marks[name]
		switch {
		case c.MarksError != "":
			d.Checks = append(d.Checks, backup.Check{Name: name + ": marks", Said: c.MarksError})
		case marked && was != c.Marks && d.Log != nil && d.Log.Transactions > 0:
			d.Skip(name+": marks", fmt.Sprintf("it had %q when it was backed up, and has %q behind its log, which may have changed them", was, c.Marks))
		case marked && was != c.Marks:
			d.Checks = append(d.Checks, backup.Check{Name: name + ": marks", Said: fmt.Sprintf("it had %q when it was backed up, and has %q", was, c.Marks)})
		case marked:
			d.Checks = append(d.Checks, backup.Check{Name: name + ": marks", Passed: true, Said: was})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b.Marks)) {
		if _, ok := found[name]; !ok {
			d.Checks = append(d.Checks, backup.Check{Name: name + ": marks", Said: "the service has none"})
		}
	}
	if len(found) == 0 {
		d.Skip("checks", "no service has one")
	}
	d.Judge()
}
