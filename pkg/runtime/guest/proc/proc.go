// Package proc starts and reaps processes for a process that is PID 1 or a
// subreaper. In comes what to run, out comes a Process that says when and how
// it ended; orphans that the kernel hands over are reaped as well.
//
// There is one waiter for all children, so that nothing else in the program
// may wait for a child: os/exec and os.Process are not to be used beside a
// Table. Starting and reaping exclude each other, so that a process is known
// before its end can be seen, and a pid is never signalled after it was reaped
// (it may belong to another process by then).
package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Attr says what to run.
type Attr struct {
	Path  string // absolute
	Args  []string
	Env   []string
	Dir   string
	Stdin *os.File // nil: /dev/null, and so for the other two
	// Stdout and Stderr are inherited as they are; the caller closes its own.
	Stdout, Stderr *os.File
	// Credential is the user to run as; nil keeps the caller's.
	Credential *syscall.Credential
	// Capabilities are all that the process may have, by the kernel's numbers;
	// none by default, for root too.
	Capabilities CapabilitySet
	// Cgroup is a directory of cgroup2 to start in; nil keeps the caller's.
	Cgroup *os.File
	// OpenFiles is RLIMIT_NOFILE, soft and hard; 0 keeps the limits that the
	// Table found when it was made.
	OpenFiles uint64
	// OOMScoreAdj is the process's oom_score_adj, -1000 to 1000.
	OOMScoreAdj int
	// Terminal makes Stdin, a terminal, the controlling one of the process's
	// session.
	Terminal bool
	// Grace is how long the process has between TERM and KILL when the context
	// of Wait ends; 0 is KILL at once.
	Grace time.Duration
}

// killGrace is how long a killed process is waited for: one that hangs in the
// kernel ends when that lets go of it, and is reaped then.
const killGrace = 5 * time.Second

// Process is a started process, the leader of a session of its own.
type Process struct {
	PID    int
	grace  time.Duration // as in Attr
	table  *Table
	done   chan struct{}
	status syscall.WaitStatus // valid when done is closed
}

// Table is the set of the started processes that have not ended.
type Table struct {
	mu    sync.Mutex // held while starting, reaping and signalling
	procs map[int]*Process
	null  *os.File
	files syscall.Rlimit // RLIMIT_NOFILE for processes without a limit
	oom   int            // the caller's own oom_score_adj
	bound bool           // capabilities can be taken from processes

	stop    func()
	stopped chan struct{}
}

// New makes a table and starts reaping. There must be only one at a time in a
// program.
func New() (*Table, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	t := &Table{procs: map[int]*Process{}, null: null, stopped: make(chan struct{})}
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &t.files); err != nil {
		return nil, err
	}
	// Go raises its own soft limit to the hard one at start; programs expect
	// the kernel's default, 1024 (select(2) cannot do more).
	t.files.Cur = min(t.files.Cur, 1024)
	if t.oom, err = readOOM(); err != nil {
		return nil, err
	}
	if t.bound, err = mayBound(); err != nil {
		return nil, err
	}
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	ctx, cancel := context.WithCancel(context.Background())
	t.stop = func() { signal.Stop(died); cancel() }
	go t.loop(ctx, died)
	return t, nil
}

// Close stops reaping. Processes go on.
func (t *Table) Close() error {
	t.stop()
	<-t.stopped
	return t.null.Close()
}

// loop reaps whenever SIGCHLD says that there may be something to reap. A
// signal that comes during reap stays pending in the channel, so that none is
// lost.
func (t *Table) loop(ctx context.Context, died <-chan os.Signal) {
	defer close(t.stopped)
	for {
		t.reap()
		select {
		case <-died:
		case <-ctx.Done():
			return
		}
	}
}

// reap collects every child that has ended.
func (t *Table) reap() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if pid <= 0 || err != nil { // nothing more has ended, or no child is left
			return
		}
		if p, ok := t.procs[pid]; ok {
			delete(t.procs, pid)
			p.status = status
			close(p.done)
		}
	}
}

// Start starts a process. Nothing that it executes can gain privileges that it
// does not have itself.
func (t *Table) Start(a Attr) (*Process, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	restore, err := t.inherit(a)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a.Path, err)
	}
	sys := &syscall.SysProcAttr{Setsid: true, Credential: a.Credential, Setctty: a.Terminal, AmbientCaps: a.ambient()}
	if a.Cgroup != nil {
		sys.UseCgroupFD, sys.CgroupFD = true, int(a.Cgroup.Fd())
	}
	var pid int
	onOwnThread(func() {
		if err = t.fence(a.Capabilities); err != nil {
			return
		}
		pid, err = syscall.ForkExec(a.Path, a.Args, &syscall.ProcAttr{
			Dir: a.Dir, Env: a.Env, Sys: sys,
			Files: []uintptr{t.file(a.Stdin), t.file(a.Stdout), t.file(a.Stderr)},
		})
	})
	undo := restore()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", a.Path, err), undo)
	}
	p := &Process{PID: pid, grace: a.Grace, table: t, done: make(chan struct{})}
	t.procs[pid] = p
	if undo != nil { // the next process would start with this one's limits
		return nil, errors.Join(undo, ignoreGone(syscall.Kill(-pid, syscall.SIGKILL)))
	}
	return p, nil
}

func (t *Table) file(f *os.File) uintptr {
	if f == nil {
		f = t.null
	}
	return f.Fd()
}

// inherit sets what a child takes from its parent and returns how to undo it.
// The caller's own values are the child's for that moment: setting them on the
// child after its start would come too late, as a program reads its limits
// first thing. The kernel never OOM-kills PID 1, whatever its score.
func (t *Table) inherit(a Attr) (restore func() error, err error) {
	var own syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &own); err != nil {
		return nil, err
	}
	limit := t.files
	if a.OpenFiles > 0 {
		limit = syscall.Rlimit{Cur: a.OpenFiles, Max: max(a.OpenFiles, own.Max)}
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return nil, fmt.Errorf("open files limit %d: %w", limit.Cur, err)
	}
	own.Max = max(own.Max, limit.Max)
	undo := func() error { return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &own) }
	if a.OOMScoreAdj == t.oom {
		return undo, nil
	}
	if err := writeOOM(a.OOMScoreAdj); err != nil {
		return nil, errors.Join(err, undo())
	}
	return func() error { return errors.Join(undo(), writeOOM(t.oom)) }, nil
}

// SetOOMScoreAdj sets the caller's own oom_score_adj.
func (t *Table) SetOOMScoreAdj(v int) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := writeOOM(v); err != nil {
		return err
	}
	t.oom = v
	return nil
}

const oomFile = "/proc/self/oom_score_adj"

func readOOM() (int, error) {
	b, err := os.ReadFile(oomFile)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

func writeOOM(v int) error { return os.WriteFile(oomFile, []byte(strconv.Itoa(v)), 0) }

// Done is closed when the process has ended and was reaped.
func (p *Process) Done() <-chan struct{} { return p.done }

// Status is how the process ended; it is valid after Done.
func (p *Process) Status() syscall.WaitStatus { return p.status }

// Signal sends a signal to the process, if it has not ended.
func (p *Process) Signal(s syscall.Signal) error {
	p.table.mu.Lock()
	defer p.table.mu.Unlock()
	select {
	case <-p.done:
		return nil
	default:
		return ignoreGone(syscall.Kill(p.PID, s))
	}
}

// KillSession kills what is left of the process's own process group, also
// after its end. A group lives as long as one process is in it, so that its
// number is not another's as long as there is something to kill; when it is
// empty the number could be a new process's, but that leads no group while
// the table is locked, and one of ours is told by the table.
func (p *Process) KillSession() error {
	p.table.mu.Lock()
	defer p.table.mu.Unlock()
	if q, ok := p.table.procs[p.PID]; ok && q != p {
		return nil
	}
	return ignoreGone(syscall.Kill(-p.PID, syscall.SIGKILL))
}

func ignoreGone(err error) error {
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

// Describe says how a process ended: "exit status 1", "killed (signal 9)".
func Describe(s syscall.WaitStatus) string {
	if s.Signaled() {
		return fmt.Sprintf("%s (signal %d)", s.Signal(), int(s.Signal()))
	}
	return fmt.Sprintf("exit status %d", s.ExitStatus())
}

// Wait waits for the end of the process. When ctx ends first, the process and
// its group are told to end, where they have a grace, and then killed, and the
// error is ctx's; the status is then only valid where Done is closed.
func (p *Process) Wait(ctx context.Context) (syscall.WaitStatus, error) {
	select {
	case <-p.done:
		return p.status, nil
	case <-ctx.Done():
		err := context.Cause(ctx)
		if p.grace > 0 {
			err = errors.Join(err, p.SignalGroup(syscall.SIGTERM))
			select {
			case <-p.done:
			case <-time.After(p.grace):
			}
		}
		err = errors.Join(err, p.KillSession())
		select {
		case <-p.done:
			return p.status, err
		case <-time.After(killGrace):
			return 0, fmt.Errorf("%w; process %d does not end after KILL: it hangs in the kernel", err, p.PID)
		}
	}
}

// SignalGroup sends a signal to the process's own process group, if the
// process has not ended.
func (p *Process) SignalGroup(s syscall.Signal) error {
	p.table.mu.Lock()
	defer p.table.mu.Unlock()
	select {
	case <-p.done:
		return nil
	default:
		return ignoreGone(syscall.Kill(-p.PID, s))
	}
}
