package supervise

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
