package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/sovereign-build/sovereign/internal/android"
	"github.com/sovereign-build/sovereign/internal/daemontest"
	"github.com/sovereign-build/sovereign/internal/machine/machinetest"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/daemon"
)

// TestMain makes the test binary the sovereignd of another computer, or of a phone,
// over fake machines, where it stands there under that name.
func TestMain(m *testing.M) {
	becomeApp()
	named := filepath.Base(os.Args[0]) == "sovereignd"
	// A phone tries it under another name, before it takes its place.
	if len(os.Args) == 2 && (named && os.Args[1] != "--android" || os.Args[1] == "--version") {
		os.Exit(daemon.Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	daemontest.Main()
	if named && len(os.Args) > 1 && os.Args[1] == "--android" {
		os.Exit(phoneDaemon(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// phoneDaemon is the sovereignd of a phone, over fake machines.
func phoneDaemon(args []string) int {
	if len(args) != 3 || args[1] != "--state-dir" {
		return daemon.Main(context.Background(), args, os.Stdin, os.Stdout, os.Stderr)
	}
	k, err := android.NewKeeper(filepath.Dir(args[2]), func(string) {})
	if err == nil {
		err = daemontest.Run(context.Background(), args[2], daemon.Options{Guard: k, StopMachines: true})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return int(fault.ClassOf(err))
	}
	return 0
}

// fakeMachines has sovereignd over fake machines there, and one machine, sql,
// that is ready.
func fakeMachines(t testing.TB) *remote {
	t.Helper()
	r := newRemote(t, nil)
	self, err := os.ReadFile(daemontest.Program(t))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(r.home, installedProgram)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, self, 0o755); err != nil {
		t.Fatal(err)
	}
	chown(t, r.home)
	r.env = append(r.env, "SOVEREIGN_DEVICE=ssh:nas")
	t.Cleanup(func() {
		// It takes the machines and their sovereignd with it.
		r.link.breakAfter(0)
		if _, errs, code := r.call("device", "remove", "ssh:nas", "--data", "--yes"); code != 0 {
			t.Errorf("device remove: exit %d, %s", code, errs)
		}
		settled(t, r)
		if left := r.files(); len(left) > 0 {
			t.Errorf("left: %s", left)
		}
	})
	r.ok("up", r.bundle(t, "first"))
	return r
}

func (r *remote) bundle(t testing.TB, name string) string { return fakeBundle(t, name) }

// fakeBundle writes another bundle, of some 100 KiB.
func fakeBundle(t testing.TB, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	random := rand.New(rand.NewPCG(uint64(len(name)), uint64(name[len(name)-1])))
	root := make([]byte, 32<<10)
	for i := range root {
		root[i] = byte(random.Uint32())
	}
	machinetest.WriteBundle(t, dir, name+string(root), "fake=quick")
	return dir
}

func (r *remote) active(t testing.TB) string { return activeBundle(t, r.ok) }

// activeBundle is the digest of the bundle that the machine has, once nothing is
// under way; ok runs the command line.
func activeBundle(t testing.TB, ok func(...string) string) string {
	t.Helper()
	digest := ""
	waitFor(t, "the machine to be ready", func() bool {
		var got struct {
			Machines []struct {
				State       string
				Supervision struct {
					Active string
					Slots  map[string]struct{ Digest string }
					Trial  any
				}
			}
		}
		if err := json.Unmarshal([]byte(ok("status", "sql", "--json")), &got); err != nil {
			t.Fatal(err)
		}
		m := got.Machines[0]
		digest = m.Supervision.Slots[m.Supervision.Active].Digest
		return m.State == "ready" && m.Supervision.Trial == nil
	})
	return digest
}

// said holds the words of a command that a broken link has ended to what they
// are to be.
func (r *remote) said(t testing.TB, what string, n int64, want, code int, errs string) {
	t.Helper()
	words := lastLine(errs, "sovereign-build: ")
	if code != want || !strings.Contains(words, "ssh:nas: ") {
		t.Errorf("%s, cut after %d bytes: exit %d, %q", what, n, code, errs)
	}
}

// TestDeviceUpdate breaks the link at 50 random points of an update: the machine
// has the former bundle or the new one, and runs; done again, it has the new
// one.
func TestDeviceUpdate(t *testing.T) {
	if !needSSHD(t) {
		return
	}
	r := fakeMachines(t)
	r.link.breakAfter(0)
	r.ok("update", "sql", r.bundle(t, "second"))
	bytesOfAll, before := r.link.passed.Load(), r.active(t)
	broken, new := 0, 0
	for i, n := range points(t, 50, bytesOfAll) {
		dir := r.bundle(t, fmt.Sprintf("update-%d", i))
		r.link.breakAfter(n)
		out, errs, code := r.call("update", "sql", dir, "--json")
		r.link.breakAfter(0)
		if code != 0 {
			broken++
			var failure struct{ Error, Class string }
			if err := json.Unmarshal([]byte(out), &failure); err != nil || failure.Class != "device" || !strings.Contains(failure.Error, "ssh:nas: ") {
				t.Errorf("cut after %d bytes: %v, exit %d, %q, %q", n, err, code, out, errs)
			}
		}
		after := r.active(t)
		if after != before {
			new++ // it was begun, and goes on without the link
		} else if code == 0 {
			t.Errorf("cut after %d bytes: it says that all is well", n)
		}
		former := before
		r.ok("update", "sql", dir)
		if before = r.active(t); before == former {
			t.Errorf("cut after %d bytes: done again, it is not done", n)
		}
	}
	t.Logf("%d of 50 were broken, %d became the new bundle at once", broken, new)
	if broken < 25 {
		t.Errorf("only %d of 50 were broken", broken)
	}
}

// TestDeviceStreams breaks the link at 50 random points of an exec and of a log:
// what came is a part of what there is, and is not taken for the whole, on
// neither side.
func TestDeviceStreams(t *testing.T) {
	if !needSSHD(t) {
		return
	}
	r := fakeMachines(t)
	in := strings.Repeat("0123456789abcde\n", 16<<10)
	r.link.breakAfter(0)
	if out, errs, code := r.with(in, "exec", "sql", "-i", "--", "cat"); code != 0 || out != in {
		t.Fatalf("exit %d, %d of %d bytes, %s", code, len(out), len(in), errs)
	}
	broken := 0
	for _, n := range points(t, 50, r.link.passed.Load()) {
		r.link.breakAfter(n)
		out, errs, code := r.with(in, "exec", "sql", "-i", "--", "cat")
		r.link.breakAfter(0)
		if code == 0 && out == in {
			continue
		}
		broken++
		r.said(t, "exec", n, 125, code, errs)
		if !strings.HasPrefix(in, out) {
			t.Errorf("exec, cut after %d bytes: %d other bytes came", n, len(out))
		}
	}
	if broken < 25 {
		t.Errorf("only %d of 50 execs were broken", broken)
	}
	// What the guest's programs took for all of it was that.
	text, err := os.ReadFile(filepath.Join(r.home, ".local/state/sovereign/instances/sql", machinetest.CatFile))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if size, ok := strings.CutSuffix(strings.TrimSpace(line), " true"); ok && size != strconv.Itoa(len(in)) {
			t.Errorf("a program read %s bytes and took them for all", size)
		}
	}

	for _, n := range points(t, 50, 300<<10) {
		r.link.breakAfter(n)
		out, errs, code := r.call("logs", "sql", "init", "--follow")
		r.link.breakAfter(0)
		r.said(t, "logs", n, 8, code, errs)
		for i, line := range bytes.Split([]byte(strings.TrimSuffix(out, "\n")), []byte("\n")) {
			if out != "" && string(line) != fmt.Sprintf("line %d", i) {
				t.Fatalf("logs, cut after %d bytes: line %d is %q", n, i, line)
			}
		}
	}
	settledButDaemon(t, r)
}

// started is a command that goes on until Ctrl-C.
type started struct {
	*exec.Cmd
	lines *bufio.Scanner
	errs  bytes.Buffer
}

// start starts one in a process group of its own, as a shell does.
func (r *remote) start(t testing.TB, args ...string) *started {
	t.Helper()
	s := &started{Cmd: exec.Command("../bin/sovereign-build", args...)}
	s.Env, s.Stderr, s.SysProcAttr = r.env, &s.errs, &syscall.SysProcAttr{Setpgid: true}
	out, err := s.StdoutPipe()
	if err == nil {
		err = s.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	s.lines = bufio.NewScanner(out)
	return s
}

// interrupt is Ctrl-C: every process of the group gets it, ssh too.
func (s *started) interrupt(t testing.TB) int {
	t.Helper()
	if err := syscall.Kill(-s.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	for s.lines.Scan() {
	}
	s.Wait() //nolint:errcheck // its code tells
	return s.ProcessState.ExitCode()
}

// TestDeviceInterrupt ends commands by Ctrl-C: each has its last words with the
// device, and ends with its own code.
func TestDeviceInterrupt(t *testing.T) {
	if !needSSHD(t) {
		return
	}
	r := fakeMachines(t)
	logs := r.start(t, "logs", "sql", "init", "--follow")
	if !logs.lines.Scan() || logs.lines.Text() != "line 0" {
		t.Errorf("%q, %s", logs.lines.Text(), logs.errs.String())
	}
	if code := logs.interrupt(t); code != 0 || logs.errs.Len() > 0 {
		t.Errorf("logs: exit %d, %s", code, logs.errs.String())
	}

	forward := r.start(t, "forward", "sql", "5432", "--json")
	var at struct{ Address string }
	if !forward.lines.Scan() || json.Unmarshal(forward.lines.Bytes(), &at) != nil {
		t.Fatalf("%q, %s", forward.lines.Text(), forward.errs.String())
	}
	conn, err := net.Dial("tcp", at.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "SELECT 1"); err != nil {
		t.Error(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "SELECT 1" {
		t.Errorf("%q, %v", got, err)
	}
	if code := forward.interrupt(t); code != 0 || forward.errs.Len() > 0 {
		t.Errorf("forward: exit %d, %s", code, forward.errs.String())
	}

	// In the foreground, its last words are the stop of the machine.
	run := r.start(t, "run", r.bundle(t, "first"), "--json")
	if !run.lines.Scan() {
		t.Fatal(run.errs.String())
	}
	if code := run.interrupt(t); code != 0 || !strings.Contains(run.errs.String(), "sql is stopped, after ") {
		t.Errorf("run: exit %d, %s", code, run.errs.String())
	}
	if out := r.ok("status", "sql", "--json"); !strings.Contains(out, `"state":"stopped"`) {
		t.Error(out)
	}
	settledButDaemon(t, r)
}

// settledButDaemon waits until no conversation is carried there any more.
func settledButDaemon(t testing.TB, r *remote) {
	t.Helper()
	waitFor(t, "the conversations to end", func() bool {
		for _, line := range processesOf(t, deviceUID) {
			if strings.Contains(line, " connect") || strings.HasPrefix(line, "sshd") {
				return false
			}
		}
		return true
	})
}

// BenchmarkDevice is status of a machine on another computer, against the way
// there alone.
func BenchmarkDevice(b *testing.B) {
	if !needSSHD(b) {
		return
	}
	r := fakeMachines(b)
	b.Run("ssh alone", func(b *testing.B) {
		for b.Loop() {
			cmd := exec.Command(r.ssh, "-T", "-o", "RemoteCommand=none", "-o", "ClearAllForwardings=yes", "nas", "true")
			cmd.Env = r.env
			if out, err := cmd.CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
		}
	})
	b.Run("status", func(b *testing.B) {
		for b.Loop() {
			r.ok("status", "sql")
		}
	})
}

// TestDeviceDeploy deploys to a computer that has nothing, over a link that
// breaks at 50 random points: what is there is whole at every time, the same
// command done again finishes what was begun, and little of it travels twice.
func TestDeviceDeploy(t *testing.T) {
	if !needSSHD(t) {
		return
	}
	r := newRemote(t, nil)
	r.overFakes(t)
	t.Cleanup(func() {
		r.link.breakAfter(0)
		if _, errs, code := r.call("device", "remove", "ssh:nas", "--data", "--yes"); code != 0 {
			t.Errorf("device remove: exit %d, %s", code, errs)
		}
		settled(t, r)
		if left := r.files(); len(left) > 0 {
			t.Errorf("left: %s", left)
		}
	})
	first := r.bundle(t, "first")
	var plan struct {
		Sovereignd, Kind string
		Transfer         struct{ Bytes, Size int64 }
	}
	if err := json.Unmarshal([]byte(r.ok("deploy", first, "--dry-run", "--json")), &plan); err != nil {
		t.Fatal(err)
	}
	if plan.Sovereignd != "installed" || plan.Kind != "install" || plan.Transfer.Bytes != plan.Transfer.Size || len(r.files()) > 0 {
		t.Errorf("%+v, and there is %s", plan, r.files())
	}
	r.link.breakAfter(0)
	if out := r.ok("deploy", first, "--json"); !strings.Contains(out, `"sovereignd":"installed"`) || !strings.Contains(out, `"result":"installed"`) {
		t.Error(out)
	}
	all := r.link.passed.Load()
	if out := r.ok("deploy", first, "--json"); !strings.Contains(out, `"sovereignd":"kept"`) || !strings.Contains(out, `"result":"unchanged"`) {
		t.Error(out)
	}
	r.link.breakAfter(0)
	r.ok("deploy", r.bundle(t, "second"))
	all = min(all, r.link.passed.Load())
	broken := 0
	for i, n := range points(t, 50, all) {
		dir := r.bundle(t, fmt.Sprintf("deploy-%d", i))
		before := r.active(t)
		r.link.breakAfter(n)
		out, errs, code := r.call("deploy", dir, "--json")
		r.link.breakAfter(0)
		if code != 0 {
			broken++
			if !strings.Contains(out, "ssh:nas") || code != 8 {
				t.Errorf("cut after %d bytes: exit %d, %q, %q", n, code, out, errs)
			}
		}
		want, err := bundle.Digest(dir)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.active(t); got != before && got != want {
			t.Errorf("cut after %d bytes: %s runs", n, got)
		}
		r.ok("deploy", dir)
		if got := r.active(t); got != want {
			t.Errorf("cut after %d bytes, and done again: %s runs, and not %s", n, got, want)
		}
	}
	t.Logf("%d of 50 were broken", broken)
	if broken < 25 {
		t.Errorf("only %d of 50 were broken", broken)
	}
}
