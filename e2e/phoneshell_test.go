package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/internal/testphone"
)

// unrooted makes a phone that is not rooted, whose own service runs machines, and
// the command line's way to it.
func unrooted(t *testing.T) (*adbPhone, *testphone.Vsock) {
	t.Helper()
	programs := testphone.Need(t)
	const sockets = "/dev/vsock-of-guests"
	settings := filepath.Join(t.TempDir(), "crosvm.json")
	if err := os.WriteFile(settings, []byte(fmt.Sprintf(`{"profile":"a16","vsock_dir":%q}`, sockets)), 0o644); err != nil {
		t.Fatal(err)
	}
	p := newADBPhone(t, func(o *testphone.Options) {
		o.Config.Su = ""
		o.Programs = map[string]string{
			virtPrograms + "vm": filepath.Join(programs, "vm"), virtPrograms + "crosvm": filepath.Join(programs, "crosvm"), virtPrograms + "crosvm.json": settings,
		}
	})
	// The service's machines are the shell's here.
	if err := os.Mkdir(p.Root()+sockets, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(p.Root()+sockets, 0o777); err != nil {
		t.Fatal(err)
	}
	v, err := testphone.StartVsock(p.adb, sockets)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	p.env = append(p.env, fmt.Sprintf("ANDROID_ADB_SERVER_PORT=%d", v.Port))
	return p, v
}

const shellProgram = "local/tmp/sovereign/sovereignd"

// TestPhoneShellInstall puts sovereignd on a phone without root, where nothing of
// ours is root's, nothing starts with the phone, and all ends with adbd; and takes
// it away without a trace.
func TestPhoneShellInstall(t *testing.T) {
	testphone.Need(t)
	p, _ := unrooted(t)
	before := p.seen()
	if _, errs, code := p.call("device", "status", p.name); code != 3 || !strings.Contains(errs, "device install") {
		t.Errorf("without a sovereignd: exit %d, %q", code, errs)
	}
	if out := p.ok("device", "list"); !strings.Contains(out, "not rooted: machines run by Android's own service") {
		t.Errorf("%q", out)
	}
	out := p.ok("device", "install", p.name)
	if !strings.Contains(out, "/data/"+shellProgram) || !strings.Contains(out, "end with adbd") {
		t.Errorf("%q", out)
	}
	info, err := os.Lstat(filepath.Join(p.Data(), shellProgram))
	if err != nil || info.Mode() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := os.Lstat(filepath.Join(p.Data(), "adb/sovereign")); err == nil {
		t.Error("there is something of root's")
	}
	if out := p.ok("device", "status", p.name); !regexp.MustCompile(`(?m)^  machines +0, in /data/local/tmp/sovereign/state$`).MatchString(out) {
		t.Errorf("%q", out)
	}
	if out, _, _ := p.call("doctor", "--device", p.name); !strings.Contains(out, "is not rooted: machines run by Android's own service") {
		t.Errorf("%q", out)
	}
	p.ok("device", "remove", p.name, "--yes")
	waitFor(t, "the end of all", func() bool { return len(p.pids("sovereignd")) == 0 })
	if d := differs(before, p.seen()); d != "" {
		t.Errorf("what is left:\n%s", d)
	}
}

// TestPhoneShell runs a machine on a phone without root, by the stand-in of
// Android's vm: it says before what that is worth; its services, agent and network
// go by way of this computer while a command is connected; it ends with adbd, and is
// there again with its data when somebody asks; and it leaves nothing.
func TestPhoneShell(t *testing.T) {
	testphone.Need(t)
	dist := os.Getenv("SOVEREIGN_E2E")
	if dist == "" {
		t.Skip("SOVEREIGN_E2E names no bundle")
	}
	p, v := unrooted(t)
	before := p.seen()
	p.ok("device", "install", p.name)
	begin := time.Now()
	out, errs, code := p.call("up", dist, "--timeout", "20m", "--device", p.name)
	if code != 0 {
		console, _ := os.ReadFile(filepath.Join(p.Data(), "local/tmp/sovereign/state/instances/sql/console.log"))
		t.Fatalf("up: exit code %d: %s%s\n%s", code, out, errs, console)
	}
	t.Logf("up by Android's vm after %.0f s", time.Since(begin).Seconds())
	if said := strings.Index(errs, "is not rooted: the machine ends with adbd"); said < 0 {
		t.Errorf("it is not said before: %s", errs)
	}
	opened := v.Opened()
	if !slices.ContainsFunc(opened, func(s string) bool { return strings.HasSuffix(s, ":1024") }) ||
		!slices.ContainsFunc(opened, func(s string) bool { return strings.HasSuffix(s, ":1025") }) {
		t.Errorf("by adbd went %v", opened)
	}
	for _, pid := range p.pids(virtPrograms + "vm") {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil || !strings.Contains(string(status), "\nUid:\t2000\t2000\t2000\t2000\n") {
			t.Errorf("vm runs as another: %v, %s", err, status)
		}
	}
	ask := func(query string) string {
		t.Helper()
		return strings.TrimSpace(p.ok("psql", "sql", "--device", p.name, "--", "-qtAc", query))
	}
	ask("create table t (n int); insert into t values (42)")
	if got := ask("select n from t"); got != "42" {
		t.Errorf("%q", got)
	}
	// adbd ends, and with it all of it, as a power cut is.
	if err := p.ReplugUSB(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the end of the machine", func() bool { return len(p.pids("sovereign")) == 0 && len(p.pids("qemu-system")) == 0 })
	p.again()
	p.ok("up", "sql", "--timeout", "20m", "--device", p.name)
	if got := ask("select n from t"); got != "42" {
		t.Errorf("after adbd's end: %q", got)
	}
	p.ok("down", "sql", "--device", p.name)
	console, err := os.ReadFile(filepath.Join(p.Data(), "local/tmp/sovereign/state/instances/sql/console.log"))
	if err != nil || !strings.Contains(string(console), "VM ended: Shutdown") {
		t.Errorf("it was not shut down in order: %v", err)
	}
	p.ok("device", "remove", p.name, "--yes")
	waitFor(t, "the end of all", func() bool { return len(p.pids("sovereignd")) == 0 && len(p.pids("crosvm")) == 0 })
	if d := differs(before, p.seen()); d != "" {
		t.Errorf("what is left:\n%s", d)
	}
}
