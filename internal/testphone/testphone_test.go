package testphone_test

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/internal/testphone"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/adb"
)

// client speaks to the server of a test.
func client(s *testphone.Server) *adb.Server {
	return &adb.Server{Address: net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port))}
}

// The client against the real adb and the real adbd.
func TestPhoneADB(t *testing.T) {
	p, s := testphone.New(t, nil)
	c, serial, ctx := client(s), p.Address(), t.Context()
	if n, err := c.Version(ctx); n != 41 || err != nil {
		t.Errorf("version %d, %v", n, err)
	}
	phones, err := c.Phones(ctx)
	if err != nil || len(phones) != 1 || phones[0].Serial != serial || !phones[0].Ready() {
		t.Errorf("%+v, %v", phones, err)
	}
	features, err := c.Features(ctx, serial)
	if err != nil || !strings.Contains(strings.Join(features, " "), "shell_v2") {
		t.Errorf("%v, %v", features, err)
	}
	// Bytes of all kinds, both ways, and both ends.
	all := make([]byte, 3<<20)
	for i := range all {
		all[i] = byte(i ^ i>>8 ^ i>>16)
	}
	var out, errs strings.Builder
	if err := c.Run(ctx, serial, "cat; echo done >&2", strings.NewReader(string(all)), &out, &errs); err != nil || out.String() != string(all) || errs.String() != "done\n" {
		t.Errorf("%d bytes of %d, %q, %v", out.Len(), len(all), errs.String(), err)
	}
	var exit *adb.ExitError
	for command, code := range map[string]int{"exit 7": 7, "kill -9 $$": 137, "no-such-program": 127, "true": 0} {
		err := c.Run(ctx, serial, command, nil, nil, nil)
		if code == 0 && err != nil || code != 0 && (!errors.As(err, &exit) || exit.Code != code) {
			t.Errorf("%s: %v", command, err)
		}
	}
	if out, err := c.Output(ctx, serial, "echo "+adb.Quote(`a 'b' "c" $d \e`)); out != `a 'b' "c" $d \e`+"\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := c.Open(ctx, serial, "tcp:9"); err == nil || fault.ClassOf(err) != fault.Device {
		t.Errorf("a port that nobody listens at: %v", err)
	}
	// adbd says yes to a machine first. Whether it then ends what it cannot connect
	// is the kernel's business: one with another transport of vsock lets it wait.
	if conn, err := c.Open(ctx, serial, "vsock:999:5000"); err == nil {
		if err := conn.SetReadDeadline(time.Now().Add(3 * time.Second)); err != nil {
			t.Error(err)
		}
		if n, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("a machine that is not there says %d bytes", n)
		}
		conn.Close()
	}
	// A stream to a port of the phone's loopback: adbd's own, which answers
	// nothing to a packet of nonsense but its end.
	conn, err := c.Open(ctx, serial, "tcp:5555")
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	var r *adb.Refusal
	if _, err := c.Output(ctx, "nobody", "true"); !errors.As(err, &r) || r.Kind != adb.NotThere || fault.HintOf(err) == "" {
		t.Error(err)
	}
	// The connection of a command breaks: no exit code, and it is said.
	if err := c.Run(ctx, serial, "sleep 0.2; echo setprop sys.usb.config none | su; sleep 60", nil, nil, nil); !errors.Is(err, adb.ErrLost) {
		t.Errorf("adbd killed: %v", err)
	}
	gone := make(chan string, 10)
	go c.Track(ctx, func(phones []adb.Phone) error { //nolint:errcheck // it ends with the test
		for _, p := range phones {
			gone <- p.State
		}
		return nil
	})
	if state := <-gone; state == "" {
		t.Error("no state")
	}
}

// init kills all that was started from adbd, and leaves what has left its
// cgroup: nobody else is let by.
func TestPhoneCgroup(t *testing.T) {
	for su, stays := range map[string]bool{"magisk": true, "kernelsu": true, "userdebug": false, "adbd": false} {
		t.Run(su, func(t *testing.T) {
			p, s := testphone.New(t, testphone.Root(su))
			command := map[string]string{"userdebug": "su 0 sh -c 'setsid sleep 123 >/dev/null 2>&1 </dev/null & echo $!'", "adbd": "setsid sleep 123 >/dev/null 2>&1 </dev/null & echo $!"}[su]
			if command == "" {
				command = "su -c 'setsid sleep 123 >/dev/null 2>&1 </dev/null & echo $!'"
			}
			out, err := client(s).Output(t.Context(), p.Address(), command)
			if err != nil {
				t.Fatal(err)
			}
			pid := strings.TrimSpace(out)
			alive := func() bool {
				text, err := p.ReadFile("/proc/" + pid + "/stat")
				return err == nil && !strings.Contains(text, ") Z ")
			}
			if !alive() {
				t.Fatal("it has not started")
			}
			if err := errors.Join(p.ReplugUSB(), p.WaitADBD()); err != nil {
				t.Fatal(err)
			}
			if alive() != stays {
				t.Errorf("alive: %t", alive())
			}
			// The shell's own children end in any case.
			if err := s.Connect(p.Address()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// The stand-ins are held to what Android's programs do.
func TestPhoneStandIns(t *testing.T) {
	p, s := testphone.New(t, nil)
	c, serial := client(s), p.Address()
	out, err := c.Output(t.Context(), serial, "getprop sys.boot_completed; settings get global x; device_config get a b; echo $?")
	if err != nil {
		t.Fatal(err)
	}
	_ = out // before the boot is complete they fail, after it they do not: see below
	if err := p.WaitProp("sys.boot_completed", "1"); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		command, want string
		code          int
	}{
		{"id -u", "2000\n", 0},
		{"su -c 'id -u; id -u'", "0\n0\n", 0},
		{"su 0 -c 'id -u'", "0\n", 0},
		{"settings get global none", "null\n", 0},
		{"settings put global a 1; settings get global a; settings delete global a; settings get global a", "1\nDeleted 1 rows\nnull\n", 0},
		{"settings get secure a", "", 1},
		{"device_config is_sync_disabled_for_tests", "", 1}, // of 12
		{"device_config get_sync_disabled_for_tests", "none\n", 0},
		{"getprop ro.build.version.sdk", "36\n", 0},
		{"setprop persist.sys.x 1", "", 1}, // the shell may not
		{"su -c 'setprop persist.sys.x 1'; getprop persist.sys.x", "1\n", 0},
		{"pm has-feature android.software.virtualization_framework", "true\n", 0},
		{"pm has-feature android.hardware.nonsense", "false\n", 1},
		{"ls /data/adb", "", 1},
		{"dumpsys nonsense", "", 0},
		{"su -c 'echo x >/sys/power/wake_lock; sleep 0.3; cat /sys/power/wake_lock; echo x >/sys/power/wake_unlock; sleep 0.3; cat /sys/power/wake_lock'", "x\n\n", 0},
	} {
		out, err := c.Output(t.Context(), serial, tt.command)
		var exit *adb.ExitError
		code := 0
		if errors.As(err, &exit) {
			code = exit.Code
		} else if err != nil {
			t.Fatal(err)
		}
		if out != tt.want || code != tt.code {
			t.Errorf("%s: %q, exit code %d", tt.command, out, code)
		}
	}
	// Without the switch Google's services put device_config back.
	if _, err := c.Output(t.Context(), serial, "device_config put activity_manager max_phantom_processes 99"); err != nil {
		t.Fatal(err)
	}
	for limit := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		out, err := c.Output(t.Context(), serial, "device_config get activity_manager max_phantom_processes")
		if err == nil && out == "null\n" {
			break
		}
		if time.Now().After(limit) {
			t.Fatalf("%q, %v", out, err)
		}
	}
}

// Scripts of the root manager run at boot: regular ones with an x bit, before the
// framework is up; a battery that is pulled leaves /data, and nothing else.
func TestPhoneBoot(t *testing.T) {
	p, _ := testphone.New(t, nil)
	if err := p.WaitProp("sys.boot_completed", "1"); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(p.Data(), "adb", "service.d")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"a.sh": 0o755, "b.sh": 0o644} {
		script := "echo $0 $(getprop sys.boot_completed) $(settings get global x 2>&1) >/data/local/tmp/" + name + "\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a.sh", filepath.Join(dir, "c.sh")); err != nil {
		t.Fatal(err)
	}
	if err := p.SetProp("sys.x", "1"); err != nil {
		t.Fatal(err)
	}
	before, err := p.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	for _, reboot := range []func() error{p.Reboot, p.PullBattery} {
		if err := errors.Join(reboot(), p.WaitProp("sys.boot_completed", "1")); err != nil {
			t.Fatal(err)
		}
		after, err := p.ReadFile("/proc/sys/kernel/random/boot_id")
		if err != nil || after == before {
			t.Errorf("the same boot: %q, %v", after, err)
		}
		before = after
		if v, err := p.GetProp("sys.x"); v != "" || err != nil {
			t.Errorf("a property has outlived the boot: %q, %v", v, err)
		}
		left, err := filepath.Glob(filepath.Join(p.Data(), "local/tmp/*.sh"))
		if err != nil || len(left) != 1 || filepath.Base(left[0]) != "a.sh" {
			t.Fatalf("scripts that ran: %v, %v", left, err)
		}
		if text, err := os.ReadFile(left[0]); err != nil || !strings.Contains(string(text), "Can't find service") {
			t.Errorf("%q, %v", text, err)
		}
		if err := os.Remove(left[0]); err != nil {
			t.Fatal(err)
		}
	}
}

// A link that is cut is cut, and mended again.
func TestPhoneLink(t *testing.T) {
	p, s := testphone.New(t, nil)
	c := client(s)
	p.BreakAfter(64 << 10)
	err := c.Run(t.Context(), p.Address(), "cat", strings.NewReader(strings.Repeat("x", 1<<20)), io.Discard, nil)
	if !errors.Is(err, adb.ErrLost) {
		t.Error(err)
	}
	p.BreakAfter(0)
	if err := s.Connect(p.Address()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Output(t.Context(), p.Address(), "true"); err != nil {
		t.Error(err)
	}
}
