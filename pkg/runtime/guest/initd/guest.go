package initd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/clock"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/cmdline"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/datadisk"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/logs"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/services"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

// initLog is the name under which the agent gives init's own log.
const initLog = "init"

// guest is what the agent tells of; it implements agent.Operator.
type guest struct {
	c          *console
	phases     *phases
	line       cmdline.Line
	runner     *services.Runner
	stop       chan struct{} // closed when the machine is to go off
	stopOnce   sync.Once
	logsOpen   sync.WaitGroup                       // opens the logs' files
	verified   chan struct{}                        // closed when the root is mounted, which dm-verity checks
	rooted     chan struct{}                        // closed when the root is there, with all its mounts
	ntp        *clock.Keeper                        // not nil once rooted is closed
	opened     func() (*datadisk.FileSystem, error) // waits for the data disk; nil before it is being opened
	devices    []string                             // of the network
	begin      sync.Once                            // of the network
	settled    chan struct{}                        // closed when the network was tried, or is late
	freezer    freezer                              // of the data file system
	history    history                              // of the data disk
	identities [][]string                           // paths on the data disk that a clone does not have, by service
	snapshots  snapshots                            // of the data disk
	news       news                                 // of the status

	mu        sync.Mutex
	name      string
	mount     string
	device    string            // of the data disk; "" before it is mounted
	manager   *services.Manager // nil before the services start
	stopLimit time.Duration     // of the services
	failed    string            // why they never will
	troubles  map[string]string // what else is wrong, by topic
	clock     agent.Clock
	bootMS    int64
	files     []*logs.Log
}

// Topics of trouble, in the order in which they are told; network's own are
// "network" and "network6". All are the machine's surroundings: whatever a
// service does about them is told by the service.
const (
	topicData      = "data"
	topicErrors    = "data errors"
	topicGrowth    = "data growth"
	topicLoopback  = "lo"
	topicAddresses = "addresses"
	topicClock     = "clock"
)

func topics() []string {
	return []string{topicErrors, topicData, topicGrowth, topicLoopback, "network", "network6", topicAddresses, topicClock}
}

func newGuest(c *console, p *phases, line cmdline.Line) *guest {
	g := &guest{c: c, phases: p, line: line, troubles: map[string]string{},
		stop: make(chan struct{}), verified: make(chan struct{}), rooted: make(chan struct{}), settled: make(chan struct{})}
	g.freezer = freezer{freeze: datadisk.Freeze, thaw: datadisk.Thaw, note: c.note, changed: g.news.tell}
	for _, n := range []*cmdline.Net{line.Net, line.Net6} {
		if n != nil && !slices.Contains(g.devices, n.Device) {
			g.devices = append(g.devices, n.Device)
		}
	}
	return g
}

func (g *guest) setSpec(s spec.Spec) {
	defer g.news.tell()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.name, g.mount, g.stopLimit = s.Name, s.Data.Mount, stopLimit(s)
	for _, v := range s.Services {
		if v.Backup != nil {
			g.identities = append(g.identities, v.Backup.Identity)
		}
	}
}

func (g *guest) setData(device string) {
	defer g.news.tell()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.device = device
}

func (g *guest) setServices(s *services.Manager) {
	g.mu.Lock()
	g.manager = s
	g.mu.Unlock()
	g.news.tell()
	g.noteReady() // a spec without services is ready at once
}

// setClock is told by the clock's keeper.
func (g *guest) setClock(source agent.Clock, err error) {
	g.mu.Lock()
	other := g.clock != source
	g.clock = source
	g.mu.Unlock()
	if other {
		g.news.tell()
	}
	g.trouble(topicClock, err)
}

// fail enters the state that only a shutdown leaves.
func (g *guest) fail(err error) {
	g.mu.Lock()
	g.failed = err.Error()
	g.mu.Unlock()
	g.news.tell()
	g.c.note("FAILED: %v", err)
	g.c.note("no service is started; the agent answers status, logs, exec and shutdown")
}

// trouble notes what is wrong without keeping the services from starting, or
// with nil that it is well again.
func (g *guest) trouble(topic string, err error) {
	g.mu.Lock()
	before := g.troubles[topic]
	delete(g.troubles, topic)
	if err != nil {
		g.troubles[topic] = err.Error()
	}
	g.mu.Unlock()
	switch {
	case err != nil && err.Error() != before:
		g.news.tell()
		g.c.note("%v", err)
	case err == nil && before != "":
		g.news.tell()
		g.c.note("well again: %s", before)
	}
}

// serviceNote is told by the services when a service changes.
func (g *guest) serviceNote(text string) {
	g.c.note("%s", text)
	g.noteReady()
}

// noteReady takes the boot time when the guest is ready for the first time.
func (g *guest) noteReady() {
	g.mu.Lock()
	manager := g.manager
	g.mu.Unlock()
	if manager == nil {
		return
	}
	if state, _ := manager.State(); state != agent.StateReady {
		return
	}
	g.mu.Lock()
	first := g.bootMS == 0
	if first {
		g.bootMS = max(1, sinceBoot().Milliseconds())
	}
	g.mu.Unlock()
	if first {
		g.news.tell()
		g.c.note("ready")
	}
}

func (g *guest) requestStop() {
	g.stopOnce.Do(func() {
		close(g.stop)
		g.news.tell()
	})
}

// Changed implements agent.Watcher.
func (g *guest) Changed() <-chan struct{} { return g.news.next() }

// Status implements agent.Backend.
func (g *guest) Status() agent.Status {
	g.noteReady() // so that a status that says ready has the boot time
	select {
	case <-g.rooted:
		g.ntp.Look() // a host that has just resumed the machine asks
	default:
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	s := agent.Status{Name: g.name, State: agent.StateBooting, BootMS: g.bootMS,
		UptimeMS: sinceBoot().Milliseconds(), Frozen: g.freezer.frozen.Load(), Clock: g.clock, Services: []agent.Service{}}
	if g.device != "" {
		s.Data = dataRoom(g.mount)
	}
	s.Continuity = g.history.state()
	if g.manager != nil {
		s.State, s.Message = g.manager.State()
		s.Services = g.manager.Services()
	}
	if g.failed != "" {
		s.State, s.Message = agent.StateFailed, g.failed
	}
	for _, topic := range topics() {
		text := g.troubles[topic]
		if text == "" {
			continue
		}
		s.Troubles = append(s.Troubles, text)
		if s.State == agent.StateReady {
			s.State = agent.StateDegraded
		}
		if s.Message == "" {
			s.Message = text
		}
	}
	if s.Message == "" && s.Data != nil {
		s.Message = nearlyFull(*s.Data)
	}
	select {
	case <-g.stop:
		s.State = agent.StateStopping
	default:
	}
	return s
}

// Secret implements agent.Backend.
func (g *guest) Secret(ctx context.Context, service, name string) (string, error) {
	manager, err := g.services()
	if err != nil {
		return "", err
	}
	return manager.Secret(ctx, service, name)
}

// Logs implements agent.Backend.
func (g *guest) Logs(ctx context.Context, service string, follow bool) (io.ReadCloser, error) {
	if service == initLog {
		return g.c.log.Reader(ctx, follow), nil
	}
	manager, err := g.services()
	if err != nil {
		return nil, err
	}
	l, err := manager.Log(service)
	if err != nil {
		return nil, err
	}
	return l.Reader(ctx, follow), nil
}

func (g *guest) services() (*services.Manager, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.manager == nil {
		return nil, fmt.Errorf("no service was started yet: %w: see the status", fs.ErrNotExist)
	}
	return g.manager, nil
}

// Shutdown implements agent.Backend.
func (g *guest) Shutdown(ctx context.Context) error {
	g.c.note("shutdown asked for by the agent")
	context.AfterFunc(ctx, g.requestStop)
	return nil
}

// openLogs lets the logs of the services and of init go to the data disk. A
// disk that does not take them is told by the log, and holds up nobody.
func (g *guest) openLogs(manager *services.Manager, s spec.Spec) {
	dir := filepath.Join(s.Data.Mount, "log")
	most := logSize(dataRoom(s.Data.Mount), len(s.Services)+1)
	open := func(name string, l *logs.Log) {
		err := l.OpenFile(filepath.Join(dir, name+".log"), most)
		if err != nil {
			g.c.note("%v", err)
			return
		}
		g.mu.Lock()
		g.files = append(g.files, l)
		g.mu.Unlock()
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		g.c.note("logs: %v", err)
		return
	}
	for _, v := range s.Services {
		if l, err := manager.Log(v.Name); err == nil {
			open(v.Name, l)
		}
	}
	open(initLog, g.c.log)
}

// logSize is how large each of n logs' files may become: all of them, with
// their older ones, take at most a sixteenth of the disk.
func logSize(d *agent.Data, n int) int64 {
	if d == nil {
		return logs.MaxFile
	}
	return min(logs.MaxFile, max(d.Size/16/int64(2*n), 64<<10))
}

func (g *guest) closeLogs() error {
	if !within(logLimit, g.logsOpen.Wait) {
		g.c.note("logs: the data disk does not let them be opened")
	}
	g.mu.Lock()
	files := g.files
	g.mu.Unlock()
	var err error
	for _, l := range files {
		err = errors.Join(err, l.Close(logLimit))
	}
	return err
}
