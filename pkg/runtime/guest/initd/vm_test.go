package initd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/cmdline"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

// The tests of this file boot sovereign-init under QEMU, x86-64, by emulation.
// SOVEREIGN_E2E names the bundle whose kernel they boot; without it they are
// skipped.

// kernelImage is that kernel.
func kernelImage() string { return filepath.Join(os.Getenv("SOVEREIGN_E2E"), "bzImage") }

const vmDeadline = 10 * time.Minute // one boot takes 3 s on an idle machine

// vm is a running QEMU.
type vm struct {
	t       *testing.T
	dir     string
	exited  chan struct{}
	process *os.Process
}

func boot(t *testing.T, img image, data, parameters string) *vm {
	t.Helper()
	return bootOn(t, img, data, parameters, []string{"-netdev", "user,id=n,restrict=on"})
}

// bootOn boots with arguments of QEMU's among which is the netdev n; the files
// are its descriptors 3 and up.
func bootOn(t *testing.T, img image, data, parameters string, machine []string, files ...*os.File) *vm {
	t.Helper()
	v := &vm{t: t, dir: t.TempDir(), exited: make(chan struct{})}
	args := []string{"-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "384", "-nodefaults", "-no-user-config", "-no-reboot",
		"-display", "none", "-serial", "file:" + v.console(), "-qmp", "unix:" + v.qmp() + ",server=on,wait=off",
		"-kernel", kernelImage(), "-initrd", img.initramfs,
		"-append", "console=ttyS0 panic=-1 quiet no_timer_check root.serial=root " + parameters,
		"-drive", "if=none,id=d,format=raw,file=" + data, "-device", "virtio-blk-pci,drive=d,serial=data",
		"-drive", "if=none,id=r,format=raw,readonly=on,file=" + img.disk, "-device", "virtio-blk-pci,drive=r,serial=root",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=a,server=on,wait=off,path=" + v.socket(),
		"-device", "virtserialport,chardev=a,name=" + agent.PortName,
		"-device", "virtio-net-pci,netdev=n,romfile=",
		"-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"}
	cmd := exec.Command("qemu-system-x86_64", append(args, machine...)...)
	cmd.ExtraFiles = files
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	v.process = cmd.Process
	go func() {
		defer close(v.exited)
		if err := cmd.Wait(); err != nil {
			t.Logf("qemu: %v %s", err, stderr.String())
		}
	}()
	t.Cleanup(func() {
		select {
		case <-v.exited:
		default:
			v.process.Kill()
			<-v.exited
		}
		if t.Failed() {
			t.Logf("console:\n%s", v.text())
		}
	})
	return v
}

func (v *vm) console() string { return filepath.Join(v.dir, "console") }
func (v *vm) socket() string  { return filepath.Join(v.dir, "agent") }
func (v *vm) qmp() string     { return filepath.Join(v.dir, "qmp") }

func (v *vm) text() string {
	b, err := os.ReadFile(v.console())
	if err != nil {
		v.t.Fatal(err)
	}
	return string(b)
}

// off waits until the machine is off.
func (v *vm) off() string {
	v.t.Helper()
	select {
	case <-v.exited:
	case <-time.After(vmDeadline):
		v.t.Fatal("the machine did not go off")
	}
	return v.text()
}

// client waits for QEMU's socket and the guest's agent.
func (v *vm) client() *agent.Client {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), vmDeadline)
	defer cancel()
	for {
		conn, err := net.Dial("unix", v.socket())
		if err == nil {
			c, err := agent.Dial(ctx, conn)
			if err != nil {
				v.t.Fatal(err)
			}
			v.t.Cleanup(func() { c.Close() })
			return c
		}
		select {
		case <-ctx.Done():
			v.t.Fatal(err)
		case <-v.exited:
			v.t.Fatal("qemu ended")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// until asks for the status until ok.
func (v *vm) until(c *agent.Client, what string, ok func(*agent.Status) bool) *agent.Status {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), vmDeadline)
	defer cancel()
	for {
		s, err := c.Status(ctx)
		if err != nil {
			v.t.Fatalf("%s: %v", what, err)
		}
		if ok(s) {
			return s
		}
		select {
		case <-ctx.Done():
			v.t.Fatalf("%s did not happen: %+v", what, s)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// told waits for a status that the guest tells by itself: it is not asked again.
func (v *vm) told(c *agent.Client, what string, ok func(*agent.Status) bool) *agent.Status {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), vmDeadline)
	defer cancel()
	var last *agent.Status
	done := errors.New("done")
	err := c.FollowStatus(ctx, time.Hour, vmDeadline, func(s *agent.Status) error {
		if last = s; ok(s) {
			return done
		}
		return nil
	})
	if !errors.Is(err, done) {
		v.t.Fatalf("%s was not told: %+v, %v", what, last, err)
	}
	return last
}

func (v *vm) log(c *agent.Client, service string) string {
	v.t.Helper()
	r, err := c.Logs(v.t.Context(), service, false)
	if err != nil {
		v.t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		v.t.Fatal(err)
	}
	return string(b)
}

func (v *vm) shutdown(c *agent.Client) {
	v.t.Helper()
	if err := c.Shutdown(v.t.Context()); err != nil {
		v.t.Fatal(err)
	}
	if text := v.off(); !strings.Contains(text, "power off") {
		v.t.Error("no power off on the console")
	}
}

func ready(s *agent.Status) bool { return s.State == agent.StateReady }

// dataSerial names the data disk; without it the guest spec does.
const dataSerial = "data.serial=data "

const staticNet = "sovereign.net=eth0,10.0.2.15/24,10.0.2.2,10.0.2.3"

func TestVM(t *testing.T) {
	img := makeImage(t)
	params := dataSerial + "roothash=" + img.rootHash + " " + staticNet
	data := blankDisk(t, 256<<20)
	var secret string
	t.Run("first boot", func(t *testing.T) {
		v := boot(t, img, data, params)
		c := v.client()
		s := v.told(c, "ready", ready)
		t.Logf("ready %d ms after the kernel's start", s.BootMS)
		// The service kills itself once in each boot, and is healed.
		v.told(c, "restart", func(s *agent.Status) bool { b, _ := s.Service("beat"); return b.Restarts == 1 && b.Healthy })
		log := v.log(c, "beat")
		for _, want := range []string{"boots: 1\n", "10.0.2.15", "127.0.0.1", "nameserver 10.0.2.3", "uid=1000(app)", "files 4096", "oom 7", "secret 43"} {
			if !strings.Contains(log, want) {
				t.Errorf("log has no %q:\n%s", want, log)
			}
		}
		// Of 384 MiB of memory and a disk of 256.
		if !regexp.MustCompile(`(?m)^machine 3\d\d 2\d\d 10\.0\.2\.15$`).MatchString(log) {
			t.Errorf("the machine is not described:\n%s", log)
		}
		var err error
		if secret, err = c.Secret(t.Context(), "beat", "key"); err != nil || len(secret) != 43 {
			t.Errorf("secret: %q, %v", secret, err)
		}
		if err := c.Freeze(t.Context(), time.Minute); err != nil {
			t.Error(err)
		}
		if s, err := c.Status(t.Context()); err != nil || !s.Frozen {
			t.Errorf("frozen: %+v, %v", s, err)
		}
		if err := c.Thaw(t.Context()); err != nil {
			t.Error(err)
		}
		v.operate(c)
		v.fenced(c)
		v.paused(c)
		v.shutdown(c)
		if out, err := exec.Command("e2fsck", "-fn", data).CombinedOutput(); err != nil {
			t.Errorf("data disk after a shutdown: %v\n%s", err, out)
		}
		t.Logf("console:\n%s", v.text())
	})
	t.Run("second boot with a larger disk and dhcp", func(t *testing.T) {
		if err := os.Truncate(data, 320<<20); err != nil {
			t.Fatal(err)
		}
		v := boot(t, img, data, dataSerial+"roothash="+img.rootHash+" sovereign.net=eth0,dhcp")
		c := v.client()
		s := v.until(c, "ready", ready)
		t.Logf("ready %d ms after the kernel's start", s.BootMS)
		log := ""
		v.until(c, "the whole log", func(*agent.Status) bool { log = v.log(c, "beat"); return strings.Contains(log, "secret 43") })
		if !strings.Contains(log, "boots: 2\n") || !strings.Contains(log, "10.0.2.15") {
			t.Errorf("log: %s", log)
		}
		if again, err := c.Secret(t.Context(), "beat", "key"); err != nil || again != secret {
			t.Errorf("secret: %q, %v", again, err)
		}
		if log := v.log(c, "init"); !strings.Contains(log, "file system grown to 319 MiB") {
			t.Errorf("init: %s", log)
		}
		v.phases(c)
		v.shutdown(c)
		t.Logf("console:\n%s", v.text())
	})
	t.Run("the data disk that only the spec names", func(t *testing.T) {
		v := boot(t, img, data, "roothash="+img.rootHash+" "+staticNet)
		c := v.client()
		v.until(c, "ready", ready)
		if again, err := c.Secret(t.Context(), "beat", "key"); err != nil || again != secret {
			t.Errorf("secret: %q, %v", again, err)
		}
		v.phases(c)
		v.shutdown(c)
	})
	// The setup is told the address that the machine is to have, and again that
	// it has none, before the program starts.
	t.Run("no network device", func(t *testing.T) {
		v := boot(t, img, data, dataSerial+"roothash="+img.rootHash+" sovereign.net=eth7,10.0.2.15/24,10.0.2.2,10.0.2.3")
		c := v.client()
		log := ""
		v.until(c, "a start without a network", func(s *agent.Status) bool {
			log = v.log(c, "beat")
			return s.State == agent.StateDegraded && strings.Contains(s.Message, "eth7") && strings.Contains(log, "secret 43")
		})
		if !regexp.MustCompile(`(?s)setup 10\.0\.2\.15\nsetup\nboots: .*\nmachine \d+ \d+\n`).MatchString(log) {
			t.Errorf("log:\n%s", log)
		}
		v.shutdown(c)
	})
	t.Run("renewals and the time", func(t *testing.T) { testNetwork(t, img, data) })
	t.Run("wrong root hash", func(t *testing.T) {
		hash := strings.Repeat("5a", 32)
		if text := boot(t, img, data, dataSerial+"roothash="+hash).off(); !strings.Contains(text, "root hash does not match") {
			t.Errorf("console:\n%s", text)
		}
	})
	t.Run("corrupted root", func(t *testing.T) {
		bad := img
		bad.disk = filepath.Join(t.TempDir(), "root.img")
		copyFile(t, img.disk, bad.disk)
		f, err := os.OpenFile(bad.disk, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte{0xff}, rootOffset+1024+100); err != nil {
			t.Fatal(err)
		}
		before := digest(t, data)
		if text := boot(t, bad, data, params).off(); !strings.Contains(text, "corrupt") || strings.Contains(text, "data disk") {
			t.Errorf("console:\n%s", text)
		}
		if digest(t, data) != before {
			t.Error("the data disk was written to")
		}
	})
	t.Run("foreign data disk", func(t *testing.T) {
		foreign := blankDisk(t, 64<<20)
		f, err := os.OpenFile(foreign, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte("XFSB"), 0); err != nil {
			t.Fatal(err)
		}
		before := digest(t, foreign)
		v := boot(t, img, foreign, params)
		c := v.client()
		s := v.until(c, "failed", func(s *agent.Status) bool { return s.State == agent.StateFailed })
		if !strings.Contains(s.Message, "holds XFS, and is left alone") || len(s.Services) != 0 {
			t.Errorf("status: %+v", s)
		}
		v.shutdown(c)
		if digest(t, foreign) != before {
			t.Error("the disk was written to")
		}
	})
	t.Run("no guest spec", func(t *testing.T) {
		img := makeImage(t, func(root string) {
			if err := os.Remove(root + spec.Path); err != nil {
				t.Fatal(err)
			}
		})
		v := boot(t, img, data, dataSerial+"roothash="+img.rootHash+" "+staticNet)
		c := v.client()
		s := v.until(c, "failed", func(s *agent.Status) bool { return s.State == agent.StateFailed })
		if !strings.Contains(s.Message, spec.Path) || s.Clock != "" {
			t.Errorf("status: %+v", s)
		}
		// Whoever looks for the reason has a network.
		v.until(c, "resolv.conf", func(*agent.Status) bool {
			_, out := v.exec(c, agent.ExecRequest{Argv: []string{"cat", "/etc/resolv.conf"}})
			return out == "nameserver 10.0.2.3\n"
		})
		v.shutdown(c)
		if out, err := exec.Command("e2fsck", "-n", data).CombinedOutput(); err != nil || !strings.Contains(string(out), ": clean,") {
			t.Errorf("data disk after a shutdown: %v\n%s", err, out)
		}
	})
	t.Run("probe", func(t *testing.T) {
		if text := boot(t, img, data, "sovereign.probe").off(); !strings.Contains(text, cmdline.ProbeLine) {
			t.Errorf("console:\n%s", text)
		}
	})
}

// exec runs a command in the guest.
func (v *vm) exec(c *agent.Client, r agent.ExecRequest) (int, string) {
	v.t.Helper()
	var out bytes.Buffer
	code, err := c.Exec(v.t.Context(), r, agent.ExecIO{Stdout: &out, Stderr: &out})
	if err != nil {
		v.t.Fatalf("%q: %v", r.Argv, err)
	}
	return code, out.String()
}

// operate does with a guest what an operator does.
func (v *vm) operate(c *agent.Client) {
	t, ctx := v.t, v.t.Context()
	t.Helper()
	if code, out := v.exec(c, agent.ExecRequest{Argv: []string{"sh", "-c", "id; cat /proc/self/oom_score_adj /proc/self/cgroup; exit 7"}, User: "app"}); code != 7 ||
		!strings.Contains(out, "uid=1000(app)") || !strings.Contains(out, "500\n0::/exec:") {
		t.Errorf("exec: %d, %q", code, out)
	}
	if code, out := v.exec(c, agent.ExecRequest{Argv: []string{"sh", "-c", "tty; stty size"}, User: "app", TTY: true, Rows: 33, Cols: 111}); code != 0 ||
		!strings.Contains(out, "/dev/pts/0") || !strings.Contains(out, "33 111") {
		t.Errorf("exec with a terminal: %d, %q", code, out)
	}
	readAhead := `while read device on rest; do [ $on != /data ] || cat /sys/block/${device#/dev/}/queue/read_ahead_kb; done </proc/mounts`
	if code, out := v.exec(c, agent.ExecRequest{Argv: []string{"sh", "-c", readAhead}}); code != 0 || out != "1024\n" {
		t.Errorf("readahead of the data disk in KiB: %d, %q", code, out)
	}
	s, err := c.Status(ctx)
	if err != nil || s.Data == nil || s.Data.Size < 200<<20 || s.Data.Free > s.Data.Size || s.Clock != agent.ClockRTC {
		t.Errorf("status: %+v, %v", s, err)
	}
	if e, _ := s.Service("eater"); e.Warning != "all is well" || !e.Optional {
		t.Errorf("eater: %+v", e)
	}
	if cert, err := c.Secret(ctx, "beat", "server.crt"); err != nil || !strings.HasPrefix(cert, "-----BEGIN CERTIFICATE") {
		t.Errorf("certificate: %q, %v", cert, err)
	}
	if err := c.SetSecret(ctx, "eater", "token", "a given one"); err != nil {
		t.Error(err)
	}
	if token, err := c.Secret(ctx, "eater", "token"); err != nil || token != "a given one" {
		t.Errorf("token: %q, %v", token, err)
	}
	// Out of memory: the service goes, init and the others stay.
	v.exec(c, agent.ExecRequest{Argv: []string{"touch", "/run/eater/hungry"}})
	if err := c.RestartService(ctx, "eater"); err != nil {
		t.Error(err)
	}
	v.until(c, "out of memory", func(s *agent.Status) bool {
		e, _ := s.Service("eater")
		return strings.Contains(e.Message, "out of memory (its limit is 32 MiB)") && s.State == agent.StateReady
	})
	v.exec(c, agent.ExecRequest{Argv: []string{"rm", "/run/eater/hungry"}})
	v.until(c, "eater healed", func(s *agent.Status) bool { e, _ := s.Service("eater"); return e.Healthy })
	if err := c.Grow(ctx); err != nil {
		t.Error(err)
	}
	m, err := c.Metrics(ctx)
	for _, want := range []string{"sovereign_up 1\n", "sovereign_memory_available_bytes ", "sovereign_service_memory_bytes{service=\"beat\"} ",
		"sovereign_service_cpu_seconds_total{service=\"beat\"} ", "sovereign_pressure_seconds_total{resource=\"memory\",tasks=\"full\"} "} {
		if err != nil || !strings.Contains(string(m), want) {
			t.Errorf("metrics: %v, no %q in\n%s", err, want, m)
		}
	}
	v.phases(c)
}

// phases prints what the boot did when, and checks that nothing is missing.
func (v *vm) phases(c *agent.Client) {
	v.t.Helper()
	b, err := c.Boot(v.t.Context())
	if err != nil {
		v.t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, p := range b.Phases {
		v.t.Logf("%8.1f %8.1f %7.1f ms %s", p.StartMS, p.EndMS, p.EndMS-p.StartMS, p.Name)
		seen[p.Name] = p.EndMS >= p.StartMS
	}
	for _, want := range []string{"kernel", "early mounts", "root disk", "verity", "switch root", "mounts", "guest spec", "network",
		"data disk: find", "data disk: check", "data disk: mount", "beat: setup", "beat: start"} {
		if !seen[want] {
			v.t.Errorf("no phase %q, or one without an end: %+v", want, b)
		}
	}
}

func digest(t *testing.T, path string) [32]byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(b)
}
