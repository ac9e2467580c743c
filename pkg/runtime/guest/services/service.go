package services

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/logs"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/proc"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

// crashLoop is how many ends in a row, without a minute of health between
// them, make the guest degraded.
const crashLoop = 3

// service is one program that is kept running. One goroutine, run, drives it.
type service struct {
	manager       *Manager
	spec          spec.Service
	after, before []*service
	log           *logs.Log
	output        *os.File          // what its processes print to, while run runs
	group         *cgroup           // while run runs
	user          account           // of the current start
	machine       map[string]string // as the last setup, or what it waited for, left it
	ready         chan struct{}     // closed when it was healthy for the first time
	stopped       chan struct{}     // closed when run has returned
	changes       chan change       // asked of run, from elsewhere
	changing      chan struct{}     // holds one while a secret is changed
	started       func()            // ends the phase that begins with the first start; nil before
	reloadTried   time.Time         // when a reload that is pending was tried

	mu       sync.Mutex
	status   agent.Service
	stale    string    // why the service goes by a former secret; "" where it does not
	row      int       // ends in a row
	since    time.Time // when it became healthy; zero while it is not
	wasReady bool
}

func newService(s *Manager, v spec.Service) *service {
	return &service{manager: s, spec: v, log: logs.New(), ready: make(chan struct{}), stopped: make(chan struct{}),
		changes: make(chan change), changing: make(chan struct{}, 1),
		status: agent.Service{Name: v.Name, State: agent.ServiceWaiting, Optional: v.Optional}}
}

func (n *service) secretsDir() string {
	return filepath.Join(SecretsDir(n.manager.opts.Spec.Data.Mount), n.spec.Name)
}

// SecretsDir is where the secrets of all services are, on the data file system
// mounted at mount.
func SecretsDir(mount string) string { return filepath.Join(mount, "secrets") }

// run drives the service until ctx ends and its processes have ended.
func (n *service) run(ctx context.Context) {
	defer close(n.stopped)
	defer n.update(func(s *agent.Service) { s.State, s.Healthy, s.PID = agent.ServiceStopped, false, 0 })
	if !n.awaitOthers(ctx) {
		return
	}
	b := backoff{timing: n.manager.opts.Timing}
	for first := true; ; first = false {
		err := n.cycle(ctx, first)
		if ctx.Err() != nil {
			return
		}
		healthyFor := n.unhealthy()
		if errors.Is(err, errRestart) {
			n.problem("restarted on request")
		} else {
			n.pauseAfter(ctx, err, b.ended(healthyFor), b.row)
		}
		if ctx.Err() != nil {
			return
		}
		n.update(func(s *agent.Service) { s.Restarts++; s.PID = 0 })
	}
}

// awaitOthers waits for the services this one comes after; it says whether
// they were all healthy.
func (n *service) awaitOthers(ctx context.Context) bool {
	for _, a := range n.after {
		for waiting := true; waiting; {
			select {
			case <-a.ready:
				waiting = false
			case c := <-n.changes:
				c.answer <- nil // its start takes it up
			case <-ctx.Done():
				return false
			}
		}
	}
	return true
}

// pauseAfter waits before the next start. A change ends the pause: it may be
// what was missing.
func (n *service) pauseAfter(ctx context.Context, err error, pause time.Duration, row int) {
	text := fmt.Sprintf("%v; start again in %v", err, pause)
	if row >= crashLoop {
		text = fmt.Sprintf("%v; %d times in a row; start again in %v", err, row, pause)
	}
	n.update(func(s *agent.Service) {
		n.row = row
		s.State, s.PID, s.Message = agent.ServiceBackoff, 0, text
	})
	n.manager.opts.Note(n.spec.Name + ": " + text)
	select {
	case <-time.After(pause):
	case c := <-n.changes:
		c.answer <- nil
	case <-ctx.Done():
	}
}

// cycle is one life: set up, run, and wait until nothing of it is left. The
// error says why it ended.
func (n *service) cycle(ctx context.Context, first bool) (err error) {
	n.update(func(s *agent.Service) { s.State = agent.ServiceSetup })
	end := func() {}
	if first {
		end = n.manager.opts.Phase(n.spec.Name + ": setup")
	}
	closeOutput, err := n.openOutput()
	if err != nil {
		return err
	}
	defer closeOutput()
	err = n.inGroup(ctx, n.prepare)
	end()
	if err != nil {
		return err
	}
	if n.started == nil {
		n.started = n.manager.opts.Phase(n.spec.Name + ": start")
	}
	return n.inGroup(ctx, n.live)
}

// inGroup gives f a control group, and waits until nothing is left in it.
func (n *service) inGroup(ctx context.Context, f func(context.Context) error) error {
	opts := &n.manager.opts
	group, err := newCgroup(opts.Cgroups, n.spec.Name, n.spec.Limits)
	if err != nil {
		return err
	}
	n.group = group
	err = f(ctx)
	if err != nil && group.outOfMemory() {
		err = fmt.Errorf("%w: out of memory", err)
		if m := n.spec.Limits.MemoryMiB; m > 0 {
			err = fmt.Errorf("%w (its limit is %d MiB)", err, m)
		}
	}
	killed, closeErr := group.close(ctx, opts.Timing.Drain, func() {
		opts.Note(n.spec.Name + ": processes do not end after KILL: waiting for the kernel to let go of them")
	})
	if killed && ctx.Err() == nil {
		opts.Note(n.spec.Name + ": processes it left behind were killed")
	}
	if err == nil {
		err = ctx.Err()
	}
	return errors.Join(err, closeErr)
}

// live starts the program and stays until it has ended; the error says why.
func (n *service) live(ctx context.Context) (err error) {
	changed, unwatch := n.watchState()
	defer unwatch()
	p, err := n.manager.opts.Procs.Start(n.attr(n.spec.Command, n.machine))
	if err != nil {
		return err
	}
	if n.group == nil { // then the process group is all that can be killed
		defer func() { err = errors.Join(err, p.KillSession()) }()
	}
	go readLibraries(n.spec.Command[0], libraryDirs)
	n.update(func(s *agent.Service) { s.State, s.PID = agent.ServiceStarting, p.PID })
	reason := n.watch(ctx, p, changed)
	if reason != nil || ctx.Err() != nil {
		n.stop(ctx, p)
	}
	if reason != nil {
		return reason
	}
	select {
	case <-p.Done():
		return fmt.Errorf("ended: %s", proc.Describe(p.Status()))
	default:
		return errors.New("does not end")
	}
}

// watchState watches the file by which the service tells of changes; without
// one, or when it cannot be watched, checks come by the clock alone.
func (n *service) watchState() (changed <-chan struct{}, stop func()) {
	if n.spec.Health.Watch == "" || len(n.spec.Health.Command) == 0 {
		return nil, func() {}
	}
	changed, stop, err := watchFile(n.spec.Health.Watch)
	if err != nil {
		n.manager.opts.Note(n.spec.Name + ": " + err.Error())
		return nil, func() {}
	}
	return changed, stop
}

// openOutput connects the service's processes to its log.
func (n *service) openOutput() (closeAll func(), err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	n.output = w
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		io.Copy(n.log, proc.PipeReader{File: r}) //nolint:errcheck // ends with the pipe; a Log takes every write
	}()
	return func() {
		w.Close()
		// Somebody who escaped may hold the other end: what is there is
		// enough.
		if err := r.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			r.Close()
		}
		<-copied
		r.Close()
	}, nil
}

// prepare makes directories and secrets and runs the setup commands.
func (n *service) prepare(ctx context.Context) error {
	go readAhead(n.spec.Command[0])
	var err error
	if n.user, err = n.manager.account(n.spec.User); err != nil {
		return err
	}
	if err := makeSecretsDir(n.secretsDir(), n.user); err != nil {
		return err
	}
	for _, x := range n.spec.Secrets {
		if x.Given {
			continue
		}
		if err := n.makeSecret(x); err != nil {
			return err
		}
	}
	for _, c := range n.spec.Certificates {
		if err := makeCertificate(n.secretsDir(), c, n.manager.opts.Spec.Name, n.manager.opts.ImageDate, time.Now(), n.user); err != nil {
			return err
		}
	}
	if err := n.ownSecrets(); err != nil {
		return err
	}
	note := func(text string) { n.manager.opts.Note(n.spec.Name + ": " + text) }
	for _, d := range n.spec.Directories {
		if err := makeDirectory(d, n.user, note); err != nil {
			return err
		}
	}
	if err := openDevices(n.spec.Devices, n.user); err != nil {
		return err
	}
	return n.setUp(ctx)
}

// setUp runs the setup commands, and again where the machine is not what it was
// described as to them, which is known once it has settled.
func (n *service) setUp(ctx context.Context) error {
	n.machine = n.manager.opts.Machine()
	if err := n.runSetup(ctx); err != nil {
		return err
	}
	n.manager.opts.Settle(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	described := n.machine
	n.machine = n.manager.opts.Machine()
	if maps.Equal(described, n.machine) {
		return nil
	}
	return n.runSetup(ctx)
}

func (n *service) runSetup(ctx context.Context) error {
	for _, argv := range n.spec.Setup {
		p, err := n.manager.opts.Procs.Start(n.attr(argv, n.machine))
		if err != nil {
			return fmt.Errorf("setup: %w", err)
		}
		status, err := p.Wait(ctx)
		if err != nil {
			return fmt.Errorf("setup %s: %w", argv[0], err)
		}
		if status != 0 {
			return fmt.Errorf("setup %s: %s: see the service's log", argv[0], proc.Describe(status))
		}
	}
	return nil
}

// attr is how any command of the service is started on the machine.
func (n *service) attr(argv []string, machine map[string]string) proc.Attr {
	env := map[string]string{
		"PATH": searchPath,
		"HOME": n.user.home, "USER": n.spec.User, "LOGNAME": n.spec.User,
		"SOVEREIGN_SECRETS": n.secretsDir(),
	}
	maps.Copy(env, machine)
	maps.Copy(env, n.spec.Environment)
	return proc.Attr{
		Path: argv[0], Args: argv, Env: environ(env), Dir: "/", Stdout: n.output, Stderr: n.output,
		Credential: n.user.credential(), Capabilities: capabilities(n.spec.Capabilities), Cgroup: n.group.file(),
		OpenFiles: n.spec.Limits.OpenFiles, OOMScoreAdj: n.spec.Limits.OOMScoreAdj,
	}
}

// stop ends a process in order: after those that come after it, by its signal,
// and by KILL after its seconds.
func (n *service) stop(ctx context.Context, p *proc.Process) {
	n.update(func(s *agent.Service) { s.State, s.Healthy = agent.ServiceStopping, false })
	if ctx.Err() != nil {
		for _, b := range n.before {
			<-b.stopped // each of them has a deadline of its own
		}
	}
	sig, err := stopSignal(n.spec.Stop.Signal)
	if err == nil {
		err = p.Signal(sig)
	}
	if !endsWithin(p, time.Duration(n.spec.Stop.Seconds)*n.manager.opts.Timing.Second) {
		n.manager.opts.Note(fmt.Sprintf("%s: did not end within %d s of %s: killed", n.spec.Name, n.spec.Stop.Seconds, n.spec.Stop.Signal))
		err = errors.Join(err, p.Signal(syscall.SIGKILL))
		for !endsWithin(p, killLimit) {
			n.manager.opts.Note(fmt.Sprintf("%s: process %d does not end after KILL: it hangs in the kernel", n.spec.Name, p.PID))
			if ctx.Err() != nil {
				break // the end of the guest waits no longer
			}
		}
	}
	if err != nil {
		n.problem(err.Error())
	}
}

func endsWithin(p *proc.Process, limit time.Duration) bool {
	select {
	case <-p.Done():
		return true
	case <-time.After(limit):
		return false
	}
}

// update changes the status, under the lock, and tells of it where it has.
func (n *service) update(f func(*agent.Service)) {
	n.mu.Lock()
	before := n.status
	f(&n.status)
	changed := n.status != before
	n.mu.Unlock()
	if changed {
		n.manager.opts.Changed()
	}
}

func (n *service) problem(text string) { n.update(func(s *agent.Service) { s.Message = text }) }

func (n *service) snapshot() agent.Service {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.status
	s.Log = n.logKind()
	if s.Healthy && n.stale != "" {
		if s.Warning != "" {
			s.Warning = "; " + s.Warning
		}
		s.Warning = n.stale + s.Warning
		s.Message = s.Warning
	}
	return s
}

// overall is what the service means for the guest.
func (n *service) overall() (agent.State, string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.status
	msg := s.Message
	if msg == "" {
		msg = string(s.State)
	}
	switch {
	case s.Healthy:
		return agent.StateReady, ""
	case n.wasReady || n.row >= crashLoop:
		return agent.StateDegraded, msg
	case s.State == agent.ServiceSetup:
		return agent.StateSetup, msg
	default:
		return agent.StateStarting, msg
	}
}
