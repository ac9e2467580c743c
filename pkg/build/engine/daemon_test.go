package engine

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/moby/buildkit/client"

	"github.com/sovereign-build/sovereign/internal/flock"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// busyDaemon is a process that stands in for a buildkitd, recorded as the
// daemon of a new state directory.
func busyDaemon(t *testing.T) (*daemon, process) {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be over, which Wait tells
		_ = cmd.Wait()
	})
	proc, err := identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{state: t.TempDir(), buildkitd: "/nowhere/buildkitd", patience: time.Hour,
		host: host{root: "/", look: func(name string) (string, error) { return "/bin/" + name, nil }}}
	text, err := json.Marshal(record{process: proc, Config: "another configuration"})
	if err == nil {
		err = os.WriteFile(d.file("daemon.json"), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return d, proc
}

// A daemon that another process uses is waited for, however long it does not
// answer, and never ended: an hour of compiling may go on in it.
func TestBusyDaemonIsNotEnded(t *testing.T) {
	d, proc := busyDaemon(t)
	other, err := flock.Acquire(t.Context(), d.file("users.lock"), flock.Shared)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()

	probes := 0
	d.answers = func(context.Context, string) bool { probes++; return probes > 2 }
	l, err := d.acquire(t.Context())
	if err != nil || l.proc != proc || probes != 3 {
		t.Fatalf("after %d probes: %+v, %v", probes, l, err)
	}
	if err := l.release(); err != nil {
		t.Error(err)
	}

	why := errors.New("no longer wanted")
	ctx, cancel := context.WithCancelCause(t.Context())
	d.answers = func(context.Context, string) bool { cancel(why); return false }
	if _, err := d.acquire(ctx); !errors.Is(err, why) {
		t.Errorf("cancelled: %v", err)
	}
	d.answers = func(context.Context, string) bool { return false }
	d.patience = time.Millisecond
	if _, err := d.acquire(t.Context()); fault.ClassOf(err) != fault.Environment || fault.HintOf(err) == "" {
		t.Errorf("out of patience: %v", err)
	}
	if !proc.alive() {
		t.Error("the daemon was ended")
	}
}

// One that nobody else uses and that does not answer is replaced.
func TestHungDaemonIsReplaced(t *testing.T) {
	d, proc := busyDaemon(t)
	d.answers = func(context.Context, string) bool { return false }
	if _, err := d.acquire(t.Context()); fault.ClassOf(err) != fault.Environment { // there is no buildkitd to start
		t.Errorf("got %v", err)
	}
	if proc.alive() {
		t.Error("the hung daemon lives")
	}
}

// Close and the end of a step that still runs may come at once.
func TestCloseWhileRunning(t *testing.T) {
	for range 20 {
		e, err := Start(t.Context(), WithStateDir(t.TempDir()), WithAddress("unix:///nowhere/buildkitd.sock"))
		if err != nil {
			t.Fatal(err)
		}
		c, err := client.New(t.Context(), "unix:///nowhere/buildkitd.sock")
		if err != nil {
			t.Fatal(err)
		}
		l := &link{client: c, users: 2}
		e.link = l
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				if err := e.done(l, true); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Go(func() {
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
	}
}
