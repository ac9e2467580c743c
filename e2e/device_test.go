package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const installedProgram = ".local/share/sovereign/sovereignd"

// needSSHD skips a test of devices where it cannot be run, and runs it in a
// namespace: it says whether this is there.
func needSSHD(t testing.TB) bool {
	t.Helper()
	if os.Getenv("SOVEREIGN_E2E") == "" {
		t.Skip("SOVEREIGN_E2E names no bundle")
	}
	if os.Getuid() != 0 {
		t.Skip("sshd lets others in only where root has started it")
	}
	if _, err := os.Stat("../bin/debian-sshd"); err != nil {
		t.Skip("there is no sshd: make bin/debian-sshd")
	}
	return inNamespace(t)
}

// TestDeviceInstall puts sovereignd on another computer by real ssh and takes
// it away, over a link that breaks at 50 random points: what stands there is
// always whole, nothing else does, and the words say what broke.
func TestDeviceInstall(t *testing.T) {
	if !needSSHD(t) {
		return
	}
	r := newRemote(t, nil)
	program, err := os.ReadFile("../bin/sovereignd")
	if err != nil {
		t.Fatal(err)
	}
	r.link.breakAfter(0)
	var did struct {
		Device, Program, Digest, Service string
		Changed                          bool
		Missing                          []string
	}
	if err := json.Unmarshal([]byte(r.ok("device", "install", "ssh:nas", "--json")), &did); err != nil {
		t.Fatal(err)
	}
	if did.Device != "ssh:nas" || !did.Changed || did.Program != "/home/ann/"+installedProgram || did.Service != "" {
		t.Errorf("%+v", did)
	}
	whole := func() bool {
		got, err := os.ReadFile(filepath.Join(r.home, installedProgram))
		return err == nil && bytes.Equal(got, program)
	}
	if !whole() {
		t.Error("what was installed is not what was sent")
	}
	bytesOfAll := r.link.passed.Load()
	settled(t, r)
	if out := r.ok("device", "list"); out != "local  (default)\nssh:nas\n" {
		t.Errorf("%q", out)
	}
	out, errs, code := r.call("device", "install", "ssh:nas")
	if code != 0 || !strings.Contains(errs, "has this sovereignd already") || !strings.Contains(out, "there is no systemd") {
		t.Errorf("exit %d, %q, %q", code, out, errs)
	}

	// Another's key: ssh's own words, and nothing was done.
	r.knows("other")
	if _, errs, code := r.call("device", "install", "ssh:nas"); code != 8 || !strings.Contains(errs, "Host key verification failed") {
		t.Errorf("exit %d, %q", code, errs)
	}
	r.knows("host")

	broken := 0
	for i, n := range points(t, 50, bytesOfAll) {
		// Half of them find another program there, and half of them none.
		path := filepath.Join(r.home, installedProgram)
		before := []byte("#!/bin/sh\n")
		if i%2 == 0 {
			err = errors.Join(os.RemoveAll(path), os.WriteFile(path, before, 0o755))
		} else {
			before = nil
			err = os.RemoveAll(filepath.Dir(path))
		}
		if err != nil {
			t.Fatal(err)
		}
		r.link.breakAfter(n)
		_, errs, code := r.call("device", "install", "ssh:nas")
		r.link.breakAfter(0)
		settled(t, r)
		got, err := os.ReadFile(path)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if !bytes.Equal(got, before) && !bytes.Equal(got, program) {
			t.Errorf("cut after %d bytes: %d bytes stand there", n, len(got))
		}
		for _, name := range r.files() {
			if strings.Contains(name, ".new.") {
				t.Errorf("cut after %d bytes: left: %s", n, name)
			}
		}
		if code == 0 {
			if !whole() {
				t.Errorf("cut after %d bytes: it says that all is well", n)
			}
			continue
		}
		broken++
		if code != 8 || !strings.HasPrefix(lastLine(errs, "sovereign-build: "), "ssh:nas: ") {
			t.Errorf("cut after %d bytes: exit %d, %q", n, code, errs)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		chown(t, r.home)
	}
	t.Logf("%d of 50 were broken", broken)
	if broken < 25 {
		t.Errorf("only %d of 50 installs were broken", broken)
	}
	r.ok("device", "install", "ssh:nas")
	if !whole() {
		t.Error("it is not mended")
	}
	if out := r.ok("device", "status", "ssh:nas"); !strings.Contains(out, "machines  0, in /home/ann/.local/state/sovereign") {
		t.Error(out)
	}
	if _, errs, code := r.call("device", "remove", "ssh:nas"); code != 2 || !strings.Contains(errs, "say --yes") {
		t.Errorf("exit %d, %q", code, errs)
	}
	if out := r.ok("device", "remove", "ssh:nas", "--yes"); !strings.Contains(out, "are kept: /home/ann/.local/state/sovereign") {
		t.Error(out)
	}
	if got := strings.Join(r.files(), " "); strings.Contains(got, "share") || !strings.Contains(got, ".local/state/sovereign/") {
		t.Errorf("left: %s", got)
	}
	settled(t, r)
}

// fakeSystemd are as much of systemctl and loginctl as is asked for, with files
// for what they know, and a log of what changes something.
var fakeSystemd = map[string]string{
	"systemctl": `#!/bin/sh
cd /run/fake
[ "$1" = --user ] || exit 1
shift
case $1 in
is-enabled) [ -f enabled ] && echo enabled ;;
is-active) [ -f active ] && echo active ;;
show-environment) ;;
*) echo "systemctl $*" >>log ;;
esac
case $1 in
enable) : >enabled ;;
start) : >active ;;
disable) rm -f enabled active ;;
esac
`,
	"loginctl": `#!/bin/sh
cd /run/fake
case $1 in
show-user) [ -f linger ] && echo Linger=yes || echo Linger=no ;;
enable-linger) [ -f allowed ] && : >linger && echo "loginctl $*" >>log ;;
disable-linger) rm -f linger; echo "loginctl $*" >>log ;;
esac
`,
}

// TestDeviceService has sovereignd be started with a computer that has systemd,
// where its user may, and leaves nothing of that.
func TestDeviceService(t *testing.T) {
	if !needSSHD(t) {
		return
	}
	r := newRemote(t, fakeSystemd)
	there := func(command string) string {
		t.Helper()
		cmd := exec.Command(r.ssh, "-T", "-o", "RemoteCommand=none", "-o", "ClearAllForwardings=yes", "nas", command)
		cmd.Env = r.env
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		return string(out)
	}
	// Who may not linger has no service that outlives the login.
	out := r.ok("device", "install", "ssh:nas")
	if !strings.Contains(out, "as root, run loginctl enable-linger ann, and install again") || slices.Contains(r.files(), ".config") {
		t.Errorf("%s, %s", out, r.files())
	}
	there(": >/run/fake/allowed")
	out = r.ok("device", "install", "ssh:nas")
	if !strings.Contains(out, "started with the device, as a service of the user: /home/ann/.config/systemd/user/sovereignd.service") {
		t.Error(out)
	}
	unit := filepath.Join(r.home, ".config/systemd/user/sovereignd.service")
	text, err := os.ReadFile(unit)
	if err != nil || !strings.Contains(string(text), "\nExecStart=/home/ann/.local/share/sovereign/sovereignd --stop-machines\n") {
		t.Errorf("%v\n%s", err, text)
	}
	if out := r.ok("device", "status", "ssh:nas", "--json"); !strings.Contains(out, `"service":"user"`) {
		t.Error(out)
	}
	want := "loginctl enable-linger\nsystemctl daemon-reload\nsystemctl enable sovereignd.service\nsystemctl start sovereignd.service\n"
	if got := there("cat /run/fake/log"); got != want {
		t.Errorf("done there:\n%s", got)
	}
	r.ok("device", "remove", "ssh:nas", "--data", "--yes")
	if got := there("ls /run/fake"); got != "allowed\nlog\n" {
		t.Errorf("left there: %s", got)
	}
	if left := r.files(); len(left) > 0 {
		t.Errorf("left: %s", left)
	}
	if out := r.ok("device", "list"); out != "local  (default)\n" {
		t.Error(out)
	}
	settled(t, r)
}

// settled waits until nothing of a broken conversation runs there any more.
func settled(t testing.TB, r *remote) {
	t.Helper()
	waitFor(t, "the far side to end", func() bool { return len(processesOf(t, deviceUID)) == 0 })
}

// lastLine is the last line that begins so, without that.
func lastLine(text, begin string) string {
	last := ""
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, begin); ok {
			last = strings.TrimSpace(rest)
		}
	}
	return last
}

// chown gives a tree to the user there.
func chown(t testing.TB, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err == nil {
			err = os.Lchown(path, deviceUID, deviceUID)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// processesOf are the command lines of a user's processes.
func processesOf(t testing.TB, uid int) []string {
	t.Helper()
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, d := range dirs {
		status, err := os.ReadFile(filepath.Join("/proc", d.Name(), "status"))
		if err != nil {
			continue // no process, or none any more
		}
		fields := strings.Fields(lastLine(string(status), "Uid:"))
		if len(fields) > 0 && fields[0] == strconv.Itoa(uid) {
			line, _ := os.ReadFile(filepath.Join("/proc", d.Name(), "cmdline"))
			found = append(found, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	slices.Sort(found)
	return found
}
