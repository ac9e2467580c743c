package daemon_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/internal/daemontest"
	"github.com/sovereign-build/sovereign/internal/machine/machinetest"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/daemon"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// guard is one that a test speaks for.
type guard struct {
	changed  chan struct{}
	shutdown chan string

	mu       sync.Mutex
	why      string
	up       bool
	floor    runtime.PhoneFloor
	machines func() []int
}

func (g *guard) hold(why string) {
	g.mu.Lock()
	g.why = why
	g.mu.Unlock()
	g.changed <- struct{}{}
}

func (g *guard) Hold() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.why
}

func (g *guard) Changed() <-chan struct{} { return g.changed }

func (g *guard) Wanted(up bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.up = up
}

func (g *guard) wanted() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.up
}

func (g *guard) Status() *runtime.PhoneStatus {
	return &runtime.PhoneStatus{Durable: true, Held: g.Hold(), Floor: g.floor}
}

func (g *guard) SetFloor(f runtime.PhoneFloor) error {
	g.floor = f
	return nil
}

func (g *guard) SetPhantom(context.Context, bool) error {
	return fault.Errorf(fault.Environment, "the framework is not up")
}

func (g *guard) Run(ctx context.Context, machines func() []int, stop func(string)) {
	g.mu.Lock()
	g.machines = machines
	g.mu.Unlock()
	select {
	case <-ctx.Done():
	case why := <-g.shutdown:
		stop(why)
	}
}

// A host that is not fit for machines holds them: none is started before it is,
// they are shut down in order when it is no longer, and when it shuts down.
func TestGuard(t *testing.T) {
	dir := daemontest.StateDir(t)
	g := &guard{changed: make(chan struct{}, 1), shutdown: make(chan string, 1), why: "it boots"}
	var mu sync.Mutex
	var said []string
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended, ready := make(chan error, 1), make(chan struct{})
	o := daemon.Options{Guard: g, StopMachines: true, Ready: func() { close(ready) }, Report: func(name, text string) {
		mu.Lock()
		defer mu.Unlock()
		said = append(said, text)
	}}
	go func() { ended <- daemontest.Run(ctx, dir, o) }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	h, err := runtime.Local(dir, runtime.WithProgram("/nowhere"))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	bundle := filepath.Join(t.TempDir(), "sql")
	machinetest.WriteBundle(t, bundle, "one", "fake=quick")
	m, err := h.Install(t.Context(), bundle, "db", runtime.UpOptions{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	status := func() runtime.Status {
		t.Helper()
		s, err := m.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	until := func(what string, is func() bool) {
		t.Helper()
		for limit := time.Now().Add(time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(limit) {
				t.Fatalf("waiting for %s: %q", what, said)
			}
		}
	}
	if s := status(); s.PID != 0 || s.Message != "it is held: it boots" || g.wanted() {
		t.Errorf("%+v", s)
	}
	if info, err := h.Info(t.Context()); err != nil || info.Phone == nil || info.Phone.Held != "it boots" {
		t.Errorf("%+v, %v", info, err)
	}
	g.hold("")
	if _, err := m.WaitReady(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	until("that it is wanted up", g.wanted)
	if pids := g.machines(); !slices.Equal(pids, []int{status().PID}) {
		t.Errorf("%v", pids)
	}
	g.hold("the battery is low")
	until("its end", func() bool { return status().PID == 0 })
	if s := status(); s.Supervision == nil || s.Supervision.Wanted != runtime.Up || !strings.Contains(s.Message, "battery") {
		t.Errorf("%+v", s)
	}
	until("that it is not wanted up", func() bool { return !g.wanted() })
	g.hold("")
	until("its start", func() bool { return status().PID != 0 })

	if s, err := h.SetPhone(t.Context(), runtime.PhoneSettings{Floor: &runtime.PhoneFloor{Battery: 20}}); err != nil || s.Floor.Battery != 20 {
		t.Errorf("%+v, %v", s, err)
	}
	off := true
	if _, err := h.SetPhone(t.Context(), runtime.PhoneSettings{PhantomOff: &off}); fault.ClassOf(err) != fault.Environment {
		t.Error(err)
	}
	pid := status().PID
	g.shutdown <- "the host shuts down"
	if err := <-ended; err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	text := strings.Join(said, "\n")
	if !strings.Contains(text, "the host shuts down") || strings.Count(text, "until the next sovereignd") != 2 {
		t.Errorf("%s", text)
	}
	if pids := g.machines(); len(pids) > 0 {
		t.Errorf("process %d of %v runs on", pid, pids)
	}
}

// A machine that an earlier sovereignd has left runs while the guard of the next
// one still looks: who wants into its guest waits for that, and gets in.
func TestGuardTakesOver(t *testing.T) {
	dir := daemontest.StateDir(t)
	connect := func(o daemon.Options) (h *runtime.Host, end func()) {
		t.Helper()
		ctx, cancel := context.WithCancel(context.Background())
		ended, ready := make(chan error, 1), make(chan struct{})
		o.Ready = func() { close(ready) }
		go func() { ended <- daemontest.Run(ctx, dir, o) }()
		select {
		case <-ready:
		case err := <-ended:
			t.Fatal(err)
		}
		h, err := runtime.Local(dir, runtime.WithProgram("/nowhere"))
		if err != nil {
			t.Fatal(err)
		}
		return h, func() {
			h.Close()
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	h, end := connect(daemon.Options{})
	bundle := filepath.Join(t.TempDir(), "sql")
	machinetest.WriteBundle(t, bundle, "one", "fake=quick")
	m, err := h.Install(t.Context(), bundle, "db", runtime.UpOptions{}, nil)
	if err == nil {
		_, err = m.WaitReady(t.Context(), nil)
	}
	end()
	if err != nil {
		t.Fatal(err)
	}

	g := &guard{changed: make(chan struct{}, 1), shutdown: make(chan string, 1), why: "it boots"}
	h, end = connect(daemon.Options{Guard: g})
	defer end()
	m = h.Machine("db")
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := m.Exec(short, agent.ExecRequest{Argv: []string{"cat"}}, agent.ExecIO{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while it is held: %v", err)
	}
	got := make(chan error, 1)
	go func() {
		_, err := m.Exec(t.Context(), agent.ExecRequest{Argv: []string{"cat"}}, agent.ExecIO{})
		got <- err
	}()
	g.hold("")
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// Without a guard a host is no phone.
func TestNoGuard(t *testing.T) {
	dir := daemontest.StateDir(t)
	run(t, dir, daemon.Options{StopMachines: true})
	h, err := runtime.Local(dir, runtime.WithProgram("/nowhere"))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if _, err := h.SetPhone(t.Context(), runtime.PhoneSettings{Floor: &runtime.PhoneFloor{}}); fault.ClassOf(err) != fault.Usage {
		t.Error(err)
	}
	if info, err := h.Info(t.Context()); err != nil || info.Phone != nil {
		t.Errorf("%+v, %v", info, err)
	}
}
