package live

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/audit"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

const (
	// healLimit is what a service has to be as it was before its kill. Recovery
	// after a crash reads up to max_wal_size, under emulation too.
	healLimit = 3 * time.Minute
	// freezeLimit is when the guest thaws by itself, whatever became of us.
	freezeLimit = 20 * time.Second
	// heldFor is how long a write has to wait to count as held: that it would
	// wait on can only be seen by the clock.
	heldFor = time.Second
	// fallbackLimit is for a second tailscaled under emulation.
	fallbackLimit = 90 * time.Second
	// cleanLimit is for taking back what a trial has done, also after Ctrl-C.
	cleanLimit = 30 * time.Second
)

// trials disturb a machine, one after the other, each when the one before has
// healed.
type trials struct {
	*look
	host   daemon
	here   bool
	kill   func(pid int) error // ends a process of this computer
	report func(string)
}

func kill(pid int) error { return unix.Kill(pid, unix.SIGKILL) }

// all makes every trial. The error is that of ctx: what else goes wrong is what
// a trial is for.
func (t *trials) all(ctx context.Context) error {
	m := t.facts.Machine
	m.Freeze = t.freeze(ctx)
	if s, ok := t.service("tailscaled"); ok {
		m.Fallback = t.fallback(ctx, s.User)
	}
	for _, s := range t.status.Guest.Services {
		if s.PID == 0 {
			continue // there is nothing to kill
		}
		if p, ok := t.service("postgres"); ok && p.Name == s.Name {
			var heal audit.HealTrial
			m.Crash, heal = t.crash(ctx, p.Name, p.User)
			m.Heals = append(m.Heals, heal)
			continue
		}
		m.Heals = append(m.Heals, t.heal(ctx, s.Name))
	}
	m.Daemon = t.daemon(ctx)
	return context.Cause(ctx)
}

func clean(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), cleanLimit)
}

// freeze holds the data file system, and a write that is tried meanwhile.
func (t *trials) freeze(ctx context.Context) *audit.FreezeTrial {
	t.report("freezing the data disk, and thawing it")
	r := new(audit.FreezeTrial)
	fail := func(err error) *audit.FreezeTrial { r.Err = err.Error(); return r }
	if !t.facts.Image.Spec.Seen {
		return fail(errors.New(t.facts.Image.Spec.Why))
	}
	ctx, stop := context.WithTimeout(ctx, healLimit)
	defer stop()
	if err := t.machine.Freeze(ctx, freezeLimit); err != nil {
		return fail(err)
	}
	began := time.Now()
	thaw := func() error {
		ctx, stop := clean(ctx)
		defer stop()
		return t.machine.Thaw(ctx)
	}
	started, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		// The shell says that it runs, and then writes.
		out := &signalWriter{signal: started}
		code, err := t.machine.Exec(ctx, agent.ExecRequest{Argv: []string{"sh", "-c", `echo begins; echo audit >"$1" && rm "$1"`, "audit",
			path.Join(t.facts.Image.Spec.Value.Data.Mount, ".sovereign-audit")}}, agent.ExecIO{Stdout: out})
		if err == nil && code != 0 {
			err = fmt.Errorf("the write ended with exit code %d", code)
		}
		ended <- err
	}()
	wait := time.NewTimer(healLimit)
	defer wait.Stop()
	select {
	case <-started:
		wait.Reset(heldFor)
		select {
		case <-wait.C:
			r.Held = true
		case err := <-ended:
			ended <- err
		}
	case err := <-ended:
		return fail(errors.Join(err, errors.New("the write did not begin"), thaw()))
	case <-ctx.Done():
		return fail(errors.Join(context.Cause(ctx), thaw()))
	}
	if err := thaw(); err != nil {
		return fail(err)
	}
	r.Took = time.Since(began)
	if r.Took >= freezeLimit {
		return fail(fmt.Errorf("it took %s, and the guest thawed by itself before", r.Took))
	}
	err := <-ended // at the end of ctx at last
	r.After = err == nil
	return r
}

// signalWriter closes signal at the first byte.
type signalWriter struct {
	signal chan struct{}
	done   bool
}

func (w *signalWriter) Write(b []byte) (int, error) {
	if !w.done {
		w.done = true
		close(w.signal)
	}
	return len(b), nil
}

// fallback starts a second tailscaled without capabilities, of its own state in
// a directory of its own, and asks it whether it has a device.
func (t *trials) fallback(ctx context.Context, user string) *audit.FallbackTrial {
	t.report("starting a second tailscaled without rights")
	r := new(audit.FallbackTrial)
	ctx, stop := context.WithTimeoutCause(ctx, fallbackLimit, fmt.Errorf("no answer within %s", fallbackLimit))
	defer stop()
	out, _, err := t.exec(ctx, agent.ExecRequest{User: user, Argv: []string{"sh", "-c", `
d=$(mktemp -d /tmp/audit.XXXXXX) || exit 1
tailscaled --statedir="$d" --socket="$d/socket" --tun=audit0,userspace-networking --port=0 --no-logs-no-support >"$d/log" 2>&1 &
p=$!
trap 'kill $p; wait $p; rm -rf "$d"' EXIT
until tailscale --socket="$d/socket" status --json --peers=false >"$d/status" 2>/dev/null && [ -s "$d/status" ]; do
	kill -0 $p 2>/dev/null || { tail -n 1 "$d/log" >&2; exit 1; }
	sleep 0.2
done
cat "$d/status"`}})
	if err != nil {
		r.Err = err.Error()
		return r
	}
	r.Said, err = withoutDevice(out)
	if err != nil {
		r.Err = err.Error()
	}
	return r
}

// withoutDevice reads the status of a tailscaled that should have none.
func withoutDevice(status []byte) (string, error) {
	var s struct{ TUN *bool }
	switch err := json.Unmarshal(status, &s); {
	case err != nil:
		return "", fmt.Errorf("tailscale status: %w", err)
	case s.TUN == nil:
		return "", errors.New("tailscale status does not tell whether there is a device")
	case *s.TUN:
		return "", errors.New("it has a network device, which it should have no right to")
	}
	return `"TUN": false`, nil
}

// now is the service as it is now.
func (t *trials) now(ctx context.Context, name string) (agent.Service, error) {
	s, err := t.machine.Status(ctx)
	if err != nil {
		return agent.Service{}, err
	}
	if s.Guest == nil {
		return agent.Service{}, errors.New(s.GuestError)
	}
	v, ok := s.Guest.Service(name)
	if !ok || v.PID == 0 {
		return v, errors.New("it does not run")
	}
	return v, nil
}

// heal kills a service's process and waits until it is as it was.
func (t *trials) heal(ctx context.Context, name string) audit.HealTrial {
	t.report("killing " + name + ", and waiting until it is back")
	r := audit.HealTrial{Service: name}
	ctx, stop := context.WithTimeoutCause(ctx, healLimit, fmt.Errorf("it was not back within %s", healLimit))
	defer stop()
	before, err := t.now(ctx, name)
	if err != nil {
		r.Err = err.Error()
		return r
	}
	r.Old = before.PID
	began := time.Now()
	if _, err := t.run(ctx, "kill", "-KILL", strconv.Itoa(before.PID)); err != nil {
		r.Err = err.Error()
		return r
	}
	healed := errors.New("healed")
	err = t.machine.Watch(ctx, func(e runtime.Event) error {
		if e.Status == nil || e.Status.Guest == nil {
			return nil
		}
		v, ok := e.Status.Guest.Service(name)
		if !ok || v.PID == 0 || v.PID == before.PID {
			return nil
		}
		r.New = v.PID
		if r.Healthy = v.Healthy || !before.Healthy; r.Healthy {
			return healed
		}
		return nil
	})
	r.Took = time.Since(began)
	if !errors.Is(err, healed) && r.New == 0 {
		r.Err = reason(ctx, err)
	}
	return r
}

func reason(ctx context.Context, err error) string {
	if ctx.Err() != nil {
		return context.Cause(ctx).Error()
	}
	if err == nil {
		return "the machine was removed meanwhile"
	}
	return err.Error()
}

// crash commits a row, kills the postmaster, and looks for the row and for what
// the log says. The table is one of its own, and goes with the trial.
func (t *trials) crash(ctx context.Context, service, user string) (*audit.CrashTrial, audit.HealTrial) {
	r := new(audit.CrashTrial)
	none := audit.HealTrial{Service: service}
	table := "sovereign_audit_" + strings.ToLower(rand.Text())
	last, err := t.lastLine(ctx, service)
	if err == nil {
		_, err = t.sql(ctx, user, "CREATE TABLE "+table+" AS SELECT 1 AS n")
	}
	if err != nil {
		r.Err, none.Err = err.Error(), "it was not killed: "+err.Error()
		return r, none
	}
	defer func() {
		ctx, stop := clean(ctx)
		defer stop()
		if _, err := t.sql(ctx, user, "DROP TABLE IF EXISTS "+table); err != nil && r.Err == "" {
			r.Err = "the trial's table " + table + " is left: " + err.Error()
		}
	}()
	h := t.heal(ctx, service)
	r.Old, r.New, r.Took = h.Old, h.New, h.Took
	if h.Err != "" || !h.Healthy {
		r.Err = h.Err
		if r.Err == "" {
			r.Err = "it runs, and is not healthy again"
		}
		return r, h
	}
	n, err := t.sql(ctx, user, "SELECT count(*) FROM "+table)
	if err != nil {
		r.Err = err.Error()
		return r, h
	}
	r.Kept = n == "1"
	if r.Recovered, err = t.recovery(ctx, service, last); err != nil {
		r.Err = err.Error()
	}
	return r, h
}

// lastLine is the newest line of a service's log.
func (t *trials) lastLine(ctx context.Context, service string) (last string, err error) {
	err = t.machine.Logs(ctx, []string{service}, false, func(l runtime.LogLine) error {
		last = l.Text
		return nil
	})
	return last, err
}

// recoveryLines are how PostgreSQL begins a recovery (xlogrecovery.c).
var recoveryLines = []string{"automatic recovery in progress", "redo starts at"}

// recovery is the first line behind last that tells of a recovery. Where last is
// gone all lines are newer.
func (t *trials) recovery(ctx context.Context, service, last string) (string, error) {
	var lines []string
	err := t.machine.Logs(ctx, []string{service}, false, func(l runtime.LogLine) error {
		lines = append(lines, l.Text)
		return nil
	})
	return findRecovery(lines, last), err
}

func findRecovery(lines []string, last string) string {
	found := ""
	for _, line := range lines {
		if line == last {
			found = ""
			continue
		}
		for _, sign := range recoveryLines {
			if found == "" && strings.Contains(line, sign) {
				found = strings.TrimSpace(line)
			}
		}
	}
	return found
}

// daemon kills sovereignd where it is a process of this computer.
func (t *trials) daemon(ctx context.Context) *audit.DaemonTrial {
	r := new(audit.DaemonTrial)
	if !t.here {
		r.Err = "it runs on another computer"
		return r
	}
	t.report("killing sovereignd, and waiting for the next one")
	ctx, stop := context.WithTimeoutCause(ctx, healLimit, fmt.Errorf("there was no other within %s", healLimit))
	defer stop()
	info, err := t.host.Info(ctx)
	if err != nil {
		r.Err = err.Error()
		return r
	}
	before, err := t.machine.Status(ctx)
	if err != nil {
		r.Err = err.Error()
		return r
	}
	r.Old = info.PID
	began := time.Now()
	// It is the process that has just answered.
	if err := t.kill(info.PID); err != nil {
		r.Err = err.Error()
		return r
	}
	r.Tried = true
	// The killed one may answer once more.
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for info.PID == r.Old {
		select {
		case <-ctx.Done():
			r.Err = context.Cause(ctx).Error()
			return r
		case <-tick.C:
		}
		if info, err = t.host.Info(ctx); err != nil {
			r.Err = err.Error()
			return r
		}
	}
	r.New, r.Took = info.PID, time.Since(began)
	after, err := t.machine.Status(ctx)
	if err != nil {
		r.Err = err.Error()
		return r
	}
	r.Kept = after.PID == before.PID && after.State == runtime.Running
	return r
}
