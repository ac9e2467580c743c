package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// buildkitd finds the daemon: bin/buildkitd of the checkout, as make builds it.
func buildkitd(t testing.TB) string {
	t.Helper()
	if h := thisHost(); h.uid != 0 {
		if _, err := h.rootless(); err != nil {
			t.Skip(err)
		}
	}
	path, err := filepath.Abs("../../../bin/buildkitd")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Skipf("%s is not there (run make)", path)
	}
	if _, err := thisHost().runtime(); err != nil {
		t.Skip(err)
	}
	return path
}

// start starts an engine; state "" is a directory of the test's own.
func start(t testing.TB, state string, opts ...Option) *Engine {
	t.Helper()
	if state == "" {
		state = t.TempDir()
	}
	e, err := Start(t.Context(), append([]Option{WithBuildkitd(buildkitd(t)), WithStateDir(state)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// run runs a script and returns the output directory's files.
func run(ctx context.Context, e *Engine, s Step) (map[string]string, error) {
	if s.Output == "" {
		s.Output = "/out"
	}
	var out bytes.Buffer
	if err := e.Run(ctx, s, &out); err != nil {
		return nil, err
	}
	files := map[string]string{}
	for r := tar.NewReader(&out); ; {
		h, err := r.Next()
		if err == io.EOF {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		files[strings.TrimSuffix(h.Name, "/")] = string(data)
	}
}

func input(t testing.TB, dest, content string) Input {
	t.Helper()
	path := filepath.Join(t.TempDir(), "input")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return Input{Dest: dest, Path: path, Digest: store.FromBytes([]byte(content))}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := until(ctx, 10*time.Millisecond, done); err != nil {
		t.Fatalf("waiting for %s: %v", what, err)
	}
}

// running counts the processes on this machine whose command line has word.
func running(t *testing.T, word string) int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range files {
		// Processes end while we look.
		if text, err := os.ReadFile(f); err == nil && strings.Contains(strings.ReplaceAll(string(text), "\x00", " "), word) {
			n++
		}
	}
	return n
}

// TestPrivate follows one daemon through what an engine is for.
func TestPrivate(t *testing.T) {
	base := busyboxImage(t)
	state := t.TempDir()
	var (
		mu    sync.Mutex
		shown strings.Builder
	)
	e := start(t, state, WithStatus(func(s Status) {
		mu.Lock()
		defer mu.Unlock()
		for _, v := range s.Brief.Vertexes {
			fmt.Fprintf(&shown, "[%s] cached: %v\n", v.Name, v.Cached)
		}
		for _, l := range s.Full.Logs {
			fmt.Fprintf(&shown, "%s: %s\n", s.Step, l.Data)
		}
	}))
	ctx := t.Context()

	t.Run("output, inputs and environment", func(t *testing.T) {
		tool := input(t, "/toolchain/hello", "#!/bin/sh\necho hello from $0\n")
		tool.Executable = true
		files, err := run(ctx, e, Step{
			Name: "all of it", Base: base,
			Env:    []string{"B=2", "A=1 and = more"},
			Inputs: []Input{input(t, "/src/data", "some data\n"), input(t, "/src/same", "some data\n"), tool},
			Script: `
				cat /src/data /src/same > /out/data
				/toolchain/hello > /out/hello
				env > /out/env
				test "$PWD" = /work && touch here
				mkdir -p /out/sub && echo deep > /out/sub/file
				if echo x 2>/dev/null > /src/data; then echo writable > /out/bad; fi`,
		})
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{
			"data": "some data\nsome data\n", "hello": "hello from /toolchain/hello\n", "sub/file": "deep\n",
			"env": "A=1 and = more\nB=2\nHOME=/root\n" + defaultPath + "\nPWD=/work\nSHLVL=1\n",
		} {
			got := files[name]
			if name == "env" {
				got = sortedLines(got)
				want = sortedLines(want)
			}
			if got != want {
				t.Errorf("%s: got %q, want %q", name, got, want)
			}
		}
		if _, ok := files["bad"]; ok {
			t.Error("an input is writable")
		}
	})

	t.Run("another directory, in memory, on another host", func(t *testing.T) {
		files, err := run(ctx, e, Step{Name: "elsewhere", Base: base, Dir: "/var/tmp/else/where", Memory: true, Hostname: "elsewhere",
			Script: "pwd > /out/dir; hostname > /out/host; touch here; sed -n 's, /var/tmp/else/where .*,,p' /proc/mounts > /out/mount; ls -A > /out/list"})
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{"dir": "/var/tmp/else/where\n", "host": "elsewhere\n", "mount": "tmpfs\n", "list": "here\n"} {
			if files[name] != want {
				t.Errorf("%s: %q, want %q", name, files[name], want)
			}
		}
	})

	t.Run("what it prints is passed on", func(t *testing.T) {
		var log bytes.Buffer
		if _, err := run(ctx, e, Step{Name: "talking", Base: base, Log: &log, Script: "echo one; echo two >&2; touch /out/x"}); err != nil {
			t.Fatal(err)
		}
		// The two streams may come in any order.
		if got := log.String(); got != "one\ntwo\n" && got != "two\none\n" {
			t.Errorf("got %q", log.String())
		}
	})

	t.Run("a step done before is not run again", func(t *testing.T) {
		step := Step{Name: "once", Base: base, Script: "cat /proc/sys/kernel/random/uuid > /out/uuid", Inputs: []Input{input(t, "/src/x", "x")}}
		before := e.Stats()
		first, err := run(ctx, e, step)
		if err != nil {
			t.Fatal(err)
		}
		// The same content under another path on this machine is the same input.
		step.Inputs = []Input{input(t, "/src/x", "x")}
		second, err := run(ctx, e, step)
		if err != nil {
			t.Fatal(err)
		}
		if first["uuid"] == "" || first["uuid"] != second["uuid"] {
			t.Errorf("second run made %q, first %q", second["uuid"], first["uuid"])
		}
		if got, want := e.Stats(), (Stats{Run: before.Run + 1, Cached: before.Cached + 1}); got != want {
			t.Errorf("stats %+v, want %+v", got, want)
		}
		step.Inputs = []Input{input(t, "/src/x", "y")}
		third, err := run(ctx, e, step)
		if err != nil {
			t.Fatal(err)
		}
		if third["uuid"] == first["uuid"] {
			t.Error("another input gave the old output")
		}
	})

	t.Run("no network", func(t *testing.T) {
		files, err := run(ctx, e, Step{Name: "network", Base: base, Script: "grep -o '[a-z0-9]*:' /proc/net/dev > /out/devices; ip route > /out/routes 2>&1 || true"})
		if err != nil {
			t.Fatal(err)
		}
		if files["devices"] != "lo:\n" || files["routes"] != "" {
			t.Errorf("devices %q, routes %q; want only lo and no route", files["devices"], files["routes"])
		}
	})

	t.Run("a failed script", func(t *testing.T) {
		_, err := run(ctx, e, Step{Name: "zlib 1.3.1 (arm64)", Base: base, Script: "seq 1 100000\necho the reason >&2\nexit 3"})
		var failed *StepError
		if !errors.As(err, &failed) || fault.ClassOf(err) != fault.Step {
			t.Fatalf("got %v, class %d", err, fault.ClassOf(err))
		}
		if failed.ExitCode != 3 || len(failed.Tail) != tailLines || failed.Tail[tailLines-1] != "the reason" || failed.Tail[0] != "99982" {
			t.Errorf("exit code %d, tail %q", failed.ExitCode, failed.Tail)
		}
		log, err := os.ReadFile(failed.Log)
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(log, []byte("\n")); n != 100001 {
			t.Errorf("the log has %d lines, want all 100001", n)
		}
		if want := filepath.Join(state, "logs", "zlib-1.3.1-arm64.log"); failed.Log != want {
			t.Errorf("log %s, want %s", failed.Log, want)
		}
	})

	t.Run("set -e and -u", func(t *testing.T) {
		for _, script := range []string{"false; touch /out/x", "echo $UNSET"} {
			if _, err := run(ctx, e, Step{Name: "strict", Base: base, Script: script}); fault.ClassOf(err) != fault.Step {
				t.Errorf("%s: got %v", script, err)
			}
		}
	})

	t.Run("deadline", func(t *testing.T) {
		_, err := run(ctx, e, Step{Name: "slow", Base: base, Script: "echo started; sleep 7101", Timeout: 2 * time.Second})
		var failed *StepError
		if !errors.As(err, &failed) || failed.Timeout == 0 {
			t.Fatalf("got %v", err)
		}
		if n := running(t, "sleep 7101"); n != 0 {
			t.Errorf("%d processes of the step still run", n)
		}
	})

	t.Run("cancel", func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() {
			_, err := run(ctx, e, Step{Name: "cancelled", Base: base, Script: "sleep 7102 & sleep 7102"})
			done <- err
		}()
		eventually(t, "the step's processes", func() bool { return running(t, "sleep 7102") >= 2 })
		cancel()
		err := <-done // long before the step's two hours
		if fault.ClassOf(err) != fault.Cancelled || !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if n := running(t, "sleep 7102"); n != 0 {
			t.Errorf("%d processes of the step still run", n)
		}
	})

	t.Run("the writer's error comes back", func(t *testing.T) {
		err := e.Run(ctx, Step{Name: "disk", Base: base, Script: "dd if=/dev/zero of=/out/zeros bs=1M count=8", Output: "/out"}, failingWriter{})
		if !errors.Is(err, syscall.ENOSPC) || fault.ClassOf(err) != fault.Environment {
			t.Errorf("got %v, class %d", err, fault.ClassOf(err))
		}
	})

	t.Run("an input that is not what its digest says", func(t *testing.T) {
		in := input(t, "/src/x", "true")
		in.Digest = store.FromBytes([]byte("wanted"))
		_, err := run(ctx, e, Step{Name: "digest", Base: base, Script: "cat /src/x", Inputs: []Input{in}})
		if fault.ClassOf(err) != fault.Verification || !strings.Contains(fmt.Sprint(err), "mismatch") {
			t.Errorf("got %v, class %d", err, fault.ClassOf(err))
		}
	})

	t.Run("steps at once", func(t *testing.T) {
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				files, err := run(ctx, e, Step{Name: fmt.Sprintf("parallel %d", i), Base: base, Script: fmt.Sprintf("echo %d > /out/n", i)})
				if err != nil || files["n"] != fmt.Sprintf("%d\n", i) {
					t.Errorf("step %d: %v %v", i, files, err)
				}
			})
		}
		wg.Wait()
	})

	t.Run("daemon killed during a step", func(t *testing.T) {
		e.mu.Lock()
		daemon := e.link.lease.proc
		e.mu.Unlock()
		done := make(chan error, 1)
		go func() {
			_, err := run(ctx, e, Step{Name: "orphan", Base: base, Script: "sleep 7103"})
			done <- err
		}()
		eventually(t, "the step's process", func() bool { return running(t, "sleep 7103") > 0 })
		if err := syscall.Kill(daemon.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		err := <-done
		if fault.ClassOf(err) != fault.Environment || !strings.Contains(fmt.Sprint(err), "died during step") {
			t.Errorf("got %v, class %d", err, fault.ClassOf(err))
		}
		eventually(t, "the step's process to go with the daemon", func() bool { return running(t, "sleep 7103") == 0 })
		files, err := run(ctx, e, Step{Name: "after", Base: base, Script: "echo again > /out/x"})
		if err != nil || files["x"] != "again\n" {
			t.Fatalf("the next step: %v %v", files, err)
		}
	})

	if _, err := os.Stat(filepath.Join(state, temporary)); err != nil {
		t.Errorf("the daemon has no directory for mount points: %v", err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"[all of it]", "the reason", "cached: true"} {
		if !strings.Contains(shown.String(), want) {
			t.Errorf("the status lacks %q", want)
		}
	}
	if strings.Contains(shown.String(), "["+inputVertex) {
		t.Error("the brief status has the inputs")
	}
	for _, left := range []string{"buildkitd.sock", "daemon.json", temporary} {
		if _, err := os.Stat(filepath.Join(state, left)); err == nil {
			t.Errorf("%s is left behind", left)
		}
	}
	if n := running(t, state); n != 0 {
		t.Errorf("%d processes of the engine are left", n)
	}
}

// TestShared: engines with one state directory share a daemon, which lives as
// long as the last of them.
func TestShared(t *testing.T) {
	base, state := busyboxImage(t), t.TempDir()
	a, b := start(t, state), start(t, state)
	step := func(e *Engine, n int) {
		t.Helper()
		if _, err := run(t.Context(), e, Step{Name: "shared", Base: base, Script: fmt.Sprintf("echo %d > /out/x", n)}); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { step(a, 1) })
	wg.Go(func() { step(b, 2) })
	wg.Wait()
	if x, y := a.link.lease.proc, b.link.lease.proc; x != y {
		t.Errorf("two daemons: %v and %v", x, y)
	}
	proc := b.link.lease.proc
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	step(b, 3)
	if !proc.alive() {
		t.Error("the first to close stopped the daemon")
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if proc.alive() {
		t.Error("the last to close left the daemon running")
	}
}

// TestTakeover: what a crashed user leaves behind, a running daemon or the
// traces of a dead one, is no obstacle; and a unix:// address is the same
// daemon as a remote engine.
func TestTakeover(t *testing.T) {
	base, state := busyboxImage(t), t.TempDir()
	a := start(t, state)
	hello := Step{Name: "hello", Base: base, Script: "echo hello > /out/x"}
	if _, err := run(t.Context(), a, hello); err != nil {
		t.Fatal(err)
	}
	proc := a.link.lease.proc

	remote, err := Start(t.Context(), WithAddress("unix://"+a.link.lease.socket), WithStateDir(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	if files, err := run(t.Context(), remote, hello); err != nil || files["x"] != "hello\n" {
		t.Errorf("remote: %v %v", files, err)
	}
	if got := remote.Stats(); got != (Stats{Cached: 1}) {
		t.Errorf("remote stats %+v", got)
	}
	if err := remote.Close(); err != nil {
		t.Error(err)
	}

	crash(t, a)
	b := start(t, state)
	if _, err := run(t.Context(), b, hello); err != nil {
		t.Fatal(err)
	}
	if b.link.lease.proc != proc {
		t.Error("the running daemon was not taken over")
	}
	crash(t, b)
	if err := proc.stop(0); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"daemon.json":    fmt.Sprintf(`{"pid":%d,"start":%d,"config":""}`, os.Getpid(), 1), // somebody else's pid
		"buildkitd.sock": "",
	} {
		if err := os.RemoveAll(filepath.Join(state, name)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(state, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := start(t, state)
	if _, err := run(t.Context(), c, hello); err != nil {
		t.Fatal(err)
	}
	if got := c.Stats(); got != (Stats{Cached: 1}) {
		t.Errorf("the cache did not outlive the daemon: %+v", got)
	}
}

// crash makes an engine give up what a process that dies gives up: its
// connection and its lock, and nothing else.
func crash(t *testing.T, e *Engine) {
	t.Helper()
	if err := errors.Join(e.link.client.Close(), e.link.lease.users.Close()); err != nil {
		t.Fatal(err)
	}
	e.link = nil
}

// TestLongStateDir: a unix socket's path is at most 107 bytes long.
func TestLongStateDir(t *testing.T) {
	base := busyboxImage(t)
	e := start(t, filepath.Join(t.TempDir(), strings.Repeat("long", 30)))
	if _, err := run(t.Context(), e, Step{Name: "long", Base: base, Script: "true"}); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkTrivialStep is the engine's overhead on a step that does nothing.
func BenchmarkTrivialStep(b *testing.B) {
	base := busyboxImage(b)
	e := start(b, "")
	n := 0
	for _, bench := range []struct {
		name   string
		script func() string
	}{
		{"run", func() string { n++; return fmt.Sprintf("true %d", n) }},
		{"cached", func() string { return "true" }},
	} {
		if _, err := run(b.Context(), e, Step{Name: "warm-up", Base: base, Script: "true"}); err != nil {
			b.Fatal(err)
		}
		b.Run(bench.name, func(b *testing.B) {
			for b.Loop() {
				if _, err := run(b.Context(), e, Step{Name: "trivial", Base: base, Script: bench.script()}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

func sortedLines(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(environment(lines), "\n")
}
