package backups

import (
	"context"
	"hash/fnv"
	"os"
	"path/filepath"
	"time"

	"github.com/sovereign-build/sovereign/internal/backupjob"
	"github.com/sovereign-build/sovereign/pkg/backup"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

const (
	// lookEvery is how often it is looked for what is due although nothing
	// has changed.
	lookEvery = 5 * time.Minute
	// retryAfter is the pause after the first failure, doubled with each to
	// maxRetry.
	retryAfter = time.Minute
	maxRetry   = time.Hour
	// logBase is the pause between two backups that a log is to go on from, and
	// cannot.
	logBase = time.Hour
	// spread is the part of its interval by which a device is later than
	// another, so that a thousand of them do not come at once.
	spread = 16
)

// SetPolicy writes down what is to be done by itself; nil: nothing.
func (m *Manager) SetPolicy(ctx context.Context, name string, p *backup.Policy) error {
	if _, err := m.r.Instance(ctx, name); err != nil {
		return err
	}
	if p != nil {
		if err := p.Check(); err != nil {
			return err
		}
		if _, err := m.load(p.Repository); err != nil {
			return err
		}
	}
	return m.change(name, func(s *State) {
		s.Policy, s.Since = p, now()
		if p == nil {
			s.Since, s.Failed, s.DrillFailed = time.Time{}, nil, nil
		}
	})
}

// usersOf are the machines whose policy is to go to a repository.
func (m *Manager) usersOf(repository string) ([]string, error) {
	names, err := m.r.Names()
	if err != nil {
		return nil, err
	}
	var users []string
	for _, name := range names {
		s, err := m.State(name)
		if err != nil {
			return nil, err
		}
		if s.Policy != nil && s.Policy.Repository == repository {
			users = append(users, name)
		}
	}
	return users, nil
}

func (m *Manager) has(name string) bool {
	_, err := os.Lstat(filepath.Join(m.r.Dir(), "instances", name, "instance.json"))
	return err == nil
}

// due is what is to be done for a machine at a time, or how long until then.
type due struct {
	backup, drill bool
	// late: of those that are due one is so late that it waits for nothing.
	late bool
	wait time.Duration
}

// decide says what a machine's policy asks for at a time. A moment that is still
// to come is of a clock that was set back: it is no reason to wait.
func (s State) decide(at time.Time, lag time.Duration) due {
	d := due{wait: lookEvery}
	if s.Policy == nil {
		return d
	}
	is := func(every time.Duration, last *Done, failed *Failure) bool {
		if every == 0 {
			return false
		}
		next := s.Since
		if last != nil {
			next = last.At.Add(every + lag%max(every/spread, 1))
			if last.At.After(at) {
				next = at
			}
		}
		if failed != nil && !failed.At.After(at) {
			pause := min(retryAfter<<min(failed.Tries-1, 16), maxRetry)
			if again := failed.At.Add(pause); again.After(next) {
				next = again
			}
		}
		if wait := next.Sub(at); wait > 0 && next.After(at) {
			d.wait = min(d.wait, wait)
			return false
		}
		since := s.Since
		if last != nil {
			since = last.At
		}
		d.late = d.late || at.Sub(since) >= slack*every
		return true
	}
	d.backup = is(s.Policy.Every(), s.Last, s.Failed)
	// A log is of no use without a backup that it goes on from. One that was to be
	// and is none has its reason, which need not pass soon.
	if l := s.Log; s.Policy.LogS > 0 && l != nil && l.Wanted && !d.backup {
		var tried *Done
		if !l.Tried.IsZero() {
			tried = &Done{At: l.Tried}
		}
		d.backup = is(logBase, tried, s.Failed)
	}
	// A drill needs something to restore.
	d.drill = s.Last != nil && is(s.Policy.Drill(), s.Drill, s.DrillFailed)
	return d
}

// lag is how much later this device is than its policy says.
func (m *Manager) lag(name string) time.Duration {
	h := fnv.New64a()
	h.Write([]byte(m.host + "/" + name))
	return time.Duration(h.Sum64() >> 1)
}

// Run does what policies ask for until ctx ends.
func (m *Manager) Run(ctx context.Context) {
	alarms := map[string]string{}
	for ctx.Err() == nil {
		wait := m.round(ctx, alarms)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-m.poked:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// round looks at each machine once, one after the other: a phone does one thing
// at a time.
func (m *Manager) round(ctx context.Context, alarms map[string]string) (wait time.Duration) {
	wait = lookEvery
	names, err := m.r.Names()
	if err != nil {
		m.o.Report("", "backups: "+err.Error())
		return wait
	}
	for _, name := range names {
		s, err := m.State(name)
		if err != nil || s.Policy == nil {
			continue // its status says so
		}
		d := s.decide(time.Now(), m.lag(name))
		if m.holdsFor(ctx, name, *s.Policy, d) {
			continue
		}
		if d.backup {
			m.scheduled(ctx, name, *s.Policy)
		}
		if d.drill && ctx.Err() == nil {
			m.scheduledDrill(ctx, name, s.Policy.Repository)
		}
		if ctx.Err() != nil {
			return wait
		}
		if s, err = m.State(name); err == nil {
			wait = min(wait, max(s.decide(time.Now(), m.lag(name)).wait, time.Second))
			m.tellAlarms(name, alarms)
		}
	}
	return wait
}

// holdsFor says whether what is due waits for the device to be as its policy
// says, and notes for what.
func (m *Manager) holdsFor(ctx context.Context, name string, p backup.Policy, d due) bool {
	why := ""
	if (d.backup || d.drill) && !d.late && len(p.When) > 0 && m.o.Lacks != nil {
		why = m.o.Lacks(ctx, p.When)
	}
	if before, _ := m.holding.Swap(name, why); before != why && (before != nil || why != "") {
		m.o.Changed(name)
	}
	return why != ""
}

// tellAlarms says what is wrong when it has changed.
func (m *Manager) tellAlarms(name string, told map[string]string) {
	text := ""
	if b := m.Status(name, time.Now()); b != nil {
		for _, a := range b.Alarms {
			text += "; " + a
		}
	}
	if text == told[name] {
		return
	}
	if told[name] = text; text != "" {
		m.o.Report(name, "backups: "+text[2:])
	} else {
		m.o.Report(name, "backups: all is well again")
	}
	m.o.Changed(name)
}

// scheduled makes a backup, and has forgotten what the policy does not keep.
func (m *Manager) scheduled(ctx context.Context, name string, p backup.Policy) {
	_, err := m.Backup(ctx, name, p.Repository, p.Bundle)
	if err != nil {
		m.noteUsage(ctx, name, err, func(s *State) { s.Failed = noteFailure(s.Failed, err) })
		return
	}
	if _, err := m.Keep(ctx, name, p); err != nil && ctx.Err() == nil {
		m.o.Report(name, "forgetting old backups: "+err.Error())
	}
}

// scheduledDrill proves a restore: what it finds is in the state, and said.
func (m *Manager) scheduledDrill(ctx context.Context, name, repository string) {
	if _, err := m.Drill(ctx, name, "", repository, false); err != nil {
		m.noteUsage(ctx, name, err, func(s *State) { s.DrillFailed = noteFailure(s.DrillFailed, err) })
	}
}

// noteUsage notes what would be the mistake of whoever had asked for it: here
// nobody has, and it is no reason to try again at once. All else is noted
// already.
func (m *Manager) noteUsage(ctx context.Context, name string, err error, note func(*State)) {
	if ctx.Err() != nil || fault.ClassOf(err) != fault.Usage || !m.has(name) {
		return
	}
	if err := m.change(name, note); err != nil {
		m.o.Report(name, "its backups: "+err.Error())
	}
}

// Keep forgets what a policy does not keep, and has the repository's maintenance
// done that is due.
func (m *Manager) Keep(ctx context.Context, name string, p backup.Policy) (forgotten int, err error) {
	res, err := m.ask(ctx, name, p.Repository, backupjob.Keep, func(j *backupjob.Job) { j.Rules, j.RecoverFor = &p.Keep, p.RecoverForS })
	if err != nil {
		return 0, err
	}
	return res.Forgotten, nil
}
