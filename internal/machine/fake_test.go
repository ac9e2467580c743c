package machine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/local"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// fakeWord makes the test binary behave as a machine: fakeWord MODE PORTS…
const fakeWord = "sovereign-fake-machine"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == operatorWord {
		operate(os.Args[2:])
	}
	if len(os.Args) > 2 && os.Args[1] == fakeWord {
		if err := fakeMachine(os.Args[2]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// fakeMachine runs in the instance's directory as a hypervisor would: control
// socket, agent, console. The modes are how a guest can go wrong.
func fakeMachine(mode string) error {
	if mode == "dead" {
		return errors.New("the fake does not start")
	}
	disk, err := lockDisk()
	if err != nil {
		return err
	}
	defer disk.Close()
	console, err := os.Create(vm.ConsoleFile)
	if err != nil {
		return err
	}
	for _, name := range []string{vm.AgentSocket, "control.sock"} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	agents, err := net.Listen("unix", vm.AgentSocket)
	if err != nil {
		return err
	}
	control, err := net.Listen("unix", "control.sock")
	if err != nil {
		return err
	}
	fmt.Fprintln(console, "[0.0] Linux version 6.12")
	ctx, end := context.WithCancel(context.Background())
	g := &fakeGuest{mode: mode, end: end, until: time.Now().Add(200 * time.Millisecond)}
	switch mode {
	case "quick", "degraded", "vpn", "no-vpn":
		g.until = time.Now()
	case "brief", "sick":
		g.until, g.ends = time.Now(), time.Now().Add(300*time.Millisecond)
	}
	if mode == "brief" {
		time.AfterFunc(time.Until(g.ends), func() {
			fmt.Fprintln(console, "[0.4] Kernel panic - not syncing: it was fine a moment ago")
			end()
		})
	}
	go func() {
		for { // a word on the control socket is the plug pulled
			c, err := control.Accept()
			if err != nil {
				return
			}
			if n, _ := c.Read(make([]byte, 1)); n > 0 {
				os.Exit(0)
			}
			c.Close()
		}
	}()
	if mode == "panics" {
		fmt.Fprintln(console, "[0.1] Kernel panic - not syncing: VFS: \x1b[31mno root")
		return nil
	}
	if mode == "mute" {
		select {}
	}
	switch mode {
	case "slow":
	case "fails":
		fmt.Fprintln(console, "sovereign-init: [1.500] FAILED: data disk: none")
	default:
		time.AfterFunc(time.Until(g.until), func() { fmt.Fprintln(console, "sovereign-init: [1.500] ready") })
	}
	go func() {
		for {
			c, err := agents.Accept()
			if err != nil {
				return
			}
			if mode == "old" { // it answers the greeting of protocol 1 alone
				for r := bufio.NewReader(c); err == nil; {
					var line string
					if line, err = r.ReadString('\n'); strings.HasPrefix(line, "SOVEREIGN-AGENT 1 ") {
						_, err = io.WriteString(c, line)
					}
				}
				continue
			}
			// Its end is the session's.
			_ = agent.ServePort(ctx, c, false, agent.NewHandler(g))
		}
	}()
	<-ctx.Done()
	return nil
}

// lockDisk is what QEMU does with an image it may write. A second machine on
// one data disk leaves a file that tests look for.
func lockDisk() (*os.File, error) {
	disk, err := os.OpenFile(dataFile, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	err = unix.FcntlFlock(disk.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	if err != nil {
		return nil, errors.Join(err, os.WriteFile(twoMachines, nil, 0o600))
	}
	return disk, nil
}

// twoMachines is made by a machine that finds its data disk in use.
const twoMachines = "two-machines"

type fakeGuest struct {
	mode  string
	end   func()
	until time.Time // when it gets ready
	ends  time.Time // until when it is so; zero: for ever
}

func (g *fakeGuest) Status() agent.Status {
	s := agent.Status{Name: "sql", State: agent.StateReady, BootMS: 1500,
		Services: []agent.Service{{Name: "postgresql", State: agent.ServiceRunning, Healthy: true, PID: 9}}}
	switch {
	case g.mode == "fails":
		s.State, s.Message = agent.StateFailed, "the data disk does not mount"
	case g.mode == "degraded":
		s.State, s.Troubles = agent.StateDegraded, []string{"network eth0: nobody gives an address"}
		s.Message = s.Troubles[0]
	case g.mode == "vpn" || g.mode == "no-vpn":
		s.Services = append(s.Services, agent.Service{Name: "vpn", State: agent.ServiceRunning, Healthy: g.mode == "vpn", Optional: true})
	case g.mode == "sick" && time.Now().After(g.ends):
		s.State, s.Services[0].Healthy, s.Services[0].Message = agent.StateDegraded, false, "it fell ill"
	case g.mode == "slow" || time.Now().Before(g.until):
		s.State, s.Services[0].State, s.Services[0].Healthy = agent.StateStarting, agent.ServiceStarting, false
	}
	return s
}

// Secret also gives the certificate that a test has put into the instance's
// directory.
func (g *fakeGuest) Secret(_ context.Context, service, name string) (string, error) {
	if name == "server.crt" {
		text, err := os.ReadFile(name)
		return string(text), err
	}
	if service != "postgresql" || name != "owner" {
		return "", fs.ErrNotExist
	}
	return "p@ss/w:rd %", nil
}

func (g *fakeGuest) Logs(context.Context, string, bool) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader("a line\n")), nil
}

func (g *fakeGuest) Shutdown(context.Context) error {
	switch g.mode {
	case "stubborn":
	case "quick":
		time.AfterFunc(10*time.Millisecond, g.end)
	default:
		time.AfterFunc(100*time.Millisecond, g.end)
	}
	return nil
}
func (g *fakeGuest) Freeze(context.Context, time.Duration) error { return nil }
func (g *fakeGuest) Thaw(context.Context) error                  { return nil }

// fakeHV starts the test binary as a machine.
type fakeHV struct {
	dev    local.Device
	mode   string
	starts *int
	mu     *sync.Mutex
	last   *vm.Machine
}

func (fakeHV) Name() string { return "fake" }

func (h fakeHV) Prepare(_ context.Context, m vm.Machine, report func(string)) (vm.Plan, error) {
	report("probing nothing")
	return vm.Plan{Accel: "tcg", Why: "it is a fake", Version: "1"}, nil
}

// Start starts a machine that behaves as the bundle's command line says,
// "fake=MODE", or as h.mode.
func (h fakeHV) Start(ctx context.Context, m vm.Machine, _ vm.Plan) (vm.Process, error) {
	h.mu.Lock()
	*h.starts++
	*h.last = m
	h.mu.Unlock()
	self, err := os.Executable()
	if err != nil {
		return vm.Process{}, err
	}
	mode := h.mode
	if of, ok := strings.CutPrefix(m.Cmdline, "fake="); ok {
		mode = of
	}
	p, err := h.dev.Start(ctx, vm.Command{Path: self, Args: []string{fakeWord, mode}, Dir: m.Dir,
		Log: filepath.Join(m.Dir, vm.LogFile), Lock: filepath.Join(m.Dir, vm.LockFile)})
	if err != nil {
		return p, err
	}
	for {
		if _, up, err := h.Find(ctx, m.Dir); err != nil || up {
			return p, err
		}
		if alive, err := h.dev.Alive(ctx, p); err != nil || !alive {
			if mode == "panics" {
				return p, err // it was up, and is gone
			}
			return p, fault.Errorf(fault.Device, "the fake ended")
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return p, err
		}
	}
}

func (h fakeHV) Find(ctx context.Context, dir string) (vm.Process, bool, error) {
	for {
		p, ok, err := h.dev.Listener(ctx, filepath.Join(dir, "control.sock"))
		if ok || err != nil {
			return p, ok, err
		}
		if locked, err := h.dev.Locked(ctx, filepath.Join(dir, vm.LockFile)); err != nil || !locked {
			return vm.Process{}, false, err
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return vm.Process{}, false, err
		}
	}
}

// Status: a machine is held as long as there is a file "full" in its
// directory.
func (fakeHV) Status(_ context.Context, dir string) (vm.Status, error) {
	if _, err := os.Stat(filepath.Join(dir, fullFile)); err == nil {
		return vm.Status{State: "io-error", Full: true}, nil
	}
	return vm.Status{State: "running", Running: true}, nil
}

const fullFile = "full"

func (fakeHV) Resume(_ context.Context, dir string) error {
	return os.Remove(filepath.Join(dir, fullFile))
}

func (h fakeHV) Quit(ctx context.Context, dir string) error {
	c, err := h.dev.Dial(ctx, "unix", filepath.Join(dir, "control.sock"))
	if err != nil {
		return err
	}
	_, err = c.Write([]byte{'q'})
	return errors.Join(err, c.Close())
}

// testSoak is short: a trial of a fake ends soon.
const testSoak = 100 * time.Millisecond

// fixture is a runtime over fake machines, and a bundle.
type fixture struct {
	*Runtime
	hv     fakeHV
	bundle string
	state  string
}

func setup(t *testing.T, mode string) *fixture {
	t.Helper()
	f := &fixture{state: filepath.Join(t.TempDir(), "state"), bundle: filepath.Join(t.TempDir(), "sql")}
	f.hv = fakeHV{mode: mode, starts: new(int), mu: new(sync.Mutex), last: new(vm.Machine)}
	f.open(t)
	writeBundle(t, f.bundle, "root")
	t.Cleanup(func() {
		i, err := f.Instance(context.Background(), "sql")
		if err != nil {
			return
		}
		if p, alive, err := i.running(context.Background()); err == nil && alive {
			if err := i.cutPower(context.Background(), p); err != nil {
				t.Error(err)
			}
		}
	})
	return f
}

// open is what another program would do with the same state.
func (f *fixture) open(t *testing.T) {
	t.Helper()
	r, err := Open(f.state, WithHypervisor(f.hv.dev, f.hv))
	if err != nil {
		t.Fatal(err)
	}
	f.Runtime = r
	r.soak = testSoak
}

func (f *fixture) start(t *testing.T, o StartOptions) *Instance {
	t.Helper()
	i, err := f.Start(t.Context(), f.bundle, o)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func writeBundle(t *testing.T, dir, root string) {
	t.Helper()
	writeFakeBundle(t, dir, root, "x=y")
}

func writeFakeBundle(t *testing.T, dir, root, cmdline string) {
	t.Helper()
	w, err := bundle.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, role := range map[string]string{"bzImage": bundle.RoleKernel, "initramfs": bundle.RoleInitramfs, "root.img": bundle.RoleRoot} {
		if err := w.Add(t.Context(), name, role, strings.NewReader(root+role)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Commit(t.Context(), bundle.Manifest{
		Schema: bundle.Schema, Name: "sql", Arch: "amd64",
		Lock:     bundle.Lock{Digest: "sha256:" + strings.Repeat("a", 64)},
		Root:     bundle.Root{Serial: "root", Hash: strings.Repeat("b", 64)},
		VM:       bundle.VM{MemoryMiB: 512, CPUs: 2, Cmdline: cmdline, Data: bundle.Data{Serial: "data", Size: 1 << 30}},
		Services: []string{"postgresql"},
		Ports: []bundle.Port{
			{Name: "postgresql", Service: "postgresql", Port: 5432, URL: "postgres://owner:${secret:owner}@${address}/app"},
			{Name: "metrics", Service: "postgresql", Port: 9187},
		},
	}); err != nil {
		t.Fatal(err)
	}
}

func takenPort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
