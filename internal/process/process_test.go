package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func TestProcessLifetime(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip("no sleep(1)")
	}
	dir := t.TempDir()
	p, err := Start(Command{Path: sleep, Args: []string{"600"}, Dir: dir, Log: filepath.Join(dir, "log")})
	if err != nil {
		t.Fatal(err)
	}
	alive := func(p Process) bool {
		ok, err := p.Alive()
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	if !alive(p) {
		t.Error("not alive after its start")
	}
	if sid, err := syscall.Getpgid(p.PID); err != nil || sid != p.PID {
		t.Errorf("not in a session of its own: %d, %v", sid, err)
	}
	older, rebooted := p, p
	older.Start--
	rebooted.Boot = "another"
	for _, other := range []Process{older, rebooted, {}} {
		if alive(other) {
			t.Errorf("%+v is taken for %+v", other, p)
		}
		if other.PID == 0 {
			continue
		}
		if err := other.Signal(os.Kill); err != nil {
			t.Error(err)
		}
	}
	if !alive(p) {
		t.Fatal("a signal to a former owner of the number reached it")
	}
	if err := p.Signal(os.Kill); err != nil {
		t.Fatal(err)
	}
	until(t, "death", func() bool { return !alive(p) })
	if err := p.Signal(os.Kill); err != nil {
		t.Errorf("signal to the dead: %v", err)
	}
}

func TestListenerThroughALongPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	if _, ok, err := Listener(t.Context(), socket); ok || err != nil {
		t.Errorf("nothing there: %v, %v", ok, err)
	}
	t.Chdir(dir)
	l, err := net.Listen("unix", "s")
	if err != nil {
		t.Fatal(err)
	}
	p, ok, err := Listener(t.Context(), socket)
	if err != nil || !ok || p.PID != os.Getpid() {
		t.Errorf("got %+v, %v, %v", p, ok, err)
	}
	if alive, err := p.Alive(); err != nil || !alive {
		t.Errorf("the listener is not alive: %v", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if _, ok, err := Listener(t.Context(), socket); ok || err != nil {
		t.Errorf("a socket nobody listens on: %v, %v", ok, err)
	}
}

func TestPortFree(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	if _, err := PortFree(t.Context(), port); fault.ClassOf(err) != fault.Environment ||
		!strings.Contains(err.Error(), strconv.Itoa(port)) || fault.HintOf(err) == "" {
		t.Errorf("taken port: %v", err)
	}
	if got, err := PortFree(t.Context(), 0); err != nil || got == 0 || got == port {
		t.Errorf("any port: %d, %v", got, err)
	}
}

func TestStartErrors(t *testing.T) {
	dir := t.TempDir()
	_, err := Start(Command{Path: filepath.Join(dir, "nothing"), Log: filepath.Join(dir, "log")})
	if !errors.Is(err, os.ErrNotExist) || fault.ClassOf(err) != fault.Environment {
		t.Errorf("got %v", err)
	}
}

// A lock is the started process's as long as it lives, and nobody else's
// afterwards; looking at it does not take it.
func TestLock(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip("no sleep(1)")
	}
	dir := t.TempDir()
	c := Command{Path: sleep, Args: []string{"600"}, Dir: dir, Log: filepath.Join(dir, "log"), Lock: filepath.Join(dir, "lock")}
	locked := func() bool {
		ok, err := Locked(c.Lock)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	if locked() {
		t.Error("locked before the file is there")
	}
	for range 2 {
		p, err := Start(c)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if !locked() {
				t.Error("not locked while the process runs")
			}
		}
		if _, err := Start(c); fault.ClassOf(err) != fault.Environment || !strings.Contains(err.Error(), "runs already") {
			t.Errorf("a second process: %v", err)
		}
		if err := p.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		until(t, "unlocked", func() bool { return !locked() })
	}
}

// A program in the background gets its files, and of the environment what it
// needs and nothing else.
func TestStartHandsOver(t *testing.T) {
	t.Setenv("PGPASSWORD", "secret")
	t.Setenv("LD_LIBRARY_PATH", "/opt/lib")
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Remove(path); err != nil { // by descriptor, not by name
		t.Fatal(err)
	}
	log := filepath.Join(dir, "log")
	script := fmt.Sprintf("cat /proc/self/fd/%d; echo; tr '\\0' '\\n' </proc/$$/environ; exec sleep 600", FirstFile)
	p, err := Start(Command{Path: "/bin/sh", Args: []string{"-c", script}, Dir: dir, Log: log,
		Env: []string{"LIBS=/data/lib"}, Lock: filepath.Join(dir, "lock"), Files: []*os.File{f}, OOMScoreAdj: 321})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Signal(os.Kill); err != nil {
			t.Error(err)
		}
	}()
	score, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", p.PID))
	if err != nil || string(score) != "321\n" {
		t.Errorf("oom_score_adj is %q, %v", score, err)
	}
	want := "content\nPATH=" + os.Getenv("PATH") + "\nLD_LIBRARY_PATH=/opt/lib\nLIBS=/data/lib\n"
	for end := time.Now().Add(time.Minute); ; <-time.After(5 * time.Millisecond) {
		got, err := os.ReadFile(log)
		if err == nil && string(got) == want {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("got %q, want %q, %v", got, want, err)
		}
	}
}

// Wait ends with the very process, child or not, and with its context.
func TestWait(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	// The shell is its parent, not this program.
	if _, err := Start(Command{Path: "/bin/sh", Args: []string{"-c", "sleep 600 & echo $!; wait"}, Dir: dir, Log: log}); err != nil {
		t.Fatal(err)
	}
	var pid int
	until(t, "the number of the sleeper", func() bool {
		b, err := os.ReadFile(log)
		if err != nil || !strings.HasSuffix(string(b), "\n") {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
		return err == nil
	})
	p, ok, err := running(pid)
	if err != nil || !ok {
		t.Fatalf("process %d: %v, %v", pid, ok, err)
	}
	defer func() {
		if err := p.Signal(os.Kill); err != nil {
			t.Error(err)
		}
	}()
	other, rebooted := p, p
	other.Start++
	rebooted.Boot = "another"
	for _, gone := range []Process{{}, {PID: 1 << 22, Start: 1, Boot: p.Boot}, other, rebooted} {
		if err := gone.Wait(t.Context()); err != nil {
			t.Errorf("waiting for %+v, which does not run: %v", gone, err)
		}
	}
	impatient := errors.New("impatient")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(impatient)
	if err := p.Wait(ctx); !errors.Is(err, impatient) {
		t.Errorf("with a context that has ended: %v", err)
	}
	ctx, cancel = context.WithCancelCause(t.Context())
	ended := make(chan error, 2)
	for _, c := range []context.Context{ctx, t.Context()} {
		go func() { ended <- p.Wait(c) }()
	}
	cancel(impatient)
	if err := <-ended; !errors.Is(err, impatient) {
		t.Errorf("with a context that ends: %v", err)
	}
	select {
	case err := <-ended:
		t.Fatalf("the process runs, and waiting for it has ended: %v", err)
	default:
	}
	if err := p.Signal(os.Kill); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if alive, err := p.Alive(); alive || err != nil {
		t.Errorf("after Wait: alive %v, %v", alive, err)
	}
}

// Sockets without files: both ends by the path, and nobody where nothing is.
func TestAbstractSockets(t *testing.T) {
	abstract.Store(true)
	t.Cleanup(func() { abstract.Store(false) })
	path := filepath.Join(t.TempDir(), "a.sock")
	if _, err := Dial(t.Context(), path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before there is one: %v", err)
	}
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", info, err)
	}
	conn, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if p, ok, err := Listener(t.Context(), path); err != nil || !ok || p.PID != os.Getpid() {
		t.Errorf("who listens: %+v, %t, %v", p, ok, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := Listener(t.Context(), path); ok || err != nil {
		t.Errorf("after its end: %t, %v", ok, err)
	}
	again, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	if _, err := Listen("/" + strings.Repeat("x", maxAbstract)); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("a long path: %v", err)
	}
}

// The process that was started with a lock, though its children have it too; and
// its two outputs.
func TestHolder(t *testing.T) {
	dir := t.TempDir()
	lock := filepath.Join(dir, "lock")
	if _, ok, err := Holder(lock); ok || err != nil {
		t.Fatalf("before: %t, %v", ok, err)
	}
	p, err := Start(Command{Path: "/bin/sh", Args: []string{"-c", "sleep 60 & echo out; echo err >&2; wait"}, Dir: dir,
		Log: filepath.Join(dir, "log"), Output: filepath.Join(dir, "output"), Lock: lock})
	if err != nil {
		t.Fatal(err)
	}
	child := func() bool {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.PID, p.PID))
		text, _ := os.ReadFile(filepath.Join(dir, "log"))
		return err == nil && len(children) > 0 && string(text) == "err\n"
	}
	for limit := time.Now().Add(10 * time.Second); !child(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("it does not start")
		}
	}
	if got, ok, err := Holder(lock); err != nil || !ok || got != p {
		t.Errorf("%+v, %t, %v; want %+v", got, ok, err, p)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "output")); err != nil || string(text) != "out\n" {
		t.Errorf("%q, %v", text, err)
	}
	if err := syscall.Kill(-p.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
}
