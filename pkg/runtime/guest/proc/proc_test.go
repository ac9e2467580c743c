package proc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain makes the test a subreaper with one table, as sovereign-init is.
func TestMain(m *testing.M) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "subreaper:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func table(t *testing.T) *Table {
	t.Helper()
	tab, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tab.Close(); err != nil {
			t.Error(err)
		}
	})
	return tab
}

func sh(script string) Attr {
	return Attr{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin"}, Dir: "/"}
}

func TestOutput(t *testing.T) {
	tab := table(t)
	for _, c := range []struct {
		script, status, out string
	}{
		{"echo err >&2; echo out; exit 7", "exit status 7", "out\n"},
		{"kill -9 $$", "killed (signal 9)", ""},
		{"read x; echo \"got $x\"", "exit status 0", "got \n"}, // standard input is empty
		{"sleep 1000 & echo left", "exit status 0", "left\n"},  // the rest is killed, not waited for
	} {
		r, err := tab.Output(t.Context(), sh(c.script))
		if err != nil || Describe(r.Status) != c.status || r.Stdout != c.out {
			t.Errorf("%s: got %+v, %v", c.script, r, err)
		}
	}
	r, err := tab.Output(t.Context(), sh("head -c 5000 /dev/zero | tr '\\0' a; echo end; echo err >&2"))
	if err != nil || len(r.Stdout) != maxOutput || !strings.HasSuffix(r.Stdout, "aend\n") || r.Stderr != "err\n" || !strings.HasSuffix(r.Text(), "aend\nerr") {
		t.Errorf("long output: got %d bytes, %q, %v", len(r.Stdout), r.Stderr, err)
	}
	if _, err := tab.Output(t.Context(), Attr{Path: filepath.Join(t.TempDir(), "missing")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such program: got %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	r, err = tab.output(ctx, sh("trap '' TERM; sleep 1000"), time.Millisecond)
	if !errors.Is(err, context.DeadlineExceeded) || !r.Status.Signaled() {
		t.Errorf("deadline: got %+v, %v", r, err)
	}
}

func TestLimits(t *testing.T) {
	tab := table(t)
	before, err := readOOM()
	if err != nil {
		t.Fatal(err)
	}
	a := sh("ulimit -n; cat /proc/self/oom_score_adj")
	a.OpenFiles, a.OOMScoreAdj = 77, before+3
	if r, err := tab.Output(t.Context(), a); err != nil || r.Stdout != fmt.Sprintf("77\n%d\n", before+3) {
		t.Errorf("got %+v, %v", r, err)
	}
	a.OpenFiles, a.OOMScoreAdj = 0, before
	if r, err := tab.Output(t.Context(), a); err != nil || r.Stdout != fmt.Sprintf("1024\n%d\n", before) {
		t.Errorf("defaults: got %+v, %v", r, err)
	}
	if after, err := readOOM(); err != nil || after != before {
		t.Errorf("own oom_score_adj: got %d, %v", after, err)
	}
}

// Many short processes at a time: every end is seen, with its own status.
func TestNoEndIsLost(t *testing.T) {
	tab := table(t)
	var all sync.WaitGroup
	for i := range 200 {
		p, err := tab.Start(sh(fmt.Sprintf("exit %d", i%256)))
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			if s, err := p.Wait(t.Context()); err != nil || s.ExitStatus() != i%256 {
				t.Errorf("process %d: got %s, %v", i, Describe(s), err)
			}
			if err := p.Signal(syscall.SIGKILL); err != nil {
				t.Errorf("signal after the end: %v", err)
			}
		})
	}
	all.Wait()
}

// Orphans come to the subreaper; none may stay as a zombie.
func TestOrphansAreReaped(t *testing.T) {
	tab := table(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	a := sh("(sh -c 'echo $$; exec sleep 0.05' &) ")
	a.Stdout = w
	p, err := tab.Start(a)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	var orphan int
	if _, err := fmt.Fscan(bufio.NewReader(r), &orphan); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for syscall.Kill(orphan, 0) == nil { // a zombie still takes signals
		if time.Now().After(deadline) {
			t.Fatalf("orphan %d was not reaped", orphan)
		}
		time.Sleep(time.Millisecond)
	}
}
