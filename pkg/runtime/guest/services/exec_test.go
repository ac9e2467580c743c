package services

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/proc"
)

func runner(t *testing.T, cgroups string) *Runner {
	t.Helper()
	procs, err := proc.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := procs.Close(); err != nil {
			t.Error(err)
		}
	})
	return &Runner{Procs: procs, Cgroups: cgroups, Lookup: func(name string) (*user.User, []string, error) {
		if name != "root" {
			return nil, nil, user.UnknownUserError(name)
		}
		return &user.User{Uid: strconv.Itoa(os.Getuid()), Gid: strconv.Itoa(os.Getgid()), HomeDir: "/tmp"}, nil, nil
	}}
}

// locked is a buffer for several goroutines.
type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *locked) Write(b []byte) (int, error) { l.mu.Lock(); defer l.mu.Unlock(); return l.b.Write(b) }
func (l *locked) String() string              { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

func (l *locked) until(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(l.String(), text); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %q in %q", text, l.String())
		}
	}
}

func TestExec(t *testing.T) {
	r := runner(t, "")
	sh := func(script string) agent.ExecRequest { return agent.ExecRequest{Argv: []string{"sh", "-c", script}} }
	for _, c := range []struct {
		req            agent.ExecRequest
		in             string
		code           int
		stdout, stderr string
		wrong          string
	}{
		{req: sh("cat; echo err >&2; exit 7"), in: "hello", code: 7, stdout: "hello", stderr: "err\n"},
		{req: sh("pwd; echo $HOME $USER $A"), stdout: "/tmp\n/tmp root\n"},
		{req: agent.ExecRequest{Argv: []string{"/bin/sh", "-c", "pwd; echo $A"}, Dir: "/", Env: map[string]string{"A": "b c"}}, stdout: "/\nb c\n"},
		{req: sh("kill -TERM $$"), code: 128 + 15},
		{req: sh("head -c 300000 /dev/zero | wc -c"), stdout: "300000\n"},
		{req: agent.ExecRequest{Argv: []string{"no-such-program"}}, wrong: "no such program"},
		{req: agent.ExecRequest{Argv: []string{"sh"}, User: "nobody-here"}, wrong: "nobody-here"},
		{req: agent.ExecRequest{Argv: []string{"sh"}, Dir: "/nope"}, wrong: "no such file"},
	} {
		var stdout, stderr locked
		code, err := r.Exec(t.Context(), c.req, agent.ExecIO{Stdin: strings.NewReader(c.in), Stdout: &stdout, Stderr: &stderr})
		if c.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("%q: got %v", c.req.Argv, err)
			}
			continue
		}
		if err != nil || code != c.code || stdout.String() != c.stdout || stderr.String() != c.stderr {
			t.Errorf("%q: got %d, %q, %q, %v", c.req.Argv, code, stdout.String(), stderr.String(), err)
		}
	}
}

func TestExecWithATerminal(t *testing.T) {
	r := runner(t, "")
	in, typed := io.Pipe()
	sizes := make(chan agent.Size)
	var out locked
	ended := make(chan int, 1)
	go func() {
		code, err := r.Exec(t.Context(), agent.ExecRequest{Argv: []string{"sh", "-c", "stty size; tty; read x; echo got $x; read y; stty size; cat; exit 3"}, TTY: true, Rows: 30, Cols: 100},
			agent.ExecIO{Stdin: in, Stdout: &out, Resize: sizes})
		if err != nil {
			t.Error(err)
		}
		ended <- code
	}()
	out.until(t, "30 100\r\n/dev/pts/")
	io.WriteString(typed, "yes\n")
	out.until(t, "got yes\r\n")
	sizes <- agent.Size{Rows: 40, Cols: 120}
	sizes <- agent.Size{Rows: 41, Cols: 121} // the first was taken when this one is
	io.WriteString(typed, "\n")
	typed.Close() // the terminal's end of file
	if code := <-ended; code != 3 || !strings.Contains(out.String(), "\r\n4") {
		t.Errorf("got %d, %q", code, out.String())
	}
}

// All that a program started ends with its stream, and with itself.
func TestExecLeavesNothing(t *testing.T) {
	root := cgroups(t)
	r := runner(t, root)
	const script = `setsid sh -c 'trap "" TERM; while :; do sleep 0.01; done' & echo "child $!"`
	child := func(out string) int {
		t.Helper()
		_, text, _ := strings.Cut(out, "child ")
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil {
			t.Fatalf("%q: %v", out, err)
		}
		return n
	}
	gone := func(pid int) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d is still there", pid)
			}
		}
	}
	var out locked
	code, err := r.Exec(t.Context(), agent.ExecRequest{Argv: []string{"sh", "-c", script}}, agent.ExecIO{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out})
	if err != nil || code != 0 {
		t.Errorf("got %d, %v", code, err)
	}
	gone(child(out.String()))
	ctx, cancel := context.WithCancel(t.Context())
	var second locked
	ended := make(chan error, 1)
	go func() {
		_, err := r.Exec(ctx, agent.ExecRequest{Argv: []string{"sh", "-c", script + "; sleep 1000"}}, agent.ExecIO{Stdin: strings.NewReader(""), Stdout: &second, Stderr: &second})
		ended <- err
	}()
	second.until(t, "\n")
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	gone(child(second.String()))
	if left, err := filepath.Glob(filepath.Join(root, "exec*")); err != nil || len(left) != 0 {
		t.Errorf("groups left: %v, %v", left, err)
	}
}

func TestExecSignals(t *testing.T) {
	r := runner(t, "")
	var out locked
	signals := make(chan string, 1)
	ended := make(chan int, 1)
	go func() {
		code, err := r.Exec(t.Context(), agent.ExecRequest{Argv: []string{"sh", "-c", "trap 'echo usr1; exit 9' USR1; echo up; while :; do sleep 0.01; done"}},
			agent.ExecIO{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out, Signals: signals})
		if err != nil {
			t.Error(err)
		}
		ended <- code
	}()
	out.until(t, "up\n")
	signals <- "USR1"
	if code := <-ended; code != 9 || !strings.Contains(out.String(), "usr1") {
		t.Errorf("got %d, %q", code, out.String())
	}
}

// stalled takes the first bytes, and then nothing until the program is gone.
type stalled struct {
	t *testing.T
	locked
}

func (s *stalled) Write(b []byte) (int, error) {
	if text, _, ok := strings.Cut(s.String(), "\n"); ok && len(s.String()) < 20 {
		pid, err := strconv.Atoi(text)
		if err != nil {
			s.t.Error(err)
		}
		ended(s.t, pid)
	}
	return s.locked.Write(b)
}

// ended waits until there is no such process.
func ended(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("%d is still there", pid)
			return
		}
	}
}

// What a program printed is all there, also for one who reads it only when the
// time to wait for more is long over; with a control group and without.
func TestExecIntoAReaderThatStalls(t *testing.T) {
	for _, name := range []string{"no control group", "control group"} {
		t.Run(name, func(t *testing.T) {
			root := ""
			if name == "control group" {
				root = cgroups(t)
			}
			r := runner(t, root)
			r.limit = time.Nanosecond
			out := &stalled{t: t}
			// The first line comes alone; the rest fills the pipe.
			code, err := r.Exec(t.Context(), agent.ExecRequest{Argv: []string{"sh", "-c", "echo $$; exec head -c 60000 /dev/zero"}},
				agent.ExecIO{Stdin: strings.NewReader(""), Stdout: out, Stderr: io.Discard})
			_, rest, _ := strings.Cut(out.String(), "\n")
			if err != nil || code != 0 || len(rest) != 60000 {
				t.Errorf("got %d, %v, %d of 60000 bytes", code, err, len(rest))
			}
		})
	}
}

// An end that does not come by itself is no end: somebody may still print.
func TestExecOutputIsHeld(t *testing.T) {
	r := runner(t, "") // no control group ends what leaves the session
	r.limit = time.Millisecond
	var out locked
	// The program ends only when the other has left its session, and would
	// have ended with it before.
	left := filepath.Join(t.TempDir(), "left")
	_, err := r.Exec(t.Context(), agent.ExecRequest{Argv: []string{"sh", "-c",
		`mkfifo "$0" && { setsid sh -c 'echo $$; echo >"$0"; exec sleep 1000' "$0" & } && read -r _ <"$0"`, left}},
		agent.ExecIO{Stdin: strings.NewReader(""), Stdout: &out, Stderr: io.Discard})
	if err == nil || !strings.Contains(err.Error(), "still holds its output") {
		t.Errorf("got %v", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(out.String()))
	if err != nil {
		t.Fatalf("printed %q: %v", out.String(), err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
}

// An output that takes no more ends the program, which would wait for ever.
func TestExecOutputFails(t *testing.T) {
	full := errors.New("the host is gone")
	r := runner(t, "")
	for _, tty := range []bool{false, true} {
		_, err := r.Exec(t.Context(), agent.ExecRequest{Argv: []string{"sh", "-c", "trap '' PIPE; while :; do echo y; done"}, TTY: tty},
			agent.ExecIO{Stdin: strings.NewReader(""), Stdout: takesNothing{full}, Stderr: io.Discard})
		if !errors.Is(err, full) {
			t.Errorf("terminal %v: got %v", tty, err)
		}
	}
}

type takesNothing struct{ err error }

func (f takesNothing) Write([]byte) (int, error) { return 0, f.err }

// A terminal that nobody has open for a moment goes on.
func TestExecReopensItsTerminal(t *testing.T) {
	var out locked
	code, err := runner(t, "").Exec(t.Context(), agent.ExecRequest{Argv: []string{"sh", "-c",
		"t=$(tty); echo before; exec </dev/null >/dev/null 2>&1; sleep 0.05; echo after >$t; exit 4"}, TTY: true},
		agent.ExecIO{Stdin: strings.NewReader(""), Stdout: &out})
	if err != nil || code != 4 || out.String() != "before\r\nafter\r\n" {
		t.Errorf("got %d, %v, %q", code, err, out.String())
	}
}

// A standard input that breaks off is none that has ended.
func TestExecStdinBreaksOff(t *testing.T) {
	r := runner(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out locked
	ended := make(chan error, 1)
	go func() {
		_, err := r.Exec(ctx, agent.ExecRequest{Argv: []string{"sh", "-c", "cat; echo all of it"}},
			agent.ExecIO{Stdin: io.MultiReader(strings.NewReader("DELETE FROM orders "), iotest.ErrReader(io.ErrUnexpectedEOF)), Stdout: &out, Stderr: io.Discard})
		ended <- err
	}()
	out.until(t, "orders ")
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) || strings.Contains(out.String(), "all of it") {
		t.Errorf("got %v, %q", err, out.String())
	}
}

func TestNoProgramAfterClose(t *testing.T) {
	r := runner(t, "")
	r.Close()
	if _, err := r.Exec(t.Context(), agent.ExecRequest{Argv: []string{"true"}}, agent.ExecIO{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard}); !errors.Is(err, ErrShutdown) {
		t.Errorf("got %v", err)
	}
}
