package backups

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/pkg/backup/replication"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// A server whose commits wait for its log to be received has that in a setting
// on its data disk: so it is true from the first commit after a start on, whether
// sovereignd runs or not; and so every copy of the disk has it too, whose log
// nobody receives. Therefore each server that comes up is asked, and held to what
// its machine's policy says: one without is let go.
const (
	standbySetting = "synchronous_standby_names"
	// settleLimit is how long a server may take to do as it is told.
	settleLimit = time.Minute
	// settleEvery is the pause between two looks at it.
	settleEvery = 200 * time.Millisecond
	// tellAfter is how often it is tried before it is said that it does not work.
	tellAfter = 3
	// waitAlarm is how long commits may wait before that is an alarm.
	waitAlarm = 10 * time.Second
)

// agreement is what a server has been held to.
type agreement struct {
	process vm.Process // of the machine
	busy    bool       // it is being held to it, until stop
	stop    context.CancelFunc
	policy  wish
	at      time.Time // when it was seen to be so; zero: it was not
	why     string    // why not
}

// wish is what a policy wants of a server.
type wish struct{ log, synchronous bool }

func wishOf(s State) wish {
	p := s.Policy
	return wish{p != nil && p.LogS > 0, p != nil && p.LogS > 0 && p.Synchronous}
}

// Seen tells what the guest of a machine has said last.
func (m *Manager) Seen(name string, s machine.Seen) {
	service, healthy := "", false
	if s.Guest != nil {
		service, healthy = logService(s.Guest)
	}
	m.logs.mu.Lock()
	defer m.logs.mu.Unlock()
	before, was := m.logs.up[name]
	switch {
	case service == "" || !healthy:
		delete(m.logs.up, name)
		return
	case was && before == s.Process:
		return
	}
	m.logs.up[name] = s.Process
	if k := m.logs.keepers[name]; k != nil {
		k.hurry()
	}
	poked(m.logs.poked)
}

// isUp says whether the service with the log of a machine is healthy.
func (m *Manager) isUp(name string) bool {
	m.logs.mu.Lock()
	defer m.logs.mu.Unlock()
	_, up := m.logs.up[name]
	return up
}

// agree has the server of each machine that is up held to its policy, where that
// was not seen yet.
func (m *Manager) agree(ctx context.Context) {
	m.logs.mu.Lock()
	defer m.logs.mu.Unlock()
	for name := range m.logs.agreed {
		if _, up := m.logs.up[name]; !up && !m.logs.agreed[name].busy {
			delete(m.logs.agreed, name)
		}
	}
	for name, process := range m.logs.up {
		if !m.has(name) {
			delete(m.logs.up, name)
			continue
		}
		s, err := m.State(name)
		if err != nil {
			continue // its status says so
		}
		want := wishOf(s)
		a := m.logs.agreed[name]
		k := m.logs.keepers[name]
		if a.busy {
			if a.process != process || a.policy != want {
				a.stop()
			}
			continue
		}
		switch {
		case want.synchronous && (k == nil || !k.isReceiving()):
			continue // it would wait, and nobody receives
		case a.process == process && a.policy == want && (!want.synchronous || time.Since(a.at) < lookEvery):
			continue
		}
		if a.process != process || a.policy != want {
			a.at, a.why = time.Time{}, ""
		}
		var work context.Context
		work, a.stop = context.WithCancel(ctx)
		a.process, a.policy, a.busy = process, want, true
		m.logs.agreed[name] = a
		m.logs.work.Go(func() {
			defer a.stop()
			m.holdTo(work, name, process, want)
		})
	}
}

// agreedOn is what the server of a machine was last held to.
func (m *Manager) agreedOn(name string) agreement {
	m.logs.mu.Lock()
	defer m.logs.mu.Unlock()
	return m.logs.agreed[name]
}

// holdTo holds a server to a wish, until that has worked, the wish is another, or
// the server is not up any more.
func (m *Manager) holdTo(ctx context.Context, name string, process vm.Process, want wish) {
	wait := logRetry
	still := func() bool {
		m.logs.mu.Lock()
		up := m.logs.up[name] == process
		m.logs.mu.Unlock()
		s, err := m.State(name)
		return ctx.Err() == nil && up && m.has(name) && err == nil && wishOf(s) == want
	}
	told := ""
	for tries := 1; ; tries++ {
		limit, cancel := context.WithTimeout(ctx, settleLimit)
		err := m.holdToOnce(limit, name, want)
		cancel()
		over := err == nil || !still()
		m.logs.mu.Lock()
		a := m.logs.agreed[name]
		a.busy, a.why = !over, ""
		switch {
		case err == nil:
			a.at = time.Now()
		case over:
			a.process = vm.Process{} // it is looked at anew
		default:
			a.at, a.why = time.Time{}, err.Error()
		}
		m.logs.agreed[name] = a
		m.logs.mu.Unlock()
		if over {
			poked(m.logs.poked)
			m.o.Changed(name)
			return
		}
		// A guest of a moment ago, on a busy host, is asked once more.
		if tries >= tellAfter && err.Error() != told && !errors.Is(err, errDown) {
			told = err.Error()
			text := "it is not known whether its commits wait for a log that nobody receives: "
			if want.synchronous {
				text = "its commits do not wait for the log yet: "
			}
			m.o.Report(name, text+told)
			m.o.Changed(name)
		}
		pause.For(ctx, wait)
		wait = min(2*wait, logMaxRetry)
	}
}

func (m *Manager) holdToOnce(ctx context.Context, name string, want wish) error {
	conn, _, err := m.dialLog(ctx, name)
	if err != nil {
		return err
	}
	now, err := replication.Setting(ctx, conn, standbySetting)
	if err != nil {
		return err
	}
	guest := psql{m.o.Host.Machine(name)}
	if want.synchronous {
		return guest.wait(ctx, now)
	}
	if now == replication.Slot {
		if err := guest.letGo(ctx); err != nil {
			return err
		}
		m.o.Report(name, "its commits wait for its log no more")
	}
	if want.log {
		return nil
	}
	// Nor does it keep its log for a reader who does not come.
	if conn, _, err = m.dialLog(ctx, name); err != nil {
		return err
	}
	_, err = replication.DropSlot(ctx, conn)
	return err
}

// psql asks the server of a guest, by its own program.
type psql struct{ guest *runtime.Machine }

// run runs commands, each for itself, and returns what they print.
func (p psql) run(ctx context.Context, commands ...string) (string, error) {
	argv := []string{"psql", "--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--no-password", "--set=ON_ERROR_STOP=1", "--dbname=postgres"}
	for _, c := range commands {
		argv = append(argv, "--command="+c)
	}
	var out strings.Builder
	complaint := &last{limit: 4 << 10}
	code, err := p.guest.Exec(ctx, agent.ExecRequest{Argv: argv, User: postgresUser}, agent.ExecIO{Stdout: &out, Stderr: complaint})
	if err != nil {
		return "", err
	}
	if code != 0 {
		e := fault.Errorf(fault.Device, "psql ended with %d: %s", code, strings.TrimSpace(complaint.String()))
		if strings.Contains(complaint.String(), "too many clients") || strings.Contains(complaint.String(), "connection slots are reserved") {
			return "", e.Hintf("end a client of the server, or start the machine anew: sovereign-build restart %s", p.guest.Name())
		}
		return "", e
	}
	return strings.TrimSpace(out.String()), nil
}

// wait has commits wait for the log; now is what the setting is.
func (p psql) wait(ctx context.Context, now string) error {
	switch now {
	case "", replication.Slot:
	default:
		return fault.Errorf(fault.Usage, "%s is %.100q already, by its owner", standbySetting, now).
			Hintf("to have sovereignd's receiver among the standbys, put %s there; to have only that: ALTER SYSTEM RESET %s", replication.Slot, standbySetting)
	}
	if commit, err := p.run(ctx, "SHOW synchronous_commit"); err != nil {
		return err
	} else if commit == "off" || commit == "local" {
		return fault.Errorf(fault.Usage, "synchronous_commit is %s, by its owner: no commit waits", commit).Hintf("ALTER SYSTEM RESET synchronous_commit")
	}
	if now == "" {
		_, err := p.run(ctx, "ALTER SYSTEM SET "+standbySetting+" = '"+replication.Slot+"'", "SELECT pg_reload_conf()")
		if err != nil {
			return err
		}
	}
	// The server takes a receiver for one to wait for when that has all of its
	// log.
	err := until(ctx, "the server to wait for its log's receiver", func() (bool, error) {
		n, err := p.run(ctx, "SELECT count(*) FROM pg_stat_replication WHERE application_name = '"+replication.Slot+"' AND sync_state = 'sync'")
		return n == "1", err
	})
	if err == nil && now == "" {
		// The process by whose word commits wait has read the setting when it has
		// done what it is asked for after.
		_, err = p.run(ctx, "CHECKPOINT")
	}
	return err
}

// letGo has commits wait no more, also those that do.
func (p psql) letGo(ctx context.Context) error {
	if _, err := p.run(ctx, "ALTER SYSTEM RESET "+standbySetting, "SELECT pg_reload_conf()"); err != nil {
		return err
	}
	return until(ctx, "the server to let its commits go", func() (bool, error) {
		now, err := p.run(ctx, "SHOW "+standbySetting)
		return now != replication.Slot, err
	})
}

// until waits for something that is looked for again and again.
func until(ctx context.Context, what string, holds func() (bool, error)) error {
	for {
		ok, err := holds()
		if ok || err != nil {
			return err
		}
		if pause.For(ctx, settleEvery) != nil {
			return fault.Errorf(fault.Device, "%s: that was not seen: %w", what, context.Cause(ctx))
		}
	}
}

// synchronous is what status says of commits that wait; nil where they are not to.
func (m *Manager) synchronous(name string, s State) *runtime.Synchronous {
	if !wishOf(s).synchronous {
		return nil
	}
	a := m.agreedOn(name)
	r := &runtime.Synchronous{On: a.policy.synchronous && !a.at.IsZero() && m.isUp(name), Why: a.why}
	if r.On && s.Log != nil && s.Log.Wanted {
		r.Why = "there is no backup yet that the log goes on from"
	}
	return r
}

// waiting says that commits wait, as their log is not received; "" where they do
// not.
func waiting(l *runtime.LogStatus, up bool, now time.Time) string {
	if l.Synchronous == nil || l.Receiving || !up || now.Sub(l.Since) < waitAlarm {
		return ""
	}
	return fmt.Sprintf("commits wait: the log has not been received since %s", l.Since.Format(time.RFC3339))
}
