package local

import (
	"context"
	"errors"
	"fmt"
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
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

func TestProcessLifetime(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip("no sleep(1)")
	}
	var d Device
	dir := t.TempDir()
	p, err := d.Start(t.Context(), vm.Command{Path: sleep, Args: []string{"600"}, Dir: dir, Log: filepath.Join(dir, "log")})
	if err != nil {
		t.Fatal(err)
	}
	alive := func(p vm.Process) bool {
		ok, err := d.Alive(t.Context(), p)
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
	for _, other := range []vm.Process{older, rebooted, {}} {
		if alive(other) {
			t.Errorf("%+v is taken for %+v", other, p)
		}
		if other.PID == 0 {
			continue
		}
		if err := d.Signal(t.Context(), other, os.Kill); err != nil {
			t.Error(err)
		}
	}
	if !alive(p) {
		t.Fatal("a signal to a former owner of the number reached it")
	}
	if err := d.Signal(t.Context(), p, os.Kill); err != nil {
		t.Fatal(err)
	}
	until(t, "death", func() bool { return !alive(p) })
	if err := d.Signal(t.Context(), p, os.Kill); err != nil {
		t.Errorf("signal to the dead: %v", err)
	}
}

func TestListenerThroughALongPath(t *testing.T) {
	var d Device
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	if _, ok, err := d.Listener(t.Context(), socket); ok || err != nil {
		t.Errorf("nothing there: %v, %v", ok, err)
	}
	t.Chdir(dir)
	l, err := net.Listen("unix", "s")
	if err != nil {
		t.Fatal(err)
	}
	p, ok, err := d.Listener(t.Context(), socket)
	if err != nil || !ok || p.PID != os.Getpid() {
		t.Errorf("got %+v, %v, %v", p, ok, err)
	}
	if alive, err := d.Alive(t.Context(), p); err != nil || !alive {
		t.Errorf("the listener is not alive: %v", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if _, ok, err := d.Listener(t.Context(), socket); ok || err != nil {
		t.Errorf("a socket nobody listens on: %v, %v", ok, err)
	}
}

func TestPortFree(t *testing.T) {
	var d Device
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	if _, err := d.PortFree(t.Context(), port); fault.ClassOf(err) != fault.Environment ||
		!strings.Contains(err.Error(), strconv.Itoa(port)) || fault.HintOf(err) == "" {
		t.Errorf("taken port: %v", err)
	}
	if got, err := d.PortFree(t.Context(), 0); err != nil || got == 0 || got == port {
		t.Errorf("any port: %d, %v", got, err)
	}
}

func TestStartErrors(t *testing.T) {
	var d Device
	dir := t.TempDir()
	_, err := d.Start(t.Context(), vm.Command{Path: filepath.Join(dir, "nothing"), Log: filepath.Join(dir, "log")})
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
	var d Device
	dir := t.TempDir()
	c := vm.Command{Path: sleep, Args: []string{"600"}, Dir: dir, Log: filepath.Join(dir, "log"), Lock: filepath.Join(dir, "lock")}
	locked := func() bool {
		ok, err := d.Locked(t.Context(), c.Lock)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	if locked() {
		t.Error("locked before the file is there")
	}
	for range 2 {
		p, err := d.Start(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if !locked() {
				t.Error("not locked while the process runs")
			}
		}
		if _, err := d.Start(t.Context(), c); fault.ClassOf(err) != fault.Environment || !strings.Contains(err.Error(), "runs already") {
			t.Errorf("a second process: %v", err)
		}
		if err := d.Signal(t.Context(), p, syscall.SIGKILL); err != nil {
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
	script := fmt.Sprintf("cat /proc/self/fd/%d; echo; tr '\\0' '\\n' </proc/$$/environ; exec sleep 600", vm.FirstFile)
	p, err := Device{}.Start(t.Context(), vm.Command{Path: "/bin/sh", Args: []string{"-c", script}, Dir: dir, Log: log,
		Lock: filepath.Join(dir, "lock"), Files: []*os.File{f}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := (Device{}).Signal(context.Background(), p, os.Kill); err != nil {
			t.Error(err)
		}
	}()
	want := "content\nPATH=" + os.Getenv("PATH") + "\nLD_LIBRARY_PATH=/opt/lib\n"
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
