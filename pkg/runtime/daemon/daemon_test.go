package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/daemontest"
	"github.com/sovereign-build/sovereign/internal/machine/machinetest"
	"github.com/sovereign-build/sovereign/internal/sovereignd"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/control"
	"github.com/sovereign-build/sovereign/pkg/runtime/daemon"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "stranger" {
		stranger(os.Args[2])
	}
	daemontest.Main()
	os.Exit(m.Run())
}

// run keeps the machines of a directory in this process, until the test ends.
func run(t testing.TB, dir string, o daemon.Options) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended, ready := make(chan error, 1), make(chan struct{})
	o.Ready = func() { close(ready) }
	go func() { ended <- daemontest.Run(ctx, dir, o) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case err := <-ended:
		ended <- nil
		t.Fatal("it ended: ", err)
	case <-ready:
	}
}

// A program keeps its machines itself: no other process is needed.
func TestEmbedded(t *testing.T) {
	dir := daemontest.StateDir(t)
	run(t, dir, daemon.Options{StopMachines: true, Version: "v-test"})
	h, err := runtime.Local(dir, runtime.WithProgram("/nowhere"))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	info, err := h.Info(t.Context())
	if err != nil || info.PID != os.Getpid() || info.Version != "v-test" {
		t.Fatalf("%+v, %v", info, err)
	}
	bundle := filepath.Join(t.TempDir(), "sql")
	machinetest.WriteBundle(t, bundle, "one", "fake=quick")
	m, err := h.Install(t.Context(), bundle, "db", runtime.UpOptions{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := m.WaitReady(t.Context(), nil); err != nil || s.Name != "db" {
		t.Errorf("%+v, %v", s, err)
	}
}

// The socket is for this user alone, and another one is refused even where the
// file system lets it in.
func TestStrangers(t *testing.T) {
	dir := daemontest.StateDir(t)
	refused := make(chan string, 10)
	run(t, dir, daemon.Options{Report: func(name, text string) {
		if strings.Contains(text, "is refused") {
			refused <- text
		}
	}})
	socket := filepath.Join(dir, sovereignd.Socket)
	info, err := os.Stat(socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if os.Geteuid() != 0 {
		t.Skip("another user needs root")
	}
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}
	for at := dir; at != "/"; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err == nil && info.Mode().Perm()&0o011 != 0o011 {
			err = os.Chmod(at, info.Mode().Perm()|0o011)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("/proc/self/exe", "stranger", socket)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Skipf("another user cannot be here: %v: %s", err, out)
	}
	if string(out) != "closed without a word" {
		t.Errorf("the stranger: %s", out)
	}
	if text := <-refused; !strings.Contains(text, "of user 65534 is refused") {
		t.Errorf("told: %s", text)
	}
}

// stranger is another user's program.
func stranger(socket string) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		fmt.Print(err)
		os.Exit(1)
	}
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		fmt.Print(err)
		os.Exit(1)
	}
	text, err := io.ReadAll(conn)
	if len(text) == 0 && (err == nil || errors.Is(err, unix.ECONNRESET)) {
		fmt.Print("closed without a word")
	} else {
		fmt.Printf("got %q, %v", text, err)
	}
	os.Exit(0)
}

// A second one of the same directory, and a directory that others may write to.
func TestRunRefuses(t *testing.T) {
	dir := daemontest.StateDir(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := daemontest.Run(t.Context(), dir, daemon.Options{}); fault.ClassOf(err) != fault.Environment || !strings.Contains(err.Error(), "others may write") {
		t.Errorf("got %v", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	run(t, dir, daemon.Options{})
	if err := daemontest.Run(t.Context(), dir, daemon.Options{}); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "another sovereignd") {
		t.Errorf("a second one: %v", err)
	}
}

// A disk with too little room for a bundle, at first or beside another: nothing
// of it stays, and the words say whose disk.
func TestFullDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=96m,mode=0700"); err != nil {
		t.Skip("a file system of its own needs root:", err)
	}
	t.Cleanup(func() {
		daemontest.KillMachines(t, dir)
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	run(t, dir, daemon.Options{})
	h := runtime.Over(func(ctx context.Context) (net.Conn, error) { return sovereignd.Connect(ctx, dir) }, runtime.WithName("far"))
	defer h.Close()
	bundle := filepath.Join(t.TempDir(), "sql")
	machinetest.WriteBundle(t, bundle, strings.Repeat("x", 20<<20), "fake=quick") // three of them
	_, err := h.Install(t.Context(), bundle, "", runtime.UpOptions{}, nil)
	if fault.ClassOf(err) != fault.Environment || !strings.Contains(err.Error(), "far: there is no room for the bundle: ") || fault.HintOf(err) == "" {
		t.Errorf("too little before: %v", err)
	}
	if all, err := h.Machines(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
	// With room for it, and then none.
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=192m"); err != nil {
		t.Fatal(err)
	}
	m, err := h.Install(t.Context(), bundle, "", runtime.UpOptions{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.WaitReady(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	machinetest.WriteBundle(t, bundle+"-2", strings.Repeat("y", 25<<20), "fake=quick")
	_, err = m.Update(t.Context(), bundle+"-2", 0, nil)
	if fault.ClassOf(err) != fault.Environment || !strings.Contains(err.Error(), "no room for the bundle") {
		t.Errorf("an update: %v", err)
	}
	s, err := m.Status(t.Context())
	if err != nil || s.State != runtime.Running || s.Supervision.Trial != nil || !s.Guest.Healthy() {
		t.Errorf("%+v, %v", s, err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "instances", "sql", "slots"))
	if err != nil || len(entries) != 1 {
		t.Errorf("slots: %v, %v", entries, err)
	}
	if parts, err := filepath.Glob(filepath.Join(dir, "blobs", "*.part")); len(parts) != 0 || err != nil {
		t.Errorf("parts: %v, %v", parts, err)
	}
}

// What is wrong with a request is said, with its class, and changes nothing.
func TestBadRequests(t *testing.T) {
	dir := daemontest.StateDir(t)
	run(t, dir, daemon.Options{})
	conn, err := sovereignd.Connect(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	s, err := control.Dial(t.Context(), conn, control.NewHello(""))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, c := range []struct {
		method, path string
		in           any
		want         string
	}{
		{"GET", "/v1/machines/none", nil, "there is no "},
		{"GET", "/v1/machines/..%2f..%2fetc", nil, "not an instance's name"},
		{"GET", "/v1/machines/none?guest=perhaps", nil, "want true or false"},
		{"DELETE", "/v1/machines/none?data=perhaps", nil, "want true or false"},
		{"POST", "/v1/machines/none/down", map[string]int{"grace_ms": -1}, "not a time from 0 to a day"},
		{"POST", "/v1/machines/none/down", map[string]int{"grace": 1}, "unknown field"},
		{"POST", "/v1/machines/none/update", map[string]int{"limit_ms": 1}, "has a bundle"},
		{"POST", "/v1/machines/none/update", map[string]any{"bundle": map[string]string{"digest": "sha256:x"}}, "there is no "},
		{"POST", "/v1/machines/none/rollback", map[string]any{"bundle": map[string]string{"digest": "x"}}, "no bundle of its own"},
		{"PUT", "/v1/machines/none", map[string]any{"bundle": map[string]string{"digest": "../../etc/passwd"}, "options": map[string]int{}}, "64 hex digits"},
		{"PUT", "/v1/machines/none", map[string]any{"bundle": map[string]string{"digest": "sha256:" + strings.Repeat("0", 64)}, "options": map[string]int{}}, "was not sent"},
		{"POST", "/v1/machines/none/up", map[string]any{"ports": map[string]int{"x": 1}}, "the request"},
	} {
		err := s.Call(t.Context(), c.method, c.path, c.in, nil)
		if fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: %v, want %q", c.method, c.path, err, c.want)
		}
	}
	if err := s.Call(t.Context(), http.MethodGet, "/v2/everything", nil, nil); !errors.Is(err, control.ErrAbsent) {
		t.Errorf("got %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			t.Errorf("left: %s", e.Name())
		}
	}
}

// The program, as a shell runs it.
func TestMainUsage(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--version"}, 0, "sovereignd "},
		{[]string{"--help"}, 0, "join standard input"},
		{[]string{"--no-such-flag"}, 2, "not defined"},
		{[]string{"run"}, 2, `"run" is not a flag`},
		{[]string{"--state-dir", "/dev/null/x", "connect"}, 3, "the state directory"},
	} {
		var out strings.Builder
		if code := daemon.Main(t.Context(), c.args, strings.NewReader(""), &out, &out); code != c.code || !strings.Contains(out.String(), c.want) {
			t.Errorf("%q: %d, %s", c.args, code, out.String())
		}
	}
}

// sovereignd ends while it is connected: whoever reads events is told by the
// end, and a machine runs on.
func TestEnds(t *testing.T) {
	dir := daemontest.StateDir(t)
	cmd := exec.Command("/proc/self/exe", "--state-dir", dir)
	log, err := os.Create(filepath.Join(dir, sovereignd.LogFile))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for ok := false; !ok; {
		_, ok = daemontest.Daemon(t, dir)
	}
	h, err := runtime.Local(dir, runtime.WithProgram(daemontest.Program(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	bundle := filepath.Join(t.TempDir(), "sql")
	machinetest.WriteBundle(t, bundle, "one", "fake=quick")
	m, err := h.Install(t.Context(), bundle, "", runtime.UpOptions{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := m.WaitReady(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	pids := map[int]bool{}
	enough := errors.New("enough")
	seen := 0
	err = m.Watch(t.Context(), func(e runtime.Event) error {
		if e.Status == nil {
			return nil
		}
		if pids[e.Status.PID] = true; seen == 0 {
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				return err
			}
			if err := cmd.Wait(); err != nil {
				return err
			}
		}
		// What the first sovereignd had said may still be on its way.
		next, ok := daemontest.Daemon(t, dir)
		if seen++; seen > 1 && e.Status.Guest != nil && ok && next.PID != cmd.Process.Pid {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || len(pids) != 1 || !pids[s.PID] {
		t.Errorf("%v, the machine was %v", err, pids)
	}
	if p, ok := daemontest.Daemon(t, dir); !ok || p.PID == cmd.Process.Pid {
		t.Errorf("sovereignd is %+v", p)
	}
}
