package android

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

// fakeRoot is a phone's root directory, with files by their paths.
func fakeRoot(t *testing.T, files map[string]string) root {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root(dir)
}

func (r root) read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(r.path(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestDurable(t *testing.T) {
	for groups, want := range map[string]bool{
		"0::/\n":                                     true,
		"0::/uid_2000/pid_812\n":                     false,
		"0::/uid_0/pid_812/more\n":                   false,
		"0::/system/uid_0/pid_12\n":                  false, // as Android 16 has it
		"4:memory:/\n2:cpuacct:/uid_0/pid_1\n0::/\n": false,
		"4:memory:/apps\n3:cpuset:/foreground\n0::/": true,
		"0::/pid_controller\n":                       true,
		"":                                           true,
	} {
		if err := durable(groups); (err == nil) != want {
			t.Errorf("%q: %v", groups, err)
		}
	}
}

func TestLeaveGroup(t *testing.T) {
	// Some hierarchies are not there, as on every phone.
	r := fakeRoot(t, map[string]string{"sys/fs/cgroup/cgroup.procs": "", "dev/memcg/apps/cgroup.procs": ""})
	if err := r.leaveGroup(42); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"sys/fs/cgroup/cgroup.procs", "dev/memcg/apps/cgroup.procs"} {
		if got := r.read(t, name); got != "42" {
			t.Errorf("%s: %q", name, got)
		}
	}
	if err := os.Remove(r.path("sys/fs/cgroup/cgroup.procs")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(r.path("sys/fs/cgroup/cgroup.procs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := r.leaveGroup(42); fault.ClassOf(err) != fault.Environment {
		t.Error(err)
	}
}

func TestProtect(t *testing.T) {
	r := fakeRoot(t, map[string]string{"proc/1/oom_score_adj": "-950\n", "proc/2/oom_score_adj": "-1000\n"})
	if err := os.Chmod(r.path("proc/2/oom_score_adj"), 0o444); err != nil {
		t.Fatal(err)
	}
	if err := r.protect(1, 2, 3); err != nil { // 3 has ended
		t.Error(err)
	}
	if got := r.read(t, "proc/1/oom_score_adj"); got != "-1000" {
		t.Errorf("%q", got)
	}
}

func TestPower(t *testing.T) {
	const dir = "sys/class/power_supply/battery/"
	r := fakeRoot(t, map[string]string{
		dir + "capacity": "19\n", dir + "status": "Discharging\n", dir + "temp": "415\n", dir + "health": "Good\n",
		"sys/class/thermal/thermal_zone0/temp": "61000\n", "sys/class/thermal/thermal_zone0/type": "cpu\n",
		"sys/class/thermal/thermal_zone1/temp": "-274000\n", "sys/class/thermal/thermal_zone1/type": "off\n",
		"sys/class/thermal/thermal_zone2/temp": "nonsense\n", "sys/class/thermal/thermal_zone2/type": "odd\n",
		"sys/power/wake_lock": "", "sys/power/wake_unlock": "",
	})
	b, err := r.battery()
	if want := (runtime.PhoneBattery{Percent: 19, State: "Discharging", Celsius: 41.5, Health: "Good"}); err != nil || *b != want {
		t.Errorf("%+v, %v", b, err)
	}
	if h := r.heat(); h == nil || *h != (runtime.PhoneHeat{Zone: "cpu", Celsius: 61}) {
		t.Errorf("%+v", h)
	}
	if b, err := fakeRoot(t, nil).battery(); b != nil || err != nil {
		t.Errorf("%v, %v", b, err)
	}
	if _, err := fakeRoot(t, map[string]string{dir + "capacity": "many"}).battery(); fault.ClassOf(err) != fault.Environment {
		t.Error(err)
	}
	if err := r.wake(true); err != nil || r.read(t, "sys/power/wake_lock") != "sovereign" || !r.awake() {
		t.Error(err)
	}
	if err := r.wake(false); err != nil || r.read(t, "sys/power/wake_unlock") != "sovereign" {
		t.Error(err)
	}
	if err := fakeRoot(t, nil).wake(true); fault.ClassOf(err) != fault.Environment {
		t.Error(err)
	}
}

func TestFloor(t *testing.T) {
	floor := runtime.PhoneFloor{Battery: 20, Celsius: 45}
	for _, tt := range []struct {
		b    runtime.PhoneBattery
		held bool
		want bool // they may not run
	}{
		{runtime.PhoneBattery{Percent: 20, State: "Discharging", Celsius: 45}, false, false},
		{runtime.PhoneBattery{Percent: 19, State: "Discharging"}, false, true},
		{runtime.PhoneBattery{Percent: 19, State: "Charging"}, false, false},
		{runtime.PhoneBattery{Percent: 19, State: "Charging"}, true, false},
		{runtime.PhoneBattery{Percent: 24, State: "Discharging"}, true, true},
		{runtime.PhoneBattery{Percent: 25, State: "Discharging"}, true, false},
		{runtime.PhoneBattery{Percent: 90, State: "Charging", Celsius: 45.1}, false, true},
		{runtime.PhoneBattery{Percent: 90, State: "Charging", Celsius: 43}, true, true},
		{runtime.PhoneBattery{Percent: 90, State: "Charging", Celsius: 42}, true, false},
	} {
		if got := reached(floor, &tt.b, tt.held); (got != "") != tt.want {
			t.Errorf("%+v, held %t: %q", tt.b, tt.held, got)
		}
		if got := reached(runtime.PhoneFloor{}, &tt.b, tt.held); got != "" {
			t.Errorf("without a floor: %q", got)
		}
	}
	if got := reached(floor, nil, true); got != "" {
		t.Errorf("without a battery: %q", got)
	}
	for _, f := range []runtime.PhoneFloor{{Battery: -1}, {Battery: 91}, {Celsius: 29}, {Celsius: 71}, {Celsius: -1}} {
		if err := CheckFloor(f); fault.ClassOf(err) != fault.Usage {
			t.Errorf("%+v: %v", f, err)
		}
	}
}

// fakePhone is the framework's switches behind the programs.
type fakePhone struct {
	sdk              string
	setting, limit   string
	sync, property   string
	booted, apex     string
	calls            []string
	forgets, failing bool // it does not keep what is set; settings fails
}

func (p *fakePhone) run(_ context.Context, name string, args ...string) (string, error) {
	line := strings.Join(append([]string{name}, args...), " ")
	p.calls = append(p.calls, line)
	set := func(to *string) (string, error) {
		if !p.forgets {
			*to = args[len(args)-1]
		}
		return "", nil
	}
	if p.failing && name == "settings" {
		return "", errors.New("settings: the phone hangs")
	}
	switch {
	case line == "getprop ro.build.version.sdk":
		return p.sdk, nil
	case line == "getprop sys.boot_completed":
		return p.booted, nil
	case line == "getprop apexd.status":
		return p.apex, nil
	case line == "getprop ro.sys.safemode":
		return "0", nil
	case line == "getprop "+phantomProperty:
		return p.property, nil
	case name == "setprop":
		return set(&p.property)
	case strings.HasPrefix(line, "settings get"):
		return p.setting, nil
	case strings.HasPrefix(line, "settings put"):
		return set(&p.setting)
	case strings.HasPrefix(line, "settings delete"):
		p.setting = null
		return "Deleted 1 rows", nil
	case strings.HasPrefix(line, "device_config get_sync") && p.sdk >= "33":
		return p.sync, nil
	case strings.HasPrefix(line, "device_config is_sync") && p.sdk < "33":
		return fmt.Sprint(p.sync != "none"), nil
	case strings.HasPrefix(line, "device_config set_sync"):
		return set(&p.sync)
	case strings.HasPrefix(line, "device_config get"):
		return p.limit, nil
	case strings.HasPrefix(line, "device_config put"):
		return set(&p.limit)
	case strings.HasPrefix(line, "device_config delete"):
		p.limit = null
		return "", nil
	}
	return "", fmt.Errorf("%s: unknown", line)
}

// Each release has its switches, and what was before comes back.
func TestPhantom(t *testing.T) {
	for _, before := range []fakePhone{
		{sdk: "31", setting: null, limit: null, sync: "none"},
		{sdk: "31", setting: null, limit: "64", sync: "persistent"},
		{sdk: "32", setting: null, limit: null, sync: "none"},
		{sdk: "33", setting: "true", limit: null, sync: "none"},
		{sdk: "36", setting: null, limit: null, sync: "none", property: "true"},
		{sdk: "36", setting: "true", limit: "2147483647", sync: "persistent", property: "false"},
	} {
		p, dir := before, t.TempDir()
		run := runner(p.run)
		if err := run.phantomOff(t.Context(), dir); err != nil {
			t.Errorf("%+v: %v", before, err)
			continue
		}
		now, err := run.phantom(t.Context())
		if err != nil || p.sdk >= "32" && now.Setting != "false" || p.sdk < "32" && (now.Limit != phantomMost || now.Sync != "persistent") {
			t.Errorf("%s: %s, %v", p.sdk, now, err)
		}
		// Again, it is so already, and the record stays what it was.
		if err := run.phantomOff(t.Context(), dir); err != nil {
			t.Error(err)
		}
		if err := run.restorePhantom(t.Context(), dir); err != nil {
			t.Error(err)
		}
		p.calls = nil
		if fmt.Sprint(p) != fmt.Sprint(before) {
			t.Errorf("%+v, before %+v", p, before)
		}
		if err := run.restorePhantom(t.Context(), dir); err != nil {
			t.Errorf("nothing to put back: %v", err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%v, %v", left, err)
		}
	}
	// Who has switched them off already gets nothing put back.
	p, dir := fakePhone{sdk: "36", setting: "false", limit: null, sync: "none"}, t.TempDir()
	if err := runner(p.run).phantomOff(t.Context(), dir); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 || slices.ContainsFunc(p.calls, func(c string) bool { return strings.Contains(c, "put") }) {
		t.Errorf("%v, %v, %v", left, err, p.calls)
	}
	// A phone that does not keep it is told of, and one that hangs.
	p = fakePhone{sdk: "36", setting: null, limit: null, sync: "none", forgets: true}
	if err := runner(p.run).phantomOff(t.Context(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "does not keep") {
		t.Error(err)
	}
	p.failing = true
	if err := runner(p.run).phantomOff(t.Context(), t.TempDir()); err == nil {
		t.Error("no error")
	}
}

func FuzzPhantom(f *testing.F) {
	f.Add([]byte(`{"setting":"null","property":"","limit":"32","sync":"none"}`))
	f.Add([]byte(`{"setting":"-x","property":"","limit":"null","sync":"none"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := parsePhantom("record", text)
		if err != nil {
			return
		}
		for _, v := range []string{p.Setting, p.Limit, p.Property, p.Sync} {
			if strings.HasPrefix(v, "-") || strings.ContainsAny(v, "\x00\n\x1b") || len(v) > 91 {
				t.Fatalf("%q", v)
			}
		}
	})
}

// properties makes an area as bionic does, and sets one.
type testArea struct{ mem []byte }

func newTestArea(t *testing.T, path string) testArea {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(4096); err != nil {
		t.Fatal(err)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint32(mem[8:], areaMagic)
	return testArea{mem}
}

func (a testArea) add(name, value string) {
	used := int(binary.LittleEndian.Uint32(a.mem))
	at := areaData + used
	copy(a.mem[at+4:], value)
	copy(a.mem[at+4+valueMax:], name)
	binary.LittleEndian.PutUint32(a.mem, uint32(used+(4+valueMax+len(name)+1+3)&^3))
}

func TestShutdown(t *testing.T) {
	r := root(t.TempDir())
	if _, err := r.watchShutdown(); fault.ClassOf(err) != fault.Environment {
		t.Errorf("without properties: %v", err)
	}
	dir := r.path(propDir) + "/"
	serial := newTestArea(t, dir+"properties_serial")
	if _, err := r.watchShutdown(); err == nil {
		t.Error("without their areas")
	}
	power := newTestArea(t, dir+"u:object_r:powerctl_prop:s0")
	s, err := r.watchShutdown()
	if err != nil {
		t.Fatal(err)
	}
	power.add("not.sys.powerctl", "reboot")
	power.add("sys.powerctl.more", "reboot")
	if got := s.asked(); got != "" {
		t.Errorf("%q", got)
	}
	said := make(chan string, 1)
	go func() { said <- s.wait() }()
	bump := func() {
		word := area(serial.mem).word(4)
		*word++
		unix.Syscall6(unix.SYS_FUTEX, addressOf(word), 1, 1<<30, 0, 0, 0)
	}
	bump() // of another property
	select {
	case got := <-said:
		t.Fatalf("%q", got)
	case <-time.After(50 * time.Millisecond):
	}
	power.add("sys.powerctl", "reboot,userrequested")
	bump()
	select {
	case got := <-said:
		if got != `sys.powerctl is "reboot,userrequested"` {
			t.Errorf("%q", got)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it does not hear it")
	}
	if err := os.WriteFile(dir+"properties_serial", make([]byte, 4096), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := r.watchShutdown(); err == nil || !strings.Contains(err.Error(), "magic") {
		t.Error(err)
	}
}

func FuzzValue(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00value"), "sys.powerctl")
	f.Fuzz(func(t *testing.T, data []byte, name string) {
		if v := findValue(data, name); len(v) >= valueMax+1 {
			t.Fatalf("%q", v)
		}
	})
}

// A keeper waits for the boot, and holds machines at the floor.
func TestKeeper(t *testing.T) {
	const dir = "sys/class/power_supply/battery/"
	r := fakeRoot(t, map[string]string{
		"proc/self/cgroup": "0::/\n", dir + "capacity": "50", dir + "status": "Discharging",
		"sys/power/wake_lock": "", "sys/power/wake_unlock": "", fmt.Sprintf("proc/%d/oom_score_adj", os.Getpid()): "0",
	})
	p := &fakePhone{sdk: "36", booted: "", apex: ""}
	k := newKeeper(r, p.run, t.TempDir(), func(string) {})
	for _, tt := range []struct {
		booted, apex string
		now          time.Time
		after        time.Duration
		why, late    string
	}{
		{"", "", time.Now(), 0, "sys.boot_completed", ""},
		{"0", "ready", time.Now(), time.Hour, "sys.boot_completed", ""},
		{"1", "starting", time.Now(), 0, "APEX", ""},
		{"1", "starting", time.Now(), apexLimit, "", "APEX"},
		{"1", "activated", time.Unix(1000, 0), 0, "clock", ""},
		{"1", "activated", time.Unix(1000, 0), clockLimit, "", "clock"},
		{"1", "ready", time.Now(), 0, "", ""},
	} {
		p.booted, p.apex = tt.booted, tt.apex
		k.now = func() time.Time { return tt.now }
		why, late := k.notReady(t.Context(), tt.after)
		if !strings.Contains(why, tt.why) || tt.why == "" && why != "" || tt.late != "" && (late == nil || !strings.Contains(late.Error(), tt.late)) || tt.late == "" && late != nil {
			t.Errorf("%+v: %q, %v", tt, why, late)
		}
	}
	if k.Hold() == "" {
		t.Error("it holds nothing before it has looked")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.Run(ctx, func() []int { return nil }, func(string) {})
	}()
	waitHold(t, k, func(why string) bool { return why == "" })
	if err := k.SetFloor(runtime.PhoneFloor{Battery: 60}); err != nil {
		t.Fatal(err)
	}
	waitHold(t, k, func(why string) bool { return strings.Contains(why, "50 %") })
	k.Wanted(true)
	s := k.Status()
	if !s.Durable || !s.Awake || s.Floor.Battery != 60 || !strings.Contains(s.Held, "50 %") || !slices.ContainsFunc(s.Concerns, func(c string) bool { return strings.Contains(c, "shutdown") }) {
		t.Errorf("%+v", s)
	}
	if err := os.WriteFile(r.path(dir+"status"), []byte("Charging"), 0o644); err != nil {
		t.Fatal(err)
	}
	k.Wanted(false) // has it look
	waitHold(t, k, func(why string) bool { return why == "" })
	cancel()
	<-done
	// The next one knows the floor.
	next := newKeeper(r, p.run, k.dir, func(string) {})
	if f, err := next.readFloor(); err != nil || f.Battery != 60 {
		t.Errorf("%+v, %v", f, err)
	}
	if err := os.WriteFile(filepath.Join(k.dir, settingsFile), []byte(`{"battery":200}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := next.readFloor(); err == nil || !strings.Contains(err.Error(), settingsFile+":1:") {
		t.Error(err)
	}
}

func waitHold(t *testing.T, k *Keeper, is func(string) bool) {
	t.Helper()
	for limit := time.Now().Add(20 * time.Second); !is(k.Hold()); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("it says %q", k.Hold())
		}
	}
}

func addressOf(word *uint32) uintptr { return uintptr(unsafe.Pointer(word)) }
