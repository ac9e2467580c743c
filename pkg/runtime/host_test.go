package runtime_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/internal/daemontest"
	"github.com/sovereign-build/sovereign/internal/machine/machinetest"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

func TestMain(m *testing.M) {
	daemontest.Main()
	os.Exit(m.Run())
}

// fixture is a host over fake machines, whose sovereignd is a process.
type fixture struct {
	*runtime.Host
	dir    string
	bundle string // of a machine that gets ready at once
}

func setup(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{dir: daemontest.StateDir(t), bundle: filepath.Join(t.TempDir(), "sql")}
	f.Host = f.open(t)
	machinetest.WriteBundle(t, f.bundle, "one", "fake=quick")
	return f
}

// open is what another program would do.
func (f *fixture) open(t *testing.T) *runtime.Host {
	t.Helper()
	h, err := runtime.Local(f.dir, runtime.WithProgram(daemontest.Program(t)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// bundleOf writes another bundle, whose machine behaves as mode says.
func (f *fixture) bundleOf(t *testing.T, root, mode string) string {
	t.Helper()
	dir := f.bundle + "-" + root
	machinetest.WriteBundle(t, dir, root, "fake="+mode)
	return dir
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// up has a machine that is ready.
func (f *fixture) up(t *testing.T) *runtime.Machine {
	t.Helper()
	m, err := f.Install(deadline(t), f.bundle, "", runtime.UpOptions{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.WaitReady(deadline(t), nil); err != nil {
		t.Fatal(err)
	}
	return m
}

func status(t *testing.T, m *runtime.Machine) runtime.Status {
	t.Helper()
	s, err := m.Status(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A machine's life by the API, from a bundle to nothing.
func TestLife(t *testing.T) {
	f := setup(t)
	ctx := deadline(t)
	info, err := f.Info(ctx)
	if err != nil || info.StateDir != f.dir || info.Protocol != 1 || info.PID == os.Getpid() || info.Arch == "" {
		t.Fatalf("%+v, %v", info, err)
	}
	if all, err := f.Machines(ctx); len(all) != 0 || err != nil {
		t.Fatalf("%v, %v", all, err)
	}
	var told []string
	report := func(e runtime.Event) { told = append(told, string(e.Phase)+": "+e.Text) }
	m, err := f.Install(ctx, f.bundle, "", runtime.UpOptions{}, report)
	if err != nil {
		t.Fatal(err)
	}
	s, err := m.WaitReady(ctx, report)
	if err != nil || s.State != runtime.Running || !s.Guest.Healthy() || s.Dir != filepath.Join(f.dir, "instances", "sql") || s.PID == 0 {
		t.Fatalf("%+v, %v", s, err)
	}
	text := strings.Join(told, "\n")
	for _, want := range []string{"install: installing " + f.bundle, "kernel: the kernel boots", "init: the guest's init answers", "service: postgresql: running, healthy", "ready: ready, 1.5 s after the kernel's start"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in what was told:\n%s", want, text)
		}
	}
	if v := s.Supervision; v.Slots[v.Active].Source != f.bundle || !v.Supervisor {
		t.Errorf("%+v", v)
	}
	if entries, err := os.ReadDir(filepath.Join(f.dir, "blobs")); err != nil || len(entries) != 0 {
		t.Errorf("blobs that were used: %v, %v", entries, err)
	}

	manifest, err := m.Manifest(ctx)
	if err != nil || manifest.Name != "sql" || len(manifest.Ports) != 2 {
		t.Errorf("%+v, %v", manifest, err)
	}
	all, err := f.Machines(ctx)
	if err != nil || len(all) != 1 || all[0].Name != "sql" || all[0].Guest == nil {
		t.Errorf("%+v, %v", all, err)
	}
	// The same again is nothing new, another is an error.
	if _, err := f.Install(ctx, f.bundle, "", runtime.UpOptions{}, nil); err != nil {
		t.Error(err)
	}
	if _, err := f.Install(ctx, f.bundleOf(t, "other", "quick"), "", runtime.UpOptions{}, nil); fault.ClassOf(err) != fault.Usage || !strings.Contains(fault.HintOf(err), "update") {
		t.Errorf("another bundle: %v", err)
	}

	pid := s.PID
	r, err := m.Restart(ctx, 0)
	if err != nil || !r.WasRunning || r.Forced {
		t.Errorf("%+v, %v", r, err)
	}
	if s, err = m.WaitReady(ctx, nil); err != nil || s.PID == pid {
		t.Errorf("process %d after %d, %v", s.PID, pid, err)
	}
	r, err = m.Down(ctx, 0)
	if err != nil || !r.WasRunning || r.Forced {
		t.Errorf("%+v, %v", r, err)
	}
	if s := status(t, m); s.State != runtime.Stopped || s.Supervision.Wanted != runtime.Down {
		t.Errorf("%+v", s)
	}
	if r, err = m.Down(ctx, 0); err != nil || r.WasRunning {
		t.Errorf("once more: %+v, %v", r, err)
	}
	if _, err := m.WaitReady(ctx, nil); err == nil || !strings.Contains(err.Error(), "taken down") {
		t.Errorf("got %v", err)
	}
	if err := m.Up(ctx, runtime.UpOptions{MemoryMiB: 256}, nil); err != nil {
		t.Fatal(err)
	}
	if s, err := m.WaitReady(ctx, nil); err != nil || s.Machine.MemoryMiB != 256 {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := m.Remove(ctx, false); fault.ClassOf(err) != fault.Usage {
		t.Errorf("while it is up: %v", err)
	}
	if _, err := m.Down(ctx, 0); err != nil {
		t.Fatal(err)
	}
	removed := make(chan error, 1)
	var once sync.Once
	watched := make(chan struct{})
	go func() {
		removed <- m.Watch(ctx, func(runtime.Event) error { once.Do(func() { close(watched) }); return nil })
	}()
	<-watched
	kept, err := m.Remove(ctx, false)
	if err != nil || kept != filepath.Join(f.dir, "instances", "sql", "data.img") {
		t.Errorf("%q, %v", kept, err)
	}
	if err := <-removed; err != nil {
		t.Errorf("who watches: %v", err)
	}
	if kept, err := m.Remove(ctx, true); err != nil || kept != "" {
		t.Errorf("%q, %v", kept, err)
	}
	if _, err := m.Status(ctx); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "there is no") {
		t.Errorf("got %v", err)
	}
}

// What goes into a guest and comes out of it.
func TestGuest(t *testing.T) {
	f := setup(t)
	m := f.up(t)
	ctx := deadline(t)
	var out, errs bytes.Buffer
	code, err := m.Exec(ctx, agent.ExecRequest{Argv: []string{"psql"}, User: "postgres"}, agent.ExecIO{Stdin: strings.NewReader("input"), Stdout: &out, Stderr: &errs})
	if code != 3 || err != nil || out.String() != "[psql] as postgres: input" || errs.String() != "complaint" {
		t.Errorf("%d, %v, %q, %q", code, err, out.String(), errs.String())
	}
	if _, err := m.Exec(ctx, agent.ExecRequest{Argv: []string{"missing"}}, agent.ExecIO{}); err == nil || !strings.Contains(err.Error(), "no such program") {
		t.Errorf("got %v", err)
	}
	if boot, err := m.Boot(ctx); err != nil || len(boot.Phases) != 2 {
		t.Errorf("%+v, %v", boot, err)
	}
	if text, err := m.Metrics(ctx); err != nil || string(text) != "up 1\n" {
		t.Errorf("%q, %v", text, err)
	}
	var lines []string
	if err := m.Logs(ctx, nil, false, func(l runtime.LogLine) error { lines = append(lines, l.Service+": "+l.Text); return nil }); err != nil || fmt.Sprint(lines) != "[init: a line postgresql: a line]" {
		t.Errorf("%q, %v", lines, err)
	}
	if err := m.Logs(ctx, []string{"mysql"}, false, nil); fault.ClassOf(err) != fault.Usage || !strings.Contains(fault.HintOf(err), "init, postgresql") {
		t.Errorf("got %v", err)
	}
	enough := fault.Errorf(fault.Environment, "the pipe is closed")
	err = m.Logs(ctx, []string{"init"}, false, func(runtime.LogLine) error { return enough })
	if !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
	heard := map[string]bool{}
	err = m.Logs(ctx, nil, true, func(l runtime.LogLine) error {
		if heard[l.Service] = true; len(heard) == 2 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Errorf("followed: %v, %v", heard, err)
	}
	tired, cancel := context.WithCancel(ctx)
	if err := m.Logs(tired, []string{"init"}, true, func(runtime.LogLine) error { cancel(); <-tired.Done(); return tired.Err() }); err != nil {
		t.Errorf("a follower that has enough: %v", err)
	}
	refs, err := m.Secrets(ctx)
	if err != nil || fmt.Sprint(refs) != "[{postgresql owner}]" {
		t.Fatalf("%v, %v", refs, err)
	}
	if v, err := m.Secret(ctx, refs[0]); v != "p@ss/w:rd %" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	if err := m.SetSecret(ctx, refs[0], "given"); err != nil {
		t.Error(err)
	}
	if err := m.RotateSecret(ctx, refs[0]); err != nil {
		t.Error(err)
	}
	if err := m.SetSecret(ctx, refs[0], strings.Repeat("x", agent.MaxSecret+1)); fault.ClassOf(err) != fault.Usage {
		t.Errorf("too long: %v", err)
	}
	if err := m.RotateSecret(ctx, runtime.SecretRef{Service: "postgresql", Name: "other"}); fault.ClassOf(err) != fault.Device {
		t.Errorf("unknown to the guest: %v", err)
	}
	for _, ref := range []runtime.SecretRef{{Service: "nobody", Name: "owner"}, {Service: "postgresql"}} {
		if err := m.SetSecret(ctx, ref, "given"); fault.ClassOf(err) != fault.Usage {
			t.Errorf("%v: %v", ref, err)
		}
	}
	if _, err := m.Secret(ctx, runtime.SecretRef{Service: "mysql", Name: "x"}); fault.ClassOf(err) != fault.Usage {
		t.Errorf("got %v", err)
	}
	c, err := m.Credentials(ctx, 0)
	s := status(t, m)
	host := s.Ports[0].Host
	if want := fmt.Sprintf("postgres://owner:p%%40ss%%2Fw%%3Ard%%20%%25@127.0.0.1:%d/app", host); err != nil || c.URL != want || c.Secrets[0].Value != "p@ss/w:rd %" {
		t.Errorf("%+v, %v; want %s", c, err, want)
	}
	if got := c.At("db.example:1"); got != "postgres://owner:p%40ss%2Fw%3Ard%20%25@db.example:1/app" {
		t.Errorf("elsewhere: %s", got)
	}
	if _, err := m.Credentials(ctx, 9187); fault.ClassOf(err) != fault.Usage {
		t.Errorf("a port without a URL: %v", err)
	}

	conn, err := m.Dial(ctx, 5432)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	text := strings.Repeat("query;", 100_000)
	go func() {
		if _, err := io.WriteString(conn, text); err != nil {
			t.Error(err)
		}
		if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Error(err)
		}
	}()
	if got, err := io.ReadAll(conn); string(got) != text || err != nil {
		t.Errorf("%d bytes of %d, %v", len(got), len(text), err)
	}
	if _, err := m.Dial(ctx, 22); fault.ClassOf(err) != fault.Usage {
		t.Errorf("a port that it does not have: %v", err)
	}

	if mem, err := m.Balloon(ctx, 128<<20); err != nil || mem.Now != 128<<20 || mem.Max != 512<<20 {
		t.Errorf("%+v, %v", mem, err)
	}
	if mem, err := m.Memory(ctx); err != nil || mem.Now != 128<<20 {
		t.Errorf("%+v, %v", mem, err)
	}
	if g, err := m.Grow(ctx, 2<<30); err != nil || g.Before != 1<<30 || g.Size != 2<<30 || !g.Online {
		t.Errorf("%+v, %v", g, err)
	}
	if text, err := m.ConsoleTail(ctx, 10); err != nil || !strings.Contains(text, "Linux version") {
		t.Errorf("%q, %v", text, err)
	}

	l, err := net.Listen("unix", filepath.Join(s.Dir, machinetest.ConsoleSocket))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	console, err := m.Console(ctx)
	if err != nil {
		t.Fatal(err)
	}
	guest, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Close()
	if _, err := io.WriteString(console, "root\n"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(guest, b); string(b) != "root\n" || err != nil {
		t.Errorf("typed: %q, %v", b, err)
	}
	if _, err := f.open(t).Machine("sql").Console(ctx); fault.ClassOf(err) != fault.Device || !strings.Contains(err.Error(), "another program has the console") {
		t.Errorf("a second one: %v", err)
	}
	console.Close()

	if _, err := m.Down(ctx, 0); err != nil {
		t.Fatal(err)
	}
	_, execErr := m.Exec(ctx, agent.ExecRequest{Argv: []string{"cat"}}, agent.ExecIO{})
	_, dialErr := m.Dial(ctx, 5432)
	_, consoleErr := m.Console(ctx)
	for _, err := range []error{execErr, dialErr, consoleErr} {
		if fault.ClassOf(err) != fault.Device || err.Error() != "sql is not running" || fault.HintOf(err) == "" {
			t.Errorf("while it is down: %v, hint %q", err, fault.HintOf(err))
		}
	}
}

func TestUpdate(t *testing.T) {
	f := setup(t)
	m := f.up(t)
	ctx := deadline(t)
	first, err := bundle.Digest(f.bundle)
	if err != nil {
		t.Fatal(err)
	}
	r, err := m.Update(ctx, f.bundle, 0, nil)
	if err != nil || r.Result != runtime.UpdateUnchanged {
		t.Errorf("the same: %+v, %v", r, err)
	}
	two := f.bundleOf(t, "two", "quick")
	second, err := bundle.Digest(two)
	if err != nil {
		t.Fatal(err)
	}
	if r, err = m.Update(ctx, two, 0, nil); err != nil || r.Result != runtime.UpdateCommitted || r.From != first || r.To != second || r.Status.Guest == nil {
		t.Fatalf("another: %+v, %v", r, err)
	}
	if r, err = m.Update(ctx, f.bundleOf(t, "bad", "fails"), 0, nil); err != nil || r.Result != runtime.UpdateReverted || !strings.Contains(r.Why, "the data disk does not mount") {
		t.Errorf("one that fails: %+v, %v", r, err)
	}
	if r, err = m.Rollback(ctx, 0, nil); fault.ClassOf(err) != fault.Usage {
		t.Errorf("to nothing: %+v, %v", r, err)
	}
	if r, err = m.Update(ctx, f.bundle, 0, nil); err != nil || r.Result != runtime.UpdateCommitted {
		t.Fatalf("back: %+v, %v", r, err)
	}
	if r, err = m.Rollback(ctx, 0, nil); err != nil || r.Result != runtime.UpdateCommitted || r.Kind != "rollback" || r.To != second {
		t.Errorf("rollback: %+v, %v", r, err)
	}
	if _, err := m.Down(ctx, 0); err != nil {
		t.Fatal(err)
	}
	if r, err = m.Update(ctx, f.bundle, 0, nil); err != nil || r.Result != runtime.UpdateStaged {
		t.Fatalf("while it is down: %+v, %v", r, err)
	}
	if r, err = m.Rollback(ctx, 0, nil); err != nil || r.Result != runtime.UpdateCancelled || r.To != second {
		t.Errorf("taken back: %+v, %v", r, err)
	}
	if err := f.Machine("none").Up(ctx, runtime.UpOptions{}, nil); fault.ClassOf(err) != fault.Usage {
		t.Errorf("got %v", err)
	}
	if _, err := f.Machine("none").Update(ctx, two, 0, nil); fault.ClassOf(err) != fault.Usage {
		t.Errorf("got %v", err)
	}
}

// Only what no slot has is sent.
func TestUpdateSendsWhatChanged(t *testing.T) {
	f := setup(t)
	var sent atomic.Int64
	counted := runtime.Over(func(ctx context.Context) (net.Conn, error) {
		c, err := f.connect(ctx, t)
		return &counting{c, &sent}, err
	}, runtime.WithName("test"))
	defer counted.Close()
	ctx := deadline(t)
	noise := make([]byte, 1<<20) // which nothing makes smaller
	rand.NewChaCha8([32]byte{}).Read(noise)
	big := string(noise)
	one, two := f.bundle+"-big", f.bundle+"-big2"
	writeParts(t, one, big, "one")
	writeParts(t, two, big, "two")
	m, err := counted.Install(ctx, one, "", runtime.UpOptions{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.WaitReady(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if n := sent.Swap(0); n < 1<<20 {
		t.Errorf("%d bytes were sent", n)
	}
	if r, err := m.Update(ctx, two, 0, nil); err != nil || r.Result != runtime.UpdateCommitted {
		t.Fatalf("%+v, %v", r, err)
	}
	if n := sent.Swap(0); n > 64<<10 {
		t.Errorf("%d bytes were sent for a small change", n)
	}
	// Each slot is whole by itself.
	for _, slot := range []string{"a", "b"} {
		if err := bundle.Verify(ctx, filepath.Join(f.dir, "instances", "sql", "slots", slot)); err != nil {
			t.Error(err)
		}
	}
	info, err := os.Stat(filepath.Join(f.dir, "instances", "sql", "slots", "a", "root.img"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.Stat(filepath.Join(f.dir, "instances", "sql", "slots", "b", "root.img"))
	if err != nil || os.SameFile(info, other) {
		t.Errorf("both slots have one file, %v", err)
	}
}

// writeParts makes a bundle with a large root and a small kernel.
func writeParts(t *testing.T, dir, root, kernel string) {
	t.Helper()
	w, err := bundle.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, part := range map[string][2]string{"bzImage": {bundle.RoleKernel, kernel}, "initramfs": {bundle.RoleInitramfs, "init"}, "root.img": {bundle.RoleRoot, root}} {
		if err := w.Add(t.Context(), name, part[0], strings.NewReader(part[1])); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Commit(t.Context(), bundle.Manifest{
		Schema: bundle.Schema, Name: "sql", Arch: "amd64",
		Lock:     bundle.Lock{Digest: "sha256:" + strings.Repeat("a", 64)},
		Root:     bundle.Root{Serial: "root", Hash: strings.Repeat("b", 64)},
		VM:       bundle.VM{MemoryMiB: 512, CPUs: 2, Cmdline: "fake=quick", Data: bundle.Data{Serial: "data", Size: 1 << 30}},
		Services: []string{"postgresql"},
	}); err != nil {
		t.Fatal(err)
	}
}

// connect is "sovereignd connect", as over ssh.
func (f *fixture) connect(ctx context.Context, t *testing.T) (net.Conn, error) {
	cmd := exec.Command(daemontest.Program(t), "--state-dir", f.dir, "connect")
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &piped{Reader: out, Writer: in, close: sync.OnceValue(func() error {
		in.Close()
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // and says how
		return nil
	})}, ctx.Err()
}

type piped struct {
	net.Conn // nil: nobody asks it anything else
	io.Reader
	io.Writer
	close func() error
}

func (p *piped) Read(b []byte) (int, error)  { return p.Reader.Read(b) }
func (p *piped) Write(b []byte) (int, error) { return p.Writer.Write(b) }
func (p *piped) Close() error                { return p.close() }

type counting struct {
	net.Conn
	n *atomic.Int64
}

func (c *counting) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.n.Add(int64(n))
	return n, err
}
