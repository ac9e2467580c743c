package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/internal/requests"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/control"
	"github.com/sovereign-build/sovereign/pkg/runtime/device"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// fakeHost is a sovereignd with one machine, sql, and its guest: it keeps what
// it was asked, and answers with err, or a good result. What it says goes
// through the real protocol, of the host and of the guest.
type fakeHost struct {
	err error // of every request but for events
	// words stands for every word that is a guest's or a record's.
	words string
	// statuses are told one after the other, the last of them at every request;
	// nil is one machine that is ready.
	statuses []runtime.Status
	// watched is called before each status that is told as an event.
	watched func(n int)
	// result and why are what a trial comes to.
	result, why string
	manySecrets bool

	mu    sync.Mutex
	up    runtime.UpOptions
	calls []string
	sent  int // statuses, by events
}

func (f *fakeHost) call(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
}

// word is the fake's own word, or the one that stands for all.
func (f *fakeHost) word(own string) string {
	if f.words != "" {
		return f.words
	}
	return own
}

// dial is a CLI's Dial that leads to the fake, whatever the device.
func (f *fakeHost) dial(context.Context, device.Device, bool) (net.Conn, error) {
	ours, theirs := net.Pipe()
	go control.Serve(context.Background(), theirs, control.NewHello("fake"), f.handler()) //nolint:errcheck // it ends with the conversation
	return ours, nil
}

// readyStatus is a machine that is as it is wanted.
func (f *fakeHost) readyStatus() runtime.Status {
	return runtime.Status{
		Name: "sql", State: runtime.Running, PID: 17, Dir: "/s/sql", Bundle: runtime.BundleRef{Path: "dist/sql-amd64"},
		Ports:   []runtime.Port{{Name: "postgresql", Guest: 5432, Host: 40001}, {Name: "web", Guest: 80, Host: 40002}},
		Machine: runtime.MachineID{Accel: "tcg"}, Guest: f.guest(),
		Supervision: &runtime.Supervision{Wanted: runtime.Up, Supervisor: true, Policy: runtime.DefaultPolicy()},
	}
}

func (f *fakeHost) guest() *agent.Status {
	s := &agent.Status{Name: "sql", State: agent.StateReady, Message: f.words, Clock: agent.ClockRTC,
		Services: []agent.Service{{Name: f.word("postgresql"), State: "running", Healthy: true, Message: f.words, Warning: f.words}}}
	if f.words != "" {
		s.Services = append(s.Services, agent.Service{Name: f.words, State: agent.ServiceState(f.words), Optional: true, Message: f.words})
		s.Clock, s.Data = agent.Clock(f.words), &agent.Data{}
	}
	return s
}

func (f *fakeHost) status() runtime.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.statuses != nil {
		return f.statuses[min(f.sent, len(f.statuses)-1)]
	}
	s := f.readyStatus()
	if f.words != "" {
		s.Message = f.words
		v := s.Supervision
		v.Active, v.Slots = "a", map[runtime.SlotName]runtime.Slot{"a": {Source: f.words, Digest: f.words}}
		v.Ends = runtime.Ends{Total: 1, Last: &runtime.End{Why: f.words}}
		v.Waiting = &runtime.Waiting{Why: f.words}
		v.LastUpdate = &runtime.Outcome{Kind: "update", Why: f.words, To: f.words, From: f.words}
	}
	return s
}

func (f *fakeHost) manifest() *bundle.Manifest {
	m := &bundle.Manifest{
		Schema: bundle.Schema, Name: "sql", Arch: "amd64", SourceDate: 1, Lock: bundle.Lock{Digest: "sha256:" + strings.Repeat("a", 64)},
		Root:     bundle.Root{Serial: "root", Hash: strings.Repeat("b", 64)},
		VM:       bundle.VM{MemoryMiB: 512, CPUs: 2, Cmdline: "x", Data: bundle.Data{Serial: "data", Size: 8 << 30}},
		Services: []string{"forge", "postgresql", "tailscale"},
		Artifacts: []bundle.Artifact{
			{File: "Image", Role: bundle.RoleKernel, Size: 1, Digest: "sha256:" + strings.Repeat("c", 64)},
			{File: "initramfs", Role: bundle.RoleInitramfs, Size: 1, Digest: "sha256:" + strings.Repeat("d", 64)},
			{File: "root.img", Role: bundle.RoleRoot, Size: 1, Digest: "sha256:" + strings.Repeat("e", 64)},
		},
		Ports: []bundle.Port{
			{Name: "postgresql", Service: "postgresql", Port: 5432, URL: "postgres://postgres:${secret:password}@${address}/5432"},
			{Name: "web", Service: "forge", Port: 80},
		},
	}
	if f.manySecrets {
		m.Ports[1] = bundle.Port{Name: "web", Service: "forge", Port: 80, URL: "http://${secret:token}@${address}/"}
	}
	return m
}

func (f *fakeHost) handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, h func(w http.ResponseWriter, r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			name := r.PathValue("name")
			if name != "" && name != "sql" {
				control.WriteError(w, fault.Errorf(fault.Usage, "there is no instance %q", name))
				return
			}
			if f.err != nil {
				control.WriteError(w, f.err)
				return
			}
			v, err := h(w, r)
			switch {
			case err != nil:
				control.WriteError(w, err)
			case v != nil:
				control.Answer(w, v)
			}
		})
	}
	const m = " /v1/machines/{name}"
	handle("GET /v1/version", func(http.ResponseWriter, *http.Request) (any, error) {
		return runtime.HostInfo{Version: "v1", Arch: "arm64", StateDir: "/s", PID: 7}, nil
	})
	handle("GET /v1/machines", func(http.ResponseWriter, *http.Request) (any, error) {
		first := runtime.Status{Name: f.word("forge"), State: runtime.Stopped}
		return []runtime.Status{first, f.status()}, nil
	})
	handle("GET /v1/events", f.events)
	handle("GET"+m+"/events", f.events)
	handle("HEAD /v1/blobs/{digest}", func(http.ResponseWriter, *http.Request) (any, error) { return nil, nil })
	handle("GET"+m, func(http.ResponseWriter, *http.Request) (any, error) { return f.status(), nil })
	handle("PUT"+m, func(_ http.ResponseWriter, r *http.Request) (any, error) {
		var q requests.Install[runtime.UpOptions]
		err := json.NewDecoder(r.Body).Decode(&q)
		f.call("install")
		f.up = q.Options
		return struct{}{}, err
	})
	handle("POST"+m+"/up", func(_ http.ResponseWriter, r *http.Request) (any, error) {
		f.call("up")
		return struct{}{}, json.NewDecoder(r.Body).Decode(&f.up)
	})
	handle("DELETE"+m, func(_ http.ResponseWriter, r *http.Request) (any, error) {
		f.call("remove sql %s", r.URL.Query().Get("data"))
		if r.URL.Query().Get("data") == "true" {
			return requests.Removed{}, nil
		}
		return requests.Removed{Kept: f.word("/s/sql/data.img")}, nil
	})
	handle("GET"+m+"/manifest", func(w http.ResponseWriter, _ *http.Request) (any, error) {
		text, err := bundle.Marshal(f.manifest())
		if err == nil {
			_, err = w.Write(text)
		}
		return nil, err
	})
	stop := func(verb string) func(w http.ResponseWriter, r *http.Request) (any, error) {
		return func(_ http.ResponseWriter, r *http.Request) (any, error) {
			var q requests.Stop
			err := json.NewDecoder(r.Body).Decode(&q)
			f.call("%s sql %s", verb, time.Duration(q.GraceMS)*time.Millisecond)
			return runtime.StopResult{WasRunning: true, Seconds: 1.5, Forced: f.words != "", Why: f.words}, err
		}
	}
	handle("POST"+m+"/down", stop("down"))
	handle("POST"+m+"/restart", stop("restart"))
	handle("POST"+m+"/updatable", func(http.ResponseWriter, *http.Request) (any, error) { return struct{}{}, nil })
	for _, kind := range []string{"update", "rollback"} {
		handle("POST"+m+"/"+kind, func(_ http.ResponseWriter, r *http.Request) (any, error) { return f.trial(kind, r) })
	}
	handle("GET"+m+"/memory", func(http.ResponseWriter, *http.Request) (any, error) {
		return runtime.Memory{Now: 512 << 20, Max: 512 << 20}, nil
	})
	handle("POST"+m+"/balloon", func(_ http.ResponseWriter, r *http.Request) (any, error) {
		var q requests.Size
		err := json.NewDecoder(r.Body).Decode(&q)
		return runtime.Memory{Now: q.Size, Max: 512 << 20}, err
	})
	handle("POST"+m+"/grow", func(_ http.ResponseWriter, r *http.Request) (any, error) {
		var q requests.Size
		err := json.NewDecoder(r.Body).Decode(&q)
		return runtime.Grown{Before: 8 << 30, Size: q.Size, Online: q.Size < 32<<30}, err
	})
	handle("GET"+m+"/console", func(w http.ResponseWriter, _ *http.Request) (any, error) {
		_, err := io.WriteString(w, f.word("the last lines"))
		return nil, err
	})
	handle("POST"+m+"/console", f.upgrade(f.console))
	handle("POST"+m+"/ports/{port}", f.upgrade(func(s *control.Stream) {
		// The service says back what it hears.
		io.Copy(s, s) //nolint:errcheck // who asked tells
		s.CloseWrite()
	}))
	handle("POST"+m+"/agent", f.upgrade(f.agent))
	return mux
}

func (f *fakeHost) upgrade(talk func(*control.Stream)) func(w http.ResponseWriter, r *http.Request) (any, error) {
	return func(w http.ResponseWriter, r *http.Request) (any, error) {
		s, err := control.Accept(w, r)
		if err != nil {
			return nil, nil // it has answered
		}
		defer s.Close()
		talk(s)
		return nil, nil
	}
}

// events tells the statuses, and then nothing more.
func (f *fakeHost) events(w http.ResponseWriter, r *http.Request) (any, error) {
	e, err := control.NewEvents(w)
	if err != nil {
		return nil, nil
	}
	for n := 0; ; n++ {
		if f.watched != nil {
			f.watched(n)
		}
		s := f.status()
		if err := e.Send(runtime.Event{Phase: runtime.PhaseStatus, Machine: "sql", Status: &s}); err != nil {
			return nil, nil
		}
		f.mu.Lock()
		f.sent++
		over := f.sent >= len(f.statuses)
		f.mu.Unlock()
		if over {
			break
		}
	}
	<-r.Context().Done()
	return nil, nil
}

// trial begins and is over.
func (f *fakeHost) trial(kind string, r *http.Request) (any, error) {
	var q requests.Update
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		return nil, err
	}
	f.call("%s sql %s", kind, time.Duration(q.LimitMS)*time.Millisecond)
	s := f.readyStatus()
	b := requests.Begun[runtime.Status]{To: f.word("sha256:222222222222bb"), Status: s}
	switch f.result {
	case runtime.UpdateStaged:
		b.Status.Supervision.Wanted = runtime.Down
	case runtime.UpdateUnchanged, runtime.UpdateCancelled:
		b.Result = f.result
	default:
		s.Supervision.LastUpdate = &runtime.Outcome{Kind: kind, From: f.word("sha256:111111111111aa"), To: b.To, Committed: f.result == runtime.UpdateCommitted, Why: f.word(f.why)}
		f.mu.Lock()
		f.statuses = []runtime.Status{s}
		f.mu.Unlock()
	}
	return b, nil
}

// console says hello, and ends when it hears "off".
func (f *fakeHost) console(s *control.Stream) {
	if _, err := io.WriteString(s, "hello\r\n"); err != nil {
		return
	}
	var heard strings.Builder
	buf := make([]byte, 64)
	for !strings.Contains(heard.String(), "off") {
		n, err := s.Read(buf)
		if err != nil {
			return
		}
		heard.Write(buf[:n])
	}
	s.CloseWrite()
}

// agent serves the guest's endpoints on one stream.
func (f *fakeHost) agent(s *control.Stream) {
	l := &oneConn{conn: s, closed: make(chan struct{})}
	server := &http.Server{Handler: agent.NewHandler(fakeGuest{f}), ConnState: func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			l.Close()
		}
	}}
	server.Serve(&oneListener{oneConn: l}) //nolint:errcheck // that there is no other connection
	<-l.closed
}

// oneConn is a connection whose end can be waited for.
type oneConn struct {
	conn   net.Conn
	once   sync.Once
	closed chan struct{}
}

func (c *oneConn) Close() { c.once.Do(func() { close(c.closed) }) }

type oneListener struct {
	*oneConn
	given bool
}

func (l *oneListener) Accept() (net.Conn, error) {
	if l.given {
		<-l.closed
		return nil, net.ErrClosed
	}
	l.given = true
	return endTold{l.conn, l.oneConn}, nil
}

func (l *oneListener) Close() error   { return nil }
func (l *oneListener) Addr() net.Addr { return l.conn.LocalAddr() }

// endTold tells of its end, also of one that was hijacked.
type endTold struct {
	net.Conn
	of *oneConn
}

func (t endTold) Close() error {
	t.of.Close()
	return t.Conn.Close()
}

// fakeGuest is the guest of a fakeHost.
type fakeGuest struct{ f *fakeHost }

var (
	_ agent.Backend  = fakeGuest{}
	_ agent.Operator = fakeGuest{}
)

func (g fakeGuest) Status() agent.Status                       { return *g.f.guest() }
func (fakeGuest) Shutdown(context.Context) error               { return nil }
func (fakeGuest) Freeze(context.Context, time.Duration) error  { return nil }
func (fakeGuest) Thaw(context.Context) error                   { return nil }
func (fakeGuest) RestartService(context.Context, string) error { return nil }
func (fakeGuest) Grow(context.Context) error                   { return nil }
func (g fakeGuest) Secret(_ context.Context, service, name string) (string, error) {
	if name == "missing" {
		return "", fs.ErrNotExist
	}
	return g.f.word("value of " + name), nil
}

func (g fakeGuest) SetSecret(_ context.Context, service, name, value string) error {
	g.f.call("set {%s %s} %q", service, name, value)
	return nil
}

func (g fakeGuest) RotateSecret(_ context.Context, service, name string) error {
	g.f.call("rotate {%s %s}", service, name)
	return nil
}

func (g fakeGuest) Logs(_ context.Context, service string, follow bool) (io.ReadCloser, error) {
	g.f.call("logs %s %v", service, follow)
	text := map[string]string{"init": "up\n", "postgresql": "\x1b[31mready\n"}[service]
	if g.f.words != "" {
		text = g.f.words + "\n"
	}
	return io.NopCloser(strings.NewReader(text)), nil
}

func (g fakeGuest) Boot() agent.Boot {
	return agent.Boot{Phases: []agent.Phase{{Name: g.f.word("kernel"), EndMS: 800}, {Name: g.f.word("postgresql: setup"), StartMS: 800, EndMS: 1000}}}
}

func (g fakeGuest) Metrics(w io.Writer) error {
	g.f.mu.Lock()
	g.f.calls = append(g.f.calls, "metrics")
	n := float64(len(g.f.calls))
	g.f.mu.Unlock()
	_, err := fmt.Fprintf(w, `# HELP sovereign_uptime_seconds time since the kernel's start
sovereign_uptime_seconds %g
sovereign_memory_total_bytes 536870912
sovereign_memory_available_bytes 268435456
sovereign_service_memory_bytes{service="postgresql"} 104857600
sovereign_service_cpu_seconds_total{service="postgresql"} %g
`, 100+n, 10+n/4)
	return err
}

// Exec knows programs: cat, psql's query for commits, one that fails with 7,
// one that hangs, and one that is missing.
func (g fakeGuest) Exec(ctx context.Context, r agent.ExecRequest, std agent.ExecIO) (int, error) {
	g.f.call("exec %q as %q in %q with %v", r.Argv, r.User, r.Dir, r.Env)
	if g.f.words != "" {
		fmt.Fprint(std.Stdout, g.f.words)
		fmt.Fprint(std.Stderr, g.f.words)
		return 0, nil
	}
	switch {
	case r.Argv[0] == "missing":
		return 0, fault.Errorf(fault.Device, "no program missing")
	case r.Argv[0] == "fails":
		fmt.Fprint(std.Stderr, "it fails")
		return 7, nil
	case r.Argv[0] == "hangs":
		<-ctx.Done()
		return 0, ctx.Err()
	case len(r.Argv) > 1 && r.Argv[1] == "-XAtq":
		buf := make([]byte, 1<<10)
		for n := 1; ; n++ {
			if _, err := std.Stdin.Read(buf); err != nil {
				return 0, nil
			}
			fmt.Fprintf(std.Stdout, "%d|%d.5\n", 1000+21*n, 100+n)
		}
	case r.Argv[0] == reindexProgram || r.Argv[0] == "says":
		_, err := io.WriteString(std.Stdout, "nothing to do\n")
		return 0, err
	}
	_, err := io.Copy(std.Stdout, std.Stdin)
	return 0, err
}

// newBundle makes a bundle.
func newBundle(t *testing.T) string {
	t.Helper()
	dir := t.TempDir() + "/bundle"
	writeBundle(t, dir)
	return dir
}
