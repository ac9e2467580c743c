package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/internal/testphone"
	"github.com/sovereign-build/sovereign/pkg/bundle"
)

// A phone, as far as adb, root and the ends of processes go (internal/testphone),
// and the command line that reaches it by a real adb.

// adbPhone is a test phone and the command line's way to it.
type adbPhone struct {
	*testphone.Phone
	t    testing.TB
	adb  *testphone.Server
	name string // as a device
	env  []string
	cli  string // sovereign-build
}

func newADBPhone(t testing.TB, change func(*testphone.Options)) *adbPhone {
	t.Helper()
	p, s := testphone.New(t, change)
	if err := p.WaitProp("sys.boot_completed", "1"); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	return &adbPhone{Phone: p, t: t, adb: s, name: "adb:" + p.Address(), cli: "../bin/sovereign-build", env: append(s.Env,
		"XDG_STATE_HOME="+filepath.Join(dir, "state"), "XDG_CONFIG_HOME="+filepath.Join(dir, "config"), "XDG_CACHE_HOME="+filepath.Join(dir, "cache"))}
}

// call runs the command line.
func (p *adbPhone) call(args ...string) (stdout, stderr string, code int) {
	p.t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(p.cli, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = p.env, &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		p.t.Fatalf("sovereign-build %s: %v", strings.Join(args, " "), err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func (p *adbPhone) ok(args ...string) string {
	p.t.Helper()
	out, errs, code := p.call(args...)
	if code != 0 {
		p.t.Fatalf("sovereign-build %s: exit code %d: %s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// status is what the phone's sovereignd says.
type phoneStatus struct {
	PID     int
	Service string
	Phone   struct {
		Durable    bool
		NotDurable string `json:"not_durable"`
		Held       string
		Awake      bool
		Concerns   []string
		Battery    struct{ Percent int }
		Floor      struct{ Battery, Celsius int }
	}
	Machines map[string]string
}

func (p *adbPhone) status() phoneStatus {
	p.t.Helper()
	var s phoneStatus
	out := p.ok("device", "status", p.name, "--json")
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		p.t.Fatalf("%v: %s", err, out)
	}
	return s
}

// again has the adb server find the phone after its adbd was killed.
func (p *adbPhone) again() {
	p.t.Helper()
	if err := errors.Join(p.WaitADBD(), p.adb.Connect(p.Address())); err != nil {
		p.t.Fatal(err)
	}
}

// seen is all of the phone that something could be left in: the files of /data
// with rights and content, settings, properties, processes, wake locks.
func (p *adbPhone) seen() map[string]string {
	p.t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(p.Data(), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		text := fmt.Sprintf("%s %d:%d", info.Mode(), st.Uid, st.Gid)
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %x", sha256.Sum256(content))
		}
		all["/data"+strings.TrimPrefix(path, p.Data())] = text
		return nil
	})
	if err != nil {
		p.t.Fatal(err)
	}
	for _, file := range []string{"/sys/power/wake_lock", "/sys/power/wake_unlock"} {
		text, err := p.ReadFile(file)
		if err != nil {
			p.t.Fatal(err)
		}
		all[file] = strings.TrimSpace(text)
	}
	out, err := p.adb.ADB("-s", p.Address(), "shell", "getprop")
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		all["property "+name] = value
	}
	for _, line := range p.processes() {
		all["process "+line] = "runs"
	}
	return all
}

// processes are the command lines of the phone's, but for adbd's own children.
func (p *adbPhone) processes() []string {
	p.t.Helper()
	var lines []string
	entries, err := os.ReadDir(p.Root() + "/proc")
	if err != nil {
		p.t.Fatal(err)
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		text, err := p.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err == nil && text != "" && !strings.Contains(text, "getprop") {
			lines = append(lines, strings.TrimSpace(strings.ReplaceAll(text, "\x00", " ")))
		}
	}
	return lines
}

// pids are the phone's processes whose command line has a word, with numbers of
// here.
func (p *adbPhone) pids(word string) []int {
	p.t.Helper()
	mine, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", p.PID()))
	if err != nil {
		p.t.Fatal(err)
	}
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		p.t.Fatal(err)
	}
	var pids []int
	for _, dir := range all {
		if ns, err := os.Readlink(dir + "/ns/pid"); err != nil || ns != mine {
			continue
		}
		text, err := os.ReadFile(dir + "/cmdline")
		if err == nil && strings.Contains(string(text), word) {
			pid, err := strconv.Atoi(filepath.Base(dir))
			if err != nil {
				p.t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// differs says what is not the same.
func differs(before, after map[string]string) string {
	var lines []string
	for _, key := range slices.Sorted(maps.Keys(before)) {
		if now, there := after[key]; !there {
			lines = append(lines, "gone: "+key)
		} else if now != before[key] {
			lines = append(lines, fmt.Sprintf("changed: %s: %q, before %q", key, now, before[key]))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(after)) {
		if _, there := before[key]; !there {
			lines = append(lines, "new: "+key)
		}
	}
	return strings.Join(lines, "\n")
}

const phoneProgram = "adb/sovereign/sovereignd"

// TestPhoneInstall puts sovereignd on phones with each way to root, has it stay
// when adbd and all that came from it is killed, and after a reboot where a root
// manager starts it; and takes it away without a trace.
func TestPhoneInstall(t *testing.T) {
	testphone.Need(t)
	program, err := os.ReadFile("../bin/sovereignd")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ su, service string }{{"magisk", "magisk"}, {"kernelsu", "kernelsu"}, {"userdebug", ""}, {"adbd", ""}} {
		t.Run(tt.su, func(t *testing.T) {
			p := newADBPhone(t, testphone.Root(tt.su))
			before := p.seen()
			if out, errs, code := p.call("device", "status", p.name); code != 3 || !strings.Contains(errs, "device install") {
				t.Errorf("without a sovereignd: exit %d, %q, %q", code, out, errs)
			}
			var did struct {
				Device, Program, Service string
				Changed                  bool
			}
			if err := json.Unmarshal([]byte(p.ok("device", "install", p.name, "--json")), &did); err != nil {
				t.Fatal(err)
			}
			if did.Device != p.name || !did.Changed || did.Program != "/data/"+phoneProgram || did.Service != tt.service {
				t.Errorf("%+v", did)
			}
			if got, err := os.ReadFile(filepath.Join(p.Data(), phoneProgram)); err != nil || !bytes.Equal(got, program) {
				t.Errorf("%d of %d bytes, %v", len(got), len(program), err)
			}
			for path, mode := range map[string]fs.FileMode{"adb/sovereign": 0o700 | fs.ModeDir, phoneProgram: 0o700, "adb/service.d/sovereign.sh": 0o755} {
				if info, err := os.Lstat(filepath.Join(p.Data(), path)); err != nil || info.Mode() != mode {
					t.Errorf("%s: %v, %v", path, info, err)
				}
			}
			s := p.status()
			if !s.Phone.Durable || s.Phone.Held != "" || s.Phone.Awake || s.Phone.Battery.Percent != 80 || s.Service != tt.service {
				t.Errorf("%+v", s)
			}
			// adbd ends, and takes all of its cgroup with it.
			if err := p.ReplugUSB(); err != nil {
				t.Fatal(err)
			}
			p.again()
			if after := p.status(); after.PID != s.PID {
				t.Errorf("sovereignd was %d and is %d", s.PID, after.PID)
			}
			// Killed, it comes back by itself.
			for _, pid := range p.pids("--state-dir") {
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Error(err)
				}
			}
			waitFor(t, "another sovereignd", func() bool { return len(p.pids("--state-dir")) > 0 })
			if after := p.status(); after.PID == s.PID {
				t.Error("it was not killed")
			}
			// So does the other one, which would start this one again, and it then does.
			if tt.su == "magisk" {
				parentKilled(t, p)
			}
			if err := p.Reboot(); err != nil {
				t.Fatal(err)
			}
			p.again()
			if tt.service != "" {
				waitFor(t, "sovereignd after a reboot", func() bool { return len(p.pids("--state-dir")) > 0 })
			} else if pids := p.pids("--state-dir"); len(pids) > 0 {
				t.Errorf("nobody should have started %v", pids)
			}
			waitFor(t, "the phone", func() bool { return p.status().Phone.Held == "" })
			// The rest of the former boot is not to be compared.
			p.ok("device", "remove", p.name, "--yes")
			if err := p.WaitProp("sys.boot_completed", "1"); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "the end of all", func() bool { return len(p.pids("sovereignd")) == 0 })
			if d := differs(before, p.seen()); d != "" {
				t.Errorf("what is left:\n%s", d)
			}
			if out := p.ok("device", "list"); strings.Contains(out, "installed") {
				t.Errorf("%q", out)
			}
		})
	}
}

// parentKilled kills the process that only starts sovereignd again, alone.
func parentKilled(t *testing.T, p *adbPhone) {
	t.Helper()
	parents := func() (pids []int) {
		keeps := p.pids("--state-dir")
		for _, pid := range p.pids("sovereignd\x00--android") {
			if !slices.Contains(keeps, pid) {
				pids = append(pids, pid)
			}
		}
		return pids
	}
	before, keeper := parents(), p.status().PID
	if len(before) != 1 {
		t.Fatalf("parents: %v", before)
	}
	if err := syscall.Kill(before[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "another parent", func() bool { now := parents(); return len(now) == 1 && now[0] != before[0] })
	if now := p.status(); now.PID != keeper || !now.Phone.Durable {
		t.Errorf("sovereignd was %d: %+v", keeper, now)
	}
	for _, pid := range p.pids("--state-dir") {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	waitFor(t, "another sovereignd, by the new parent", func() bool {
		return len(p.pids("--state-dir")) == 1 && p.status().PID != keeper
	})
}

// TestPhoneRefused: what a phone says that does not let its shell be root.
func TestPhoneRefused(t *testing.T) {
	testphone.Need(t)
	for su, want := range map[string]string{"": "not rooted", "denied": "does not let its shell be root"} {
		t.Run("su="+su, func(t *testing.T) {
			p := newADBPhone(t, testphone.Root(su))
			before := p.seen()
			for _, args := range [][]string{{"device", "install", p.name}, {"device", "status", p.name}, {"status", "--device", p.name}} {
				_, errs, code := p.call(args...)
				if code != 3 && code != 8 || !strings.Contains(errs, want) || !strings.Contains(errs, "hint:") {
					t.Errorf("%s: exit %d, %q", strings.Join(args, " "), code, errs)
				}
			}
			if out := p.ok("device", "list"); !strings.Contains(out, "Test Phone 9, Android 16") || !strings.Contains(out, want) {
				t.Errorf("%q", out)
			}
			if d := differs(before, p.seen()); d != "" {
				t.Errorf("what is left:\n%s", d)
			}
		})
	}
}

// TestPhoneBroken has adb's link break at 50 random points of an install: what
// stands there is always whole.
func TestPhoneBroken(t *testing.T) {
	testphone.Need(t)
	p := newADBPhone(t, nil)
	program, err := os.ReadFile("../bin/sovereignd")
	if err != nil {
		t.Fatal(err)
	}
	p.BreakAfter(0)
	p.ok("device", "install", p.name)
	most := p.Passed()
	path := filepath.Join(p.Data(), phoneProgram)
	old := []byte("#!/system/bin/sh\n")
	broken := 0
	for i, n := range points(t, 50, most) {
		var before []byte
		if i%2 == 0 {
			before = old
			err = errors.Join(os.RemoveAll(path), os.WriteFile(path, old, 0o700))
		} else {
			err = os.RemoveAll(path)
		}
		if err != nil {
			t.Fatal(err)
		}
		p.BreakAfter(n)
		_, errs, code := p.call("device", "install", p.name)
		p.BreakAfter(0)
		if code != 0 {
			broken++
			if !strings.Contains(errs, p.name) || code != 8 {
				t.Errorf("broken after %d bytes: exit %d, %q", n, code, errs)
			}
		}
		// What is under way there ends by itself.
		waitFor(t, "the end of what is under way", func() bool { return len(p.pids("dd bs=1")) == 0 && len(p.pids("eval")) == 0 })
		got, err := os.ReadFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist) && before == nil:
		case err != nil:
			t.Fatal(err)
		case !bytes.Equal(got, program) && !bytes.Equal(got, before):
			t.Fatalf("broken after %d bytes: %d bytes stand there", n, len(got))
		}
		left, err := filepath.Glob(filepath.Join(p.Data(), "adb/sovereign/.new.*"))
		if err != nil || len(left) > 0 {
			t.Errorf("broken after %d bytes: %v is left, %v", n, left, err)
		}
		if err := p.adb.Connect(p.Address()); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d of 50 installs broke, of %d bytes", broken, most)
	if broken < 25 {
		t.Errorf("only %d broke", broken)
	}
	p.ok("device", "install", p.name)
	if s := p.status(); !s.Phone.Durable {
		t.Errorf("%+v", s)
	}
}

// TestPhoneDeploy has adb's link break at 50 random points of a deploy, over fake
// machines: what runs is the former bundle or the new one, and the same command done
// again finishes what was begun.
func TestPhoneDeploy(t *testing.T) {
	testphone.Need(t)
	p := newADBPhone(t, nil)
	before := p.seen()
	p.cli = besideFakes(t)
	p.env = append(p.env, "SOVEREIGN_DEVICE="+p.name)
	p.BreakAfter(0)
	if out := p.ok("deploy", fakeBundle(t, "first"), "--json"); !strings.Contains(out, `"sovereignd":"installed"`) || !strings.Contains(out, `"result":"installed"`) {
		t.Error(out)
	}
	p.BreakAfter(0)
	p.ok("deploy", fakeBundle(t, "second"))
	most := p.Passed()
	broken, started, former := 0, 0, activeBundle(t, p.ok)
	for i, n := range points(t, 50, most) {
		dir := fakeBundle(t, fmt.Sprintf("deploy-%d", i))
		p.BreakAfter(n)
		out, errs, code := p.call("deploy", dir, "--json")
		p.BreakAfter(0)
		if err := p.adb.Connect(p.Address()); err != nil {
			t.Fatal(err)
		}
		if code != 0 {
			broken++
			if !strings.Contains(out, p.name) || code != 8 {
				t.Errorf("broken after %d bytes: exit %d, %q, %q", n, code, out, errs)
			}
		}
		want, err := bundle.Digest(dir)
		if err != nil {
			t.Fatal(err)
		}
		switch got := activeBundle(t, p.ok); {
		case got == want:
			started++
		case got != former:
			t.Errorf("broken after %d bytes: %s runs", n, got)
		case code == 0:
			t.Errorf("broken after %d bytes: it says that all is well", n)
		}
		p.ok("deploy", dir)
		if former = activeBundle(t, p.ok); former != want {
			t.Errorf("broken after %d bytes, and done again: %s runs, and not %s", n, former, want)
		}
	}
	t.Logf("%d of 50 deploys broke, of %d bytes; %d became the new bundle at once", broken, most, started)
	if broken < 25 {
		t.Errorf("only %d broke", broken)
	}
	p.ok("device", "remove", p.name, "--yes")
	waitFor(t, "the end of all", func() bool { return len(p.pids("sovereignd")) == 0 })
	if d := differs(before, p.seen()); d != "" {
		t.Errorf("what is left:\n%s", d)
	}
}

// TestPhoneSettings changes what can be changed on a phone, on Android 16 and 12,
// and finds it as it was after device remove.
func TestPhoneSettings(t *testing.T) {
	testphone.Need(t)
	for sdk, release := range map[int]string{36: "16", 31: "12"} {
		t.Run("Android "+release, func(t *testing.T) {
			p := newADBPhone(t, func(o *testphone.Options) { o.Config.SDK, o.Config.Release = sdk, release })
			if out, err := p.adb.ADB("-s", p.Address(), "shell", "settings put global other 1; device_config set_sync_disabled_for_tests none"); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			before := p.seen()
			p.ok("device", "install", p.name)
			p.ok("device", "set", p.name, "--phantom-processes", "off", "--battery-floor", "20")
			if s := p.status(); s.Phone.Floor.Battery != 20 {
				t.Errorf("%+v", s)
			}
			shell := func(command string) string {
				out, err := p.adb.ADB("-s", p.Address(), "shell", command)
				if err != nil {
					t.Fatalf("%s: %v: %s", command, err, out)
				}
				return strings.TrimSpace(out)
			}
			if sdk >= 32 {
				if got := shell("settings get global settings_enable_monitor_phantom_procs"); got != "false" {
					t.Errorf("%q", got)
				}
			} else if got := shell("device_config is_sync_disabled_for_tests; device_config get activity_manager max_phantom_processes"); got != "true\n2147483647" {
				t.Errorf("%q", got)
			}
			for _, args := range [][]string{{"--battery-floor", "95"}, {"--heat-limit", "10"}, {"--phantom-processes", "on"}} {
				if _, errs, code := p.call(append([]string{"device", "set", p.name}, args...)...); code != 2 {
					t.Errorf("%v: exit %d, %q", args, code, errs)
				}
			}
			// Also after a reboot they are known.
			if err := p.Reboot(); err != nil {
				t.Fatal(err)
			}
			p.again()
			waitFor(t, "the phone", func() bool { return p.status().Phone.Held == "" })
			if s := p.status(); s.Phone.Floor.Battery != 20 {
				t.Errorf("%+v", s)
			}
			p.ok("device", "remove", p.name, "--yes")
			waitFor(t, "the end of all", func() bool { return len(p.pids("sovereignd")) == 0 })
			if d := differs(before, p.seen()); d != "" {
				t.Errorf("what is left:\n%s", d)
			}
		})
	}
}

// TestPhoneMachine runs a machine on a phone, under QEMU: it outlives adbd, its
// cgroup and sovereignd, is shut down in order with the phone and by a low
// battery, comes back with it all, and leaves nothing.
func TestPhoneMachine(t *testing.T) {
	testphone.Need(t)
	dist := os.Getenv("SOVEREIGN_E2E")
	if dist == "" {
		t.Skip("SOVEREIGN_E2E names no bundle")
	}
	// A guest that is emulated takes longer for its end than a phone gives.
	p := newADBPhone(t, func(o *testphone.Options) { o.Config.ShutdownSeconds = 120 })
	before := p.seen()
	p.ok("device", "install", p.name)
	begin := time.Now()
	p.ok("up", dist, "--timeout", "20m", "--device", p.name)
	t.Logf("up after %.0f s", time.Since(begin).Seconds())
	ask := func(query string) string {
		t.Helper()
		return strings.TrimSpace(p.ok("psql", "sql", "--device", p.name, "--", "-qtAc", query))
	}
	ask("create table t (n int); insert into t values (42)")
	s := p.status()
	if s.Machines["sql"] != "ready" || !s.Phone.Awake {
		t.Errorf("%+v", s)
	}
	machine := func() int {
		t.Helper()
		pids := p.pids("qemu-system")
		if len(pids) != 1 {
			t.Fatalf("machines: %v", pids)
		}
		return pids[0]
	}
	pid := machine()
	if group, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid)); err != nil || strings.Contains(string(group), "pid_") {
		t.Errorf("the machine is in the cgroup %s, %v", group, err)
	}

	// adbd and all of its cgroup.
	if err := p.ReplugUSB(); err != nil {
		t.Fatal(err)
	}
	p.again()
	if got := ask("select n from t"); got != "42" || machine() != pid {
		t.Errorf("%q of process %d, before %d", got, machine(), pid)
	}
	// sovereignd.
	for _, pid := range p.pids("--state-dir") {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	if got := ask("select n from t"); got != "42" || machine() != pid {
		t.Errorf("%q of process %d, before %d", got, machine(), pid)
	}
	log := func() string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(p.Data(), "adb/sovereign/state/sovereignd.log"))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}

	// The battery.
	p.ok("device", "set", p.name, "--battery-floor", "20")
	if err := p.WriteFile("/sys/class/power_supply/battery/capacity", "19\n"); err != nil {
		t.Fatal(err)
	}
	waitLong(t, "the end of the machine at the battery's floor", func() bool { return len(p.pids("qemu-system")) == 0 })
	// What it did, it writes down when it is done.
	waitFor(t, "the log of that", func() bool {
		text := log()
		return strings.Contains(text, "the battery is at 19 %") && strings.Contains(text, "until the next sovereignd")
	})
	if s := p.status(); !strings.Contains(s.Phone.Held, "19 %") || s.Phone.Awake {
		t.Errorf("%+v", s.Phone)
	}
	if err := p.WriteFile("/sys/class/power_supply/battery/status", "Charging\n"); err != nil {
		t.Fatal(err)
	}
	waitLong(t, "the machine at the charger", func() bool { return p.status().Machines["sql"] == "ready" })
	if got := ask("select n from t"); got != "42" {
		t.Errorf("%q", got)
	}

	// A reboot in order: the machine is shut down before, and is there after.
	if err := p.Reboot(); err != nil {
		t.Fatal(err)
	}
	if text := log(); !strings.Contains(text, "the phone shuts down: sys.") || !strings.Contains(text, "sql: stopped after") {
		t.Errorf("%s", text)
	}
	p.again()
	waitLong(t, "the machine after a reboot", func() bool { return p.status().Machines["sql"] == "ready" })
	if got := ask("select n from t"); got != "42" {
		t.Errorf("%q", got)
	}
	// And the battery pulled.
	if err := p.PullBattery(); err != nil {
		t.Fatal(err)
	}
	p.again()
	waitLong(t, "the machine after a power cut", func() bool { return p.status().Machines["sql"] == "ready" })
	if got := ask("select n from t"); got != "42" {
		t.Errorf("%q", got)
	}

	p.ok("device", "remove", p.name, "--keep-data", "--yes")
	if _, err := os.Stat(filepath.Join(p.Data(), "adb/sovereign/state/instances/sql/data.img")); err != nil {
		t.Error(err)
	}
	p.ok("device", "install", p.name)
	if s := p.status(); len(s.Machines) != 1 {
		t.Errorf("%+v", s)
	}
	p.ok("device", "remove", p.name, "--yes")
	waitFor(t, "the end of all", func() bool { return len(p.pids("sovereignd")) == 0 })
	if d := differs(before, p.seen()); d != "" {
		t.Errorf("what is left:\n%s", d)
	}
}

// virtPrograms is where Android has its hypervisor's programs.
const virtPrograms = "/apex/com.android.virt/bin/"

// crosvmPhone is a rooted phone whose machines run under the stand-in of crosvm, at
// its place, with a sovereignd that was installed; before is how the phone was.
func crosvmPhone(t *testing.T, change func(*testphone.Options)) (p *adbPhone, before map[string]string) {
	t.Helper()
	programs := testphone.Need(t)
	const sockets = "/dev/vsock-of-guests"
	settings := filepath.Join(t.TempDir(), "crosvm.json")
	if err := os.WriteFile(settings, []byte(fmt.Sprintf(`{"profile":"a16","vsock_dir":%q}`, sockets)), 0o644); err != nil {
		t.Fatal(err)
	}
	p = newADBPhone(t, func(o *testphone.Options) {
		o.Config.ShutdownSeconds = 120
		o.Programs = map[string]string{virtPrograms + "crosvm": filepath.Join(programs, "crosvm"), virtPrograms + "crosvm.json": settings}
		if change != nil {
			change(o)
		}
	})
	if err := os.Mkdir(p.Root()+sockets, 0o700); err != nil {
		t.Fatal(err)
	}
	before = p.seen()
	p.ok("device", "install", p.name)
	// The kernel of this computer has no vsock for guests, and a phone's has: the
	// one flag more is for that.
	hook := filepath.Join(p.Data(), "adb/service.d/sovereign.sh")
	text, err := os.ReadFile(hook)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), "--android ", "--android --vsock-dir "+sockets+" ", 1)
	if err := os.WriteFile(hook, []byte(changed), 0o755); err != nil || changed == string(text) {
		t.Fatalf("%v: %s", err, text)
	}
	// Each of the two starts the other again.
	waitFor(t, "the end of sovereignd", func() bool {
		pids := p.pids("--android")
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				t.Error(err)
			}
		}
		return len(pids) == 0
	})
	if out, err := p.adb.ADB("-s", p.Address(), "shell", "su -c 'sh /data/adb/service.d/sovereign.sh'"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return p, before
}

// TestPhoneCrosvm has the machine of TestPhoneMachine under the stand-in of
// crosvm, at its place on the phone, with all that Android has between.
// SOVEREIGN_E2E names a bundle whose guest speaks over vsock.
func TestPhoneCrosvm(t *testing.T) {
	testphone.Need(t)
	dist := os.Getenv("SOVEREIGN_E2E")
	if dist == "" {
		t.Skip("SOVEREIGN_E2E names no bundle")
	}
	p, before := crosvmPhone(t, nil)
	begin := time.Now()
	p.ok("up", dist, "--timeout", "20m", "--device", p.name)
	t.Logf("up under crosvm after %.0f s", time.Since(begin).Seconds())
	if pids := p.pids(virtPrograms + "crosvm"); len(pids) == 0 {
		t.Error("no crosvm runs")
	}
	ask := func(query string) string {
		t.Helper()
		return strings.TrimSpace(p.ok("psql", "sql", "--device", p.name, "--", "-qtAc", query))
	}
	ask("create table t (n int); insert into t values (42)")
	if err := p.ReplugUSB(); err != nil {
		t.Fatal(err)
	}
	p.again()
	if got := ask("select n from t"); got != "42" {
		t.Errorf("%q", got)
	}
	p.ok("device", "remove", p.name, "--yes")
	waitFor(t, "the end of all", func() bool { return len(p.pids("sovereignd")) == 0 && len(p.pids("crosvm")) == 0 })
	if d := differs(before, p.seen()); d != "" {
		t.Errorf("what is left:\n%s", d)
	}
}

// waitLong is waitFor for a machine that is emulated.
func waitLong(t testing.TB, what string, is func() bool) {
	t.Helper()
	for limit := time.Now().Add(10 * time.Minute); !is(); time.Sleep(time.Second) {
		if time.Now().After(limit) {
			t.Fatalf("waiting for %s", what)
		}
	}
}
