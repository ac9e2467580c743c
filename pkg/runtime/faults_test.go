package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/internal/daemontest"
	"github.com/sovereign-build/sovereign/internal/machine/machinetest"
	"github.com/sovereign-build/sovereign/internal/process"
	"github.com/sovereign-build/sovereign/internal/sovereignd"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/control"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// killer kills the sovereignd of a directory again and again, after times of up
// to most, until it is stopped.
func killer(t *testing.T, dir string, seed uint64, most time.Duration) (stop func() (kills int)) {
	t.Helper()
	done, over := make(chan struct{}), make(chan int)
	go func() {
		rnd := rand.New(rand.NewPCG(seed, 2))
		kills := 0
		defer func() { over <- kills }()
		for {
			select {
			case <-done:
				return
			case <-time.After(time.Duration(rnd.Int64N(int64(most)))):
			}
			p, ok, err := process.Listener(context.Background(), filepath.Join(dir, sovereignd.Socket))
			if err != nil || !ok {
				continue // it is only starting
			}
			if err := p.Signal(syscall.SIGKILL); err != nil {
				t.Error(err)
				return
			}
			kills++
		}
	}()
	return func() int {
		close(done)
		return <-over
	}
}

// again repeats what a killed sovereignd left undone, as its owner would: where
// the connection was lost.
func again(t *testing.T, what string, verb func() error) {
	t.Helper()
	for end := time.Now().Add(90 * time.Second); ; {
		err := verb()
		if err == nil {
			return
		}
		// The words of a sovereignd that was killed, and of one that was started
		// in the middle of the last one's work.
		known := errors.Is(err, control.ErrLost) || errors.Is(err, control.ErrNoHello) || strings.Contains(err.Error(), "ended at once") ||
			strings.Contains(err.Error(), "not over yet") || strings.Contains(err.Error(), "again and again") || strings.Contains(err.Error(), "does not answer") ||
			strings.Contains(err.Error(), "guest agent") || strings.Contains(err.Error(), "waiting for another command") || strings.Contains(err.Error(), "connect")
		if !known || time.Now().After(end) {
			t.Fatalf("%s: %v (class %d)", what, err, fault.ClassOf(err))
		}
	}
}

// sovereignd is killed in every verb, at any moment of it: what was written
// down is done in the end, the data disk is the same, there are never two
// machines on it, and nothing half-done stays.
func TestKilledInEveryVerb(t *testing.T) {
	f := setup(t)
	two := f.bundleOf(t, "two", "quick")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	kills := 0
	under := func(what string, seed uint64, verb func() error) {
		t.Helper()
		stop := killer(t, f.dir, seed, 60*time.Millisecond)
		over := make(chan struct{})
		// Each verb meets some kills, and then has time to end.
		go func() {
			defer close(over)
			time.Sleep(400 * time.Millisecond)
			kills += stop()
		}()
		again(t, what, verb)
		<-over
		again(t, what+", in peace", verb)
	}
	m := f.Machine("sql")
	under("install", 1, func() error {
		_, err := f.Install(ctx, f.bundle, "", runtime.UpOptions{}, nil)
		return err
	})
	under("wait", 2, func() error { _, err := m.WaitReady(ctx, nil); return err })
	disk, err := os.Stat(filepath.Join(f.dir, "instances", "sql", "data.img"))
	if err != nil {
		t.Fatal(err)
	}
	under("update", 3, func() error {
		r, err := m.Update(ctx, two, 0, nil)
		if err == nil && r.Result != runtime.UpdateCommitted && r.Result != runtime.UpdateUnchanged {
			return fmt.Errorf("%w: %s: %s", control.ErrLost, r.Result, r.Why) // its machine was killed with it, perhaps
		}
		return err
	})
	under("restart", 4, func() error {
		if _, err := m.Restart(ctx, 0); err != nil {
			return err
		}
		_, err := m.WaitReady(ctx, nil)
		return err
	})
	under("exec", 5, func() error {
		_, err := m.Exec(ctx, agent.ExecRequest{Argv: []string{"x"}}, agent.ExecIO{Stdin: strings.NewReader("")})
		return err
	})
	under("grow", 6, func() error { _, err := m.Grow(ctx, 2<<30); return err })
	under("status", 7, func() error { _, err := m.Status(ctx); return err })
	under("down", 8, func() error { _, err := m.Down(ctx, 0); return err })
	if s := status(t, m); s.State != runtime.Stopped || s.Supervision.Wanted != runtime.Down || s.Supervision.Trial != nil {
		t.Errorf("after down: %+v", s)
	}
	under("up", 9, func() error { return m.Up(ctx, runtime.UpOptions{}, nil) })
	under("wait", 10, func() error { _, err := m.WaitReady(ctx, nil); return err })
	if kills < 20 {
		t.Errorf("only %d kills", kills)
	}
	// Which kills cannot show: they fell before or behind what they were for.
	t.Logf("%d kills", kills)
	now, err := os.Stat(filepath.Join(f.dir, "instances", "sql", "data.img"))
	if err != nil || !os.SameFile(disk, now) {
		t.Errorf("the data disk is another one: %v", err)
	}
	if _, err := os.Stat(filepath.Join(f.dir, "instances", "sql", machinetest.TwoMachines)); err == nil {
		t.Error("two machines ran on one disk")
	}
	s := status(t, m)
	if err := bundle.Verify(ctx, s.Bundle.Path); err != nil {
		t.Error(err)
	}
	want, err := bundle.Digest(two)
	if err != nil || s.Bundle.Digest != want {
		t.Errorf("it runs %s, want %s, %v", s.Bundle.Digest, want, err)
	}
	// A new one sweeps what was on its way.
	daemontest.End(t, f.dir)
	status(t, m)
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			t.Errorf("left in the state directory: %s", e.Name())
		}
	}
}

// A link that breaks at 50 random points of an install, of updates, of a
// program's output and of a log: what was not done is done by the next try, and
// a part is never taken for the whole.
func TestLinkBreaks(t *testing.T) {
	f := setup(t)
	rnd := rand.New(rand.NewPCG(7, 7))
	var left atomic.Int64 // bytes until it breaks
	left.Store(1 << 40)
	h := runtime.Over(func(ctx context.Context) (net.Conn, error) {
		c, err := sovereignd.Dial(ctx, f.dir, daemontest.Program(t))
		if err != nil {
			return nil, err
		}
		return &breaking{Conn: c, left: &left}, nil
	}, runtime.WithName("far"))
	defer h.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	big := strings.Repeat("0123456789abcdef", 16<<10)
	one, two := f.bundle+"-1", f.bundle+"-2"
	writeParts(t, one, big+"one", "k1")
	writeParts(t, two, big+"two", "k2")
	m := h.Machine("sql")
	breaks := 0
	// within breaks the link in a verb until that is done.
	within := func(what string, most int64, verb func() error) {
		t.Helper()
		for tries := 0; ; tries++ {
			if tries == 100 {
				t.Fatalf("%s: is never done", what)
			}
			left.Store(rnd.Int64N(most) + int64(tries)*most/10)
			err := verb()
			if left.Load() <= 0 {
				breaks++
			}
			left.Store(1 << 40)
			if err == nil {
				return
			}
			if !errors.Is(err, control.ErrLost) && !strings.Contains(err.Error(), "far: ") {
				t.Fatalf("%s: %v", what, err)
			}
		}
	}
	within("install", 200<<10, func() error { _, err := h.Install(ctx, one, "", runtime.UpOptions{}, nil); return err })
	within("wait", 2000, func() error { _, err := m.WaitReady(ctx, nil); return err })
	for round := 0; breaks < 50; round++ {
		if round == 60 {
			t.Fatalf("%d breaks after %d rounds", breaks, round)
		}
		dir := []string{two, one}[round%2]
		within("update", 300<<10, func() error {
			r, err := m.Update(ctx, dir, 0, nil)
			if err == nil && r.Result != runtime.UpdateCommitted && r.Result != runtime.UpdateUnchanged {
				return fmt.Errorf("the update is %s: %s", r.Result, r.Why)
			}
			if err != nil && strings.Contains(err.Error(), "not over yet") {
				_, err = m.WaitReady(ctx, nil) // it was written down before the link broke
			}
			return err
		})
		within("exec", 3000, func() error {
			var out strings.Builder
			input := strings.Repeat("x", 1000)
			code, err := m.Exec(ctx, agent.ExecRequest{Argv: []string{"cat"}}, agent.ExecIO{Stdin: strings.NewReader(input), Stdout: &out})
			if err == nil && (code != 0 || out.String() != input) {
				t.Fatalf("exec: code %d, %d bytes, and no error", code, out.Len())
			}
			return err
		})
		within("logs", 3000, func() error {
			n := 0
			err := m.Logs(ctx, nil, false, func(runtime.LogLine) error { n++; return nil })
			if err == nil && n != 2 {
				t.Fatalf("logs: %d lines, and no error", n)
			}
			return err
		})
	}
	s, err := m.WaitReady(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := bundle.Verify(ctx, s.Bundle.Path); err != nil {
		t.Error(err)
	}
}

// breaking breaks when so many bytes have gone either way.
type breaking struct {
	net.Conn
	left *atomic.Int64
}

func (b *breaking) Read(p []byte) (int, error) {
	n, err := b.Conn.Read(p)
	if b.left.Add(-int64(n)) <= 0 {
		b.Conn.Close()
		return 0, io.ErrClosedPipe
	}
	return n, err
}

func (b *breaking) Write(p []byte) (int, error) {
	if b.left.Add(-int64(len(p))) <= 0 {
		b.Conn.Close()
		return 0, io.ErrClosedPipe
	}
	return b.Conn.Write(p)
}

// Two programs update one machine at once, again and again: one of them does,
// the other is told.
func TestTwoUpdate(t *testing.T) {
	f := setup(t)
	f.up(t)
	ctx := deadline(t)
	for round := range 4 {
		type result struct {
			runtime.UpdateResult
			err error
		}
		var results [2]result
		var digests [2]string
		var both sync.WaitGroup
		for n := range 2 {
			dir := f.bundleOf(t, fmt.Sprintf("u%d%d", round, n), "quick")
			var err error
			if digests[n], err = bundle.Digest(dir); err != nil {
				t.Fatal(err)
			}
			h := f.open(t)
			both.Go(func() { results[n].UpdateResult, results[n].err = h.Machine("sql").Update(ctx, dir, 0, nil) })
		}
		both.Wait()
		won := -1
		for n, r := range results {
			switch {
			case r.err == nil && r.Result == runtime.UpdateCommitted && r.To == digests[n]:
				won = n // both may, one after the other
			case r.err == nil:
				t.Errorf("round %d: %+v", round, r.UpdateResult)
			case fault.ClassOf(r.err) != fault.Usage || fault.HintOf(r.err) == "":
				t.Errorf("round %d: the other is told %v", round, r.err)
			}
		}
		if won < 0 {
			t.Fatalf("round %d: nobody's update is done: %v, %v", round, results[0].err, results[1].err)
		}
		s := status(t, f.Machine("sql"))
		if s.Bundle.Digest != digests[0] && s.Bundle.Digest != digests[1] || s.Supervision.Trial != nil {
			t.Errorf("round %d: it runs %s", round, s.Bundle.Digest)
		}
	}
}

// A state directory in which others may write, and one that is another user's.
func TestWrongRights(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []os.FileMode{0o777, 0o770, 0o702} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		_, err := runtime.Local(dir)
		if fault.ClassOf(err) != fault.Environment || !strings.Contains(err.Error(), "others may write") || !strings.Contains(fault.HintOf(err), "chmod 700 "+dir) {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 {
		t.Skip("another user's directory needs root")
	}
	if err := os.Chown(dir, 1234, 1234); err != nil {
		t.Fatal(err)
	}
	if _, err := runtime.Local(dir); fault.ClassOf(err) != fault.Environment || !strings.Contains(err.Error(), "belongs to user 1234") {
		t.Errorf("another user's: %v", err)
	}
}

// A sovereignd of a version before the protocol: it closes each connection
// without a word, and its owner is told what to replace.
func TestOldSovereignd(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, sovereignd.Socket))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	h, err := runtime.Local(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Machines(deadline(t)); fault.ClassOf(err) != fault.Environment || !strings.Contains(err.Error(), "is older than this program") || !strings.Contains(fault.HintOf(err), "its machines run on") {
		t.Errorf("got %v, hint %q", err, fault.HintOf(err))
	}
}

// Errors of a host elsewhere say so; one that cannot be reached is a device's.
func TestNamedHost(t *testing.T) {
	f := setup(t)
	ctx := deadline(t)
	h := runtime.Over(func(ctx context.Context) (net.Conn, error) { return f.connect(ctx, t) }, runtime.WithName("ssh:nas"))
	defer h.Close()
	if _, err := h.Machine("none").Status(ctx); err == nil || !strings.HasPrefix(err.Error(), `ssh:nas: there is no `) || fault.ClassOf(err) != fault.Usage || fault.HintOf(err) == "" {
		t.Errorf("got %v", err)
	}
	gone := runtime.Over(func(context.Context) (net.Conn, error) { return nil, errors.New("no route to host") }, runtime.WithName("ssh:nas"))
	if _, err := gone.Machines(ctx); fault.ClassOf(err) != fault.Device || err.Error() != "ssh:nas: no route to host" {
		t.Errorf("got %v", err)
	}
	shell := runtime.Over(func(context.Context) (net.Conn, error) {
		a, b := net.Pipe()
		go func() {
			go io.Copy(io.Discard, b)                               //nolint:errcheck // until it is closed
			_, _ = io.WriteString(b, "sh: sovereignd: not found\n") // or the host is gone
			b.Close()
		}()
		return a, nil
	}, runtime.WithName("ssh:nas"))
	if _, err := shell.Machines(ctx); fault.ClassOf(err) != fault.Device || !strings.Contains(err.Error(), "ssh:nas: ") || !strings.Contains(err.Error(), "sh: sovereignd: not found") {
		t.Errorf("got %v", err)
	}
}

// A sovereignd that was told to ends when nothing is wanted up and nobody is
// connected, and not before.
func TestExitWhenIdle(t *testing.T) {
	f := setup(t)
	ctx := deadline(t)
	if _, err := f.Machines(ctx); err != nil {
		t.Fatal(err)
	}
	p, ok := daemontest.Daemon(t, f.dir)
	if !ok {
		t.Fatal("none runs")
	}
	other := f.open(t)
	if _, err := other.Machines(ctx); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	limit, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	if err := p.Wait(limit); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with somebody connected: %v", err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(ctx); err != nil {
		t.Errorf("with nobody: %v", err)
	}
	// Another is started when it is needed.
	if _, err := f.Machines(ctx); err != nil {
		t.Error(err)
	}
}

// A machine that does not get ready, in the words of each way of it.
func TestWaitReadyFails(t *testing.T) {
	f := setup(t)
	ctx := deadline(t)
	m, err := f.Install(ctx, f.bundleOf(t, "failing", "fails"), "", runtime.UpOptions{Restart: runtime.RestartNever}, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.WaitReady(ctx, nil)
	if fault.ClassOf(err) != fault.Device || !strings.Contains(err.Error(), "the guest of sql failed: the data disk does not mount") || !strings.Contains(fault.HintOf(err), filepath.Join(f.dir, "instances/sql/console.log")) {
		t.Errorf("a guest that failed: %v, hint %q", err, fault.HintOf(err))
	}
	run := func(mode string) error {
		t.Helper()
		if _, err := m.Down(ctx, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Install(ctx, f.bundleOf(t, mode, mode), "", runtime.UpOptions{Replace: true}, nil); err != nil {
			t.Fatal(err)
		}
		limit, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		_, err := m.WaitReady(limit, nil)
		return err
	}
	if err := run("slow"); fault.ClassOf(err) != fault.Device || !strings.Contains(err.Error(), "sql is not ready in time: it is starting; postgresql: starting") || !strings.Contains(fault.HintOf(err), "give it more time") {
		t.Errorf("one that is slow: %v", err)
	}
	if err := run("panics"); fault.ClassOf(err) != fault.Device || !strings.Contains(err.Error(), "sovereignd gave up; the last time: ") || !strings.Contains(err.Error(), "Kernel panic") {
		t.Errorf("one that panics: %v", err)
	}
	if err := run("once"); err != nil {
		t.Errorf("one whose image is too old to tell its changes: %v", err)
	}
	if err := run("degraded"); err != nil {
		t.Errorf("one that is only degraded: %v", err)
	}
}
