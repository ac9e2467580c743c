package backups

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"
	"time"

	"github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/pkg/backup"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// Directories in the state directory.
const (
	repositoriesDir = "repositories"
	jobsDir         = "backup"
)

// Options are what a Manager is given.
type Options struct {
	// Host is this sovereignd as its clients know it: a drill's machine is
	// operated as any other.
	Host *runtime.Host
	// Report takes what is done, for people.
	Report func(machine, text string)
	// Progress takes how far something has come, in bytes.
	Progress func(machine string, p runtime.Progress)
	// Changed is called when a machine's status may be another.
	Changed func(machine string)
	// Lacks says which conditions of a policy the device does not fulfil now; ""
	// for none. Nil: it fulfils all.
	Lacks func(ctx context.Context, when []backup.Condition) string
	// Program is sovereign-backup's path; "" is the one beside this program, or
	// in PATH.
	Program string
}

// Manager keeps backups of the machines of a state directory.
type Manager struct {
	r       *machine.Runtime
	o       Options
	host    string // the device's name in repositories
	program func() (string, error)
	poked   chan struct{}

	mu   sync.Mutex // of states' files
	busy sync.Map   // what is being worked on: a word, and true
	// holding is what machines' backups wait for, by their names: a string.
	holding sync.Map
	jobs    jobs
	logs    logs
}

// New makes one, and removes what one that was killed has left.
func New(ctx context.Context, r *machine.Runtime, o Options) (*Manager, error) {
	m := &Manager{r: r, o: o, poked: make(chan struct{}, 1), program: findProgram, jobs: jobs{},
		logs: logs{poked: make(chan struct{}, 1), keepers: map[string]*logKeeper{}, up: map[string]vm.Process{}, agreed: map[string]agreement{}}}
	if o.Program != "" {
		m.program = func() (string, error) { return o.Program, nil }
	}
	for _, dir := range []string{repositoriesDir, jobsDir} {
		if err := os.MkdirAll(filepath.Join(r.Dir(), dir), 0o700); err != nil {
			return nil, fault.Wrap(fault.Environment, err)
		}
	}
	name, err := os.Hostname()
	if err != nil || name == "" {
		name = "localhost"
	}
	m.host = strings.ToLower(name)
	return m, m.sweep(ctx)
}

// sweep removes machines of drills, and disks of restores, that were under way
// when a sovereignd was killed.
func (m *Manager) sweep(ctx context.Context) error {
	names, err := m.r.Temporary()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := m.r.Discard(ctx, name); err != nil {
			return fmt.Errorf("what a drill has left: %w", err)
		}
		m.o.Report(name, "removed: the drill that it was for was killed")
	}
	return m.r.SweepRestores(ctx)
}

// jobs counts what goes on.
type jobs struct {
	mu sync.Mutex
	n  int
}

func (j *jobs) add(n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.n += n
}

// Busy says whether anything is backed up, checked or restored.
func (m *Manager) Busy() bool {
	m.jobs.mu.Lock()
	defer m.jobs.mu.Unlock()
	return m.jobs.n > 0
}

// hold has one at a time work on something; who comes second is told.
func (m *Manager) hold(what string) (release func(), err error) {
	if _, taken := m.busy.LoadOrStore(what, true); taken {
		return nil, fault.Errorf(fault.Usage, "%s is being worked on", what).Hintf("try again when that is over")
	}
	m.jobs.add(1)
	return func() {
		m.busy.Delete(what)
		m.jobs.add(-1)
		m.poke()
		m.o.Changed("") // there may be nothing to do any more
	}, nil
}

func (m *Manager) poke() {
	poked(m.poked)
	poked(m.logs.poked)
}

// poked has who waits on c look.
func poked(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is going to look anyway
	}
}

func (m *Manager) progress(name, verb string) func(done, total int64) {
	return func(done, total int64) {
		m.o.Progress(name, runtime.Progress{Verb: verb, Done: done, Total: total})
	}
}

// startProcess starts a process from a thread that stays: the kernel sends the
// death signal when the thread ends that has started it.
func startProcess(cmd *exec.Cmd) error {
	goruntime.LockOSThread()
	defer goruntime.UnlockOSThread()
	return cmd.Start()
}

// noteFailure is a try that failed, for the alarms.
func noteFailure(former *Failure, err error) *Failure {
	f := &Failure{At: now(), Tries: 1, Class: fault.ClassOf(err), Why: err.Error()}
	if former != nil {
		f.Tries = former.Tries + 1
	}
	return f
}

// cancelled says whether somebody ended what was done: no failure of it.
func cancelled(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, context.Canceled)
}

func now() time.Time { return time.Now().UTC().Truncate(time.Second) }

// Close ends the conversation with the own sovereignd.
func (m *Manager) Close() error { return m.o.Host.Close() }
