// Package machinetest is a hypervisor for tests: its machines are processes of
// the test binary, which behave as a hypervisor with a guest does, or as one that
// goes wrong.
package machinetest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
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

	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/internal/process"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// word makes the test binary behave as a machine: word MODE, and "card" for one
// whose ports are not its own.
const word = "sovereign-fake-machine"

// Main is to be called first of all by TestMain: it does not return in a process
// that is a machine.
func Main() {
	if len(os.Args) != 3 && len(os.Args) != 4 || os.Args[1] != word {
		return
	}
	if err := machine(os.Args[2], len(os.Args) == 4); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// machine runs in the instance's directory as a hypervisor would: control
// socket, agent, console, card, or the ports of its record. The modes are how a
// guest can go wrong.
func machine(mode string, card bool) error {
	mode, line, _ := strings.Cut(mode, " ")
	if mode == "dead" {
		return errors.New("the fake does not start")
	}
	disk, err := lockDisk()
	if err != nil {
		return err
	}
	defer disk.Close()
	if err := touch(disk, line); err != nil {
		return err
	}
	console, err := os.Create(vm.ConsoleFile)
	if err != nil {
		return err
	}
	for _, name := range []string{agentSocket, "control.sock", networkSocket} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	agents, err := net.Listen("unix", agentSocket)
	if err != nil {
		return err
	}
	control, err := net.Listen("unix", "control.sock")
	if err != nil {
		return err
	}
	if err := serve(card); err != nil {
		return err
	}
	fmt.Fprintln(console, "[0.0] Linux version 6.12")
	ctx, end := context.WithCancel(context.Background())
	g := &guest{mode: mode, end: end, until: time.Now().Add(200 * time.Millisecond)}
	switch mode {
	case "quick", "once", "degraded", "vpn", "no-vpn", "history":
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
	backend := agent.Backend(watched{g})
	switch mode {
	case "once":
		backend = g
	case "history":
		if backend, err = newHistorian(g, line); err != nil {
			return err
		}
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
			_ = agent.ServePort(ctx, c, false, agent.NewHandler(backend))
		}
	}()
	<-ctx.Done()
	return nil
}

// serve begins to read what comes to the card, or to answer at the host's ports.
func serve(card bool) error {
	if card {
		l, err := net.Listen("unix", networkSocket)
		if err == nil {
			go readFrames(l)
		}
		return err
	}
	text, err := os.ReadFile("instance.json")
	if err != nil {
		return err
	}
	var record struct{ Ports []runtime.Port }
	if err := json.Unmarshal(text, &record); err != nil {
		return err
	}
	for _, p := range record.Ports {
		l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(p.Host)))
		if err != nil {
			return err
		}
		go echo(l)
	}
	return nil
}

// readFrames is a card whose guest answers nothing. Each cable that is put into
// it leaves a line in a file.
func readFrames(card net.Listener) {
	for {
		c, err := card.Accept()
		if err != nil {
			return
		}
		f, err := os.OpenFile(Cables, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = fmt.Fprintln(f, "cable")
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			fmt.Println(err)
		}
		_, _ = io.Copy(io.Discard, c) // until it is pulled out
		c.Close()
	}
}

// Cables is in the machine's directory.
const Cables = "cables"

// echo is the service at every port: it says what it is told, to the end.
func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			if _, err := io.Copy(c, c); err == nil {
				_ = c.(*net.TCPConn).CloseWrite() // or the client is gone
			}
		}()
	}
}

// lockDisk is what QEMU does with an image it may write. A second machine on
// one data disk leaves a file that tests look for.
func lockDisk() (*os.File, error) {
	disk, err := os.OpenFile("data.img", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	err = unix.FcntlFlock(disk.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	if err != nil {
		return nil, errors.Join(err, os.WriteFile(TwoMachines, nil, 0o600))
	}
	return disk, nil
}

// touch does to the disk what the words behind the mode say: "writes" a mark at
// its end; "mortal" ends where DeadFile is.
func touch(disk *os.File, line string) error {
	what, _, _ := strings.Cut(line, " ")
	switch what {
	case "writes":
		if _, err := disk.Seek(0, io.SeekEnd); err != nil {
			return err
		}
		_, err := io.WriteString(disk, Written)
		return err
	case "mortal":
		if _, err := os.Stat(DeadFile); err == nil {
			return errors.New("the fake is dead")
		}
	}
	return nil
}

// Written is what a fake writes to its disk, and DeadFile, in a machine's
// directory, has one not start that is mortal.
const (
	Written  = "+"
	DeadFile = "dead"
)

// TwoMachines is made by a machine that finds its data disk in use.
const TwoMachines = "two-machines"

type guest struct {
	mode  string
	end   func()
	until time.Time // when it gets ready
	ends  time.Time // until when it is so; zero: for ever
}

// watched is a guest that tells its changes.
type watched struct{ *guest }

func (w watched) Changed() <-chan struct{} {
	changed := make(chan struct{})
	for _, at := range []time.Time{w.until, w.ends} {
		if d := time.Until(at); d > 0 {
			time.AfterFunc(d, func() { close(changed) })
			break
		}
	}
	return changed
}

func (g *guest) Status() agent.Status {
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
func (g *guest) Secret(_ context.Context, service, name string) (string, error) {
	if name == "server.crt" {
		text, err := os.ReadFile(name)
		return string(text), err
	}
	if service != "postgresql" || name != "owner" {
		return "", fs.ErrNotExist
	}
	return "p@ss/w:rd %", nil
}

// Logs has a line of every service, and of init no end of them.
func (g *guest) Logs(ctx context.Context, service string, follow bool) (io.ReadCloser, error) {
	if service == "init" && follow {
		r, w := io.Pipe()
		context.AfterFunc(ctx, func() { w.Close() })
		go func() {
			for n := 0; ; n++ {
				if _, err := fmt.Fprintf(w, "line %d\n", n); err != nil {
					return
				}
			}
		}()
		return r, nil
	}
	return io.NopCloser(strings.NewReader("a line\n")), nil
}

func (g *guest) Shutdown(context.Context) error {
	switch g.mode {
	case "stubborn":
	case "quick":
		time.AfterFunc(10*time.Millisecond, g.end)
	default:
		time.AfterFunc(100*time.Millisecond, g.end)
	}
	return nil
}
func (g *guest) Freeze(context.Context, time.Duration) error { return nil }
func (g *guest) Thaw(context.Context) error                  { return nil }

// HV is a vm.Hypervisor that starts the test binary as a machine.
type HV struct {
	Mode   string // of machines whose bundle says none
	Starts *int
	Last   *vm.Machine // the one that was started last
	mu     *sync.Mutex
}

// New makes one.
func New(mode string) HV {
	return HV{Mode: mode, Starts: new(int), Last: new(vm.Machine), mu: new(sync.Mutex)}
}

func (HV) Name() string { return "fake" }

func (h HV) Prepare(_ context.Context, m vm.Machine, report func(string)) (vm.Plan, error) {
	report("probing nothing")
	return plan{}, nil
}

// Start starts a machine that behaves as the bundle's command line says,
// "fake=MODE", or as h.Mode.
func (h HV) Start(ctx context.Context, m vm.Machine, _ vm.Plan) (vm.Process, error) {
	h.mu.Lock()
	*h.Starts++
	*h.Last = m
	h.mu.Unlock()
	self, err := os.Executable()
	if err != nil {
		return vm.Process{}, err
	}
	mode := h.Mode
	if of, ok := strings.CutPrefix(m.Cmdline, "fake="); ok {
		mode = of
	}
	args := []string{word, mode}
	if m.Card != nil {
		args = append(args, "card")
	}
	p, err := process.Start(process.Command{Path: self, Args: args, Dir: m.Dir,
		Log: filepath.Join(m.Dir, vm.LogFile), Lock: filepath.Join(m.Dir, vm.LockFile)})
	if err != nil {
		return p, err
	}
	for {
		if _, up, err := h.Find(ctx, m.Dir); err != nil || up {
			return p, err
		}
		if alive, err := p.Alive(); err != nil || !alive {
			if mode == "panics" {
				return p, err // it was up, and is gone
			}
			return p, fault.Errorf(fault.Device, "the fake ended")
		}
		if err := pause.For(ctx, time.Millisecond); err != nil {
			return p, err
		}
	}
}

func (h HV) Find(ctx context.Context, dir string) (vm.Process, bool, error) {
	for {
		p, ok, err := process.Listener(ctx, filepath.Join(dir, "control.sock"))
		if ok || err != nil {
			return p, ok, err
		}
		if locked, err := process.Locked(filepath.Join(dir, vm.LockFile)); err != nil || !locked {
			return vm.Process{}, false, err
		}
		if err := pause.For(ctx, time.Millisecond); err != nil {
			return vm.Process{}, false, err
		}
	}
}

// State: a machine is held as long as there is a file "full" in its
// directory.
func (HV) State(_ context.Context, dir string) (vm.State, error) {
	if _, err := os.Stat(filepath.Join(dir, FullFile)); err == nil {
		return vm.State{Word: "io-error", Held: true, Full: true}, nil
	}
	return vm.State{Word: "running"}, nil
}

func (HV) DialAgent(ctx context.Context, dir string) (net.Conn, error) {
	return process.Dial(ctx, filepath.Join(dir, agentSocket))
}

func (HV) OpenConsole(ctx context.Context, dir string) (io.ReadWriteCloser, error) {
	return process.Dial(ctx, filepath.Join(dir, ConsoleSocket))
}

// NetworkHV is an HV whose machines have a card.
type NetworkHV struct{ HV }

func (NetworkHV) DialNetwork(ctx context.Context, dir string) (net.Conn, error) {
	return process.Dial(ctx, filepath.Join(dir, networkSocket))
}

// The fake's ways to its agent, to its card, and to a console that a test makes.
const (
	agentSocket   = "agent.sock"
	networkSocket = "net.sock"
	ConsoleSocket = "console.sock"
)

type plan struct{}

func (plan) Info() vm.PlanInfo {
	return vm.PlanInfo{Accel: "tcg", Why: "it is a fake", Version: "1"}
}

const FullFile = "full"

func (HV) Resume(_ context.Context, dir string) error {
	return os.Remove(filepath.Join(dir, FullFile))
}

func (h HV) Quit(ctx context.Context, dir string) error {
	c, err := process.Dial(ctx, filepath.Join(dir, "control.sock"))
	if err != nil {
		return err
	}
	_, err = c.Write([]byte{'q'})
	return errors.Join(err, c.Close())
}

// WriteBundle makes a bundle of which every artifact begins with root. Its
// machine behaves as its command line says, "fake=MODE".
func WriteBundle(t testing.TB, dir, root, cmdline string) {
	t.Helper()
	WriteBundleWith(t, dir, root, cmdline, func(*bundle.Manifest) {})
}

// WriteBundleWith is WriteBundle with another manifest.
func WriteBundleWith(t testing.TB, dir, root, cmdline string, edit func(*bundle.Manifest)) {
	t.Helper()
	if err := makeBundle(t.Context(), dir, root, cmdline, edit); err != nil {
		t.Fatal(err)
	}
}

// MakeBundle does so outside of a test.
func MakeBundle(ctx context.Context, dir, root, cmdline string) error {
	return makeBundle(ctx, dir, root, cmdline, func(*bundle.Manifest) {})
}

// MakeBundleOf makes a bundle with that root image.
func MakeBundleOf(ctx context.Context, dir string, image []byte, cmdline string) error {
	return makeBundleOf(ctx, dir, "one", image, cmdline, func(*bundle.Manifest) {})
}

func makeBundle(ctx context.Context, dir, root, cmdline string, edit func(*bundle.Manifest)) error {
	return makeBundleOf(ctx, dir, root, []byte(root+bundle.RoleRoot), cmdline, edit)
}

func makeBundleOf(ctx context.Context, dir, root string, image []byte, cmdline string, edit func(*bundle.Manifest)) error {
	w, err := bundle.Create(dir)
	if err != nil {
		return err
	}
	for name, role := range map[string]string{"bzImage": bundle.RoleKernel, "initramfs": bundle.RoleInitramfs, "root.img": bundle.RoleRoot} {
		content := []byte(root + role)
		if role == bundle.RoleRoot {
			content = image
		}
		if err := w.Add(ctx, name, role, bytes.NewReader(content)); err != nil {
			return err
		}
	}
	m := bundle.Manifest{
		Schema: bundle.Schema, Name: "sql", Arch: "amd64",
		Lock:     bundle.Lock{Digest: "sha256:" + strings.Repeat("a", 64)},
		Root:     bundle.Root{Serial: "root", Hash: strings.Repeat("b", 64)},
		VM:       bundle.VM{MemoryMiB: 512, CPUs: 2, Cmdline: cmdline, Data: bundle.Data{Serial: "data", Size: 1 << 30}},
		Services: []string{"postgresql"},
		Ports: []bundle.Port{
			{Name: "postgresql", Service: "postgresql", Port: 5432, URL: "postgres://owner:${secret:owner}@${address}/app"},
			{Name: "metrics", Service: "postgresql", Port: 9187},
		},
	}
	edit(&m)
	_, err = w.Commit(ctx, m)
	return err
}
