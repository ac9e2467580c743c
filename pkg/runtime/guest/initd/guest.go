package initd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/datadisk"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/logs"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/supervise"
)

// initLog is the name under which the agent gives init's own log.
const initLog = "init"

// guest is what the agent tells of; it implements agent.Backend.
type guest struct {
	c        *console
	stop     chan struct{} // closed when the machine is to go off
	stopOnce sync.Once

	mu       sync.Mutex
	name     string
	mount    string
	sup      *supervise.Supervisor // nil before the services start
	failed   string                // why they never will
	troubles string                // what else is wrong
	bootMS   int64
	frozen   bool
	thaw     *time.Timer
	files    []*logs.Log
}

func newGuest(c *console) *guest { return &guest{c: c, stop: make(chan struct{})} }

func (g *guest) setSpec(s spec.Spec) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.name, g.mount = s.Name, s.Data.Mount
}

func (g *guest) setSupervisor(s *supervise.Supervisor) {
	g.mu.Lock()
	g.sup = s
	g.mu.Unlock()
	g.noteReady() // a spec without services is ready at once
}

// fail enters the state that only a shutdown leaves.
func (g *guest) fail(err error) {
	g.mu.Lock()
	g.failed = err.Error()
	g.mu.Unlock()
	g.c.note("FAILED: %v", err)
	g.c.note("no service is started; the agent answers status, logs and shutdown")
}

// trouble notes what is wrong without keeping the services from starting.
func (g *guest) trouble(err error) {
	g.mu.Lock()
	g.troubles = err.Error()
	g.mu.Unlock()
	g.c.note("%v", err)
}

// serviceNote is told by the supervisor when a service changes.
func (g *guest) serviceNote(text string) {
	g.c.note("%s", text)
	g.noteReady()
}

// noteReady takes the boot time when the guest is ready for the first time.
func (g *guest) noteReady() {
	g.mu.Lock()
	sup := g.sup
	g.mu.Unlock()
	if sup == nil {
		return
	}
	if state, _ := sup.State(); state != agent.StateReady {
		return
	}
	g.mu.Lock()
	first := g.bootMS == 0
	if first {
		g.bootMS = max(1, sinceBoot().Milliseconds())
	}
	g.mu.Unlock()
	if first {
		g.c.note("ready")
	}
}

func (g *guest) requestStop() { g.stopOnce.Do(func() { close(g.stop) }) }

// Status implements agent.Backend.
func (g *guest) Status() agent.Status {
	g.noteReady() // so that a status that says ready has the boot time
	g.mu.Lock()
	defer g.mu.Unlock()
	s := agent.Status{Name: g.name, State: agent.StateBooting, BootMS: g.bootMS,
		UptimeMS: sinceBoot().Milliseconds(), Frozen: g.frozen, Services: []agent.Service{}}
	if g.sup != nil {
		s.State, s.Message = g.sup.State()
		s.Services = g.sup.Services()
	}
	switch {
	case g.failed != "":
		s.State, s.Message = agent.StateFailed, g.failed
	case g.troubles != "":
		if s.State == agent.StateReady {
			s.State = agent.StateDegraded
		}
		if s.Message == "" {
			s.Message = g.troubles
		}
	}
	select {
	case <-g.stop:
		s.State = agent.StateStopping
	default:
	}
	return s
}

// Secret implements agent.Backend.
func (g *guest) Secret(_ context.Context, service, name string) (string, error) {
	sup, err := g.supervisor()
	if err != nil {
		return "", err
	}
	return sup.Secret(service, name)
}

// Logs implements agent.Backend.
func (g *guest) Logs(ctx context.Context, service string, follow bool) (io.ReadCloser, error) {
	if service == initLog {
		return g.c.log.Reader(ctx, follow), nil
	}
	sup, err := g.supervisor()
	if err != nil {
		return nil, err
	}
	l, err := sup.Log(service)
	if err != nil {
		return nil, err
	}
	return l.Reader(ctx, follow), nil
}

func (g *guest) supervisor() (*supervise.Supervisor, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sup == nil {
		return nil, fmt.Errorf("no service was started yet: %w: see the status", fs.ErrNotExist)
	}
	return g.sup, nil
}

// Shutdown implements agent.Backend.
func (g *guest) Shutdown(context.Context) error {
	g.c.note("shutdown asked for by the agent")
	g.requestStop()
	return nil
}

// Freeze implements agent.Backend.
func (g *guest) Freeze(_ context.Context, limit time.Duration) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sup == nil {
		return errors.New("freeze: the data disk is not in use yet: see the status")
	}
	if err := datadisk.Freeze(g.mount); err != nil {
		return err
	}
	g.frozen = true
	if g.thaw != nil {
		g.thaw.Stop()
	}
	g.thaw = time.AfterFunc(limit, func() {
		if err := g.Thaw(context.Background()); err != nil {
			g.c.note("%v", err)
		}
	})
	return nil
}

// Thaw implements agent.Backend.
func (g *guest) Thaw(context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.frozen {
		return nil
	}
	if err := datadisk.Thaw(g.mount); err != nil {
		return err
	}
	g.thaw.Stop()
	g.frozen = false
	return nil
}

// openLogs lets the logs of the services and of init go to the data disk.
func (g *guest) openLogs(sup *supervise.Supervisor, s spec.Spec) error {
	dir := filepath.Join(s.Data.Mount, "log")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	open := func(name string, l *logs.Log) error {
		g.mu.Lock()
		g.files = append(g.files, l)
		g.mu.Unlock()
		return l.OpenFile(filepath.Join(dir, name+".log"))
	}
	for _, v := range s.Services {
		l, err := sup.Log(v.Name)
		if err != nil {
			return err
		}
		if err := open(v.Name, l); err != nil {
			return err
		}
	}
	return open(initLog, g.c.log)
}

func (g *guest) closeLogs() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var err error
	for _, l := range g.files {
		err = errors.Join(err, l.FileError(), l.Close())
	}
	return err
}
