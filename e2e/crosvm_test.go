package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/sovereignd"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/crosvm"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/machinekey"
)

// phone is a machine whose sovereignd has the test phone's crosvm.
type phone struct {
	*machine
	crosvm, vsock string
}

// newPhone builds the stand-in and starts a sovereignd that has it. The host's own
// kernel has no vsock for guests: theirs comes by sockets in a directory.
func newPhone(t *testing.T, settings map[string]any) *phone {
	t.Helper()
	return newPhoneAt(t, t.TempDir(), settings)
}

// newPhoneAt is newPhone with the directory of the machines' state.
func newPhoneAt(t *testing.T, state string, settings map[string]any) *phone {
	t.Helper()
	m := newMachine(t)
	m.env[len(m.env)-1] = "XDG_STATE_HOME=" + state
	b, err := bundle.Load(m.bundle)
	if err != nil {
		t.Fatal(err)
	}
	vsock, err := os.MkdirTemp("", "vsock") // a socket's path may have 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(vsock) })
	p := &phone{m, filepath.Join(t.TempDir(), "crosvm"), vsock}
	build := exec.Command("go", "build", "-o", p.crosvm, "../internal/testphone/crosvm")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building crosvm's stand-in: %v\n%s", err, out)
	}
	all := map[string]any{"profile": "a16", "arch": b.Arch, "vsock_dir": vsock}
	// A phone's sovereignd, which is root, lifts the limit for itself; here it gets
	// none, or the stand-in does not look, where that cannot be.
	err = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	all["any_memlock"] = err != nil
	for k, v := range settings {
		all[k] = v
	}
	text, err := json.Marshal(all)
	if err == nil {
		err = os.WriteFile(filepath.Join(filepath.Dir(p.crosvm), "crosvm.json"), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	p.start(t)
	return p
}

// start starts its sovereignd, and waits for that.
func (p *phone) start(t *testing.T) {
	t.Helper()
	if err := sovereignd.MakeStateDir(p.stateDir()); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("../bin/sovereignd", "--state-dir", p.stateDir(), "--hypervisor", "crosvm", "--crosvm", p.crosvm, "--vsock-dir", p.vsock)
	cmd.Env, cmd.Stderr = p.env, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		conn, err := sovereignd.Connect(t.Context(), p.stateDir())
		if err == nil {
			conn.Close()
			return
		}
		select {
		case err := <-ended:
			t.Fatalf("sovereignd ended: %v", err)
		default:
			pause(t, t.Context())
		}
	}
}

// dir is the machine's directory.
func (p *phone) dir() string { return filepath.Join(p.stateDir(), "instances", "sql") }

// own is the driver's record.
func (p *phone) own() (r struct {
	CID     uint32
	CPUs    int
	MaxCPUs int `json:"max_cpus"`
	Up      bool
}) {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join(p.dir(), "crosvm.json"))
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return r
}

// TestCrosvm has sovereignd keep the real machine as on a phone: under crosvm's
// stand-in, its agent and its network over vsock.
func TestCrosvm(t *testing.T) {
	p := newPhone(t, nil)
	m := p.machine
	ctx, cancel := context.WithTimeout(t.Context(), 6*bootDeadline)
	defer cancel()

	begin := time.Now()
	m.up(m.bundle)
	t.Logf("up: ready after %.1f s", time.Since(begin).Seconds())
	conn := m.connect(ctx)
	for _, sql := range []string{"CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (42)"} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	first := m.process()

	t.Run("what is seen of it", func(t *testing.T) {
		m := m.in(t)
		if out := m.ok("status", "sql", "--json"); !strings.Contains(out, `"hypervisor":"crosvm 0.1.0-testphone"`) {
			t.Errorf("status says nothing of crosvm: %s", out)
		}
		key, err := os.ReadFile(filepath.Join(p.dir(), "key.img"))
		if err != nil || len(key) != machinekey.DiskSize {
			t.Fatalf("the key's disk: %d bytes, %v", len(key), err)
		}
		secret := string(key[24 : 24+machinekey.Size])
		for _, file := range []string{fmt.Sprintf("/proc/%d/cmdline", first.PID), fmt.Sprintf("/proc/%d/environ", first.PID),
			filepath.Join(p.dir(), "console.log"), filepath.Join(p.dir(), "machine.log"), filepath.Join(p.dir(), "crosvm.json")} {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Error(err)
			}
			if strings.Contains(string(text), secret) || strings.Contains(string(text), fmt.Sprintf("%x", secret[:8])) {
				t.Errorf("%s has the key", file)
			}
		}
		if info, err := os.Stat(filepath.Join(p.dir(), "data.img")); err != nil || info.Sys().(*syscall.Stat_t).Blocks*512 < info.Size() {
			t.Errorf("the data disk has no room of its own: %v", err)
		}
		if rec := p.own(); !rec.Up || rec.CPUs == 0 || rec.CID < 1<<16 {
			t.Errorf("the driver's record: %+v", rec)
		}
	})

	// Neither who has no key is let in, nor is there a way that asks for none.
	t.Run("a stranger", func(t *testing.T) {
		dial := crosvm.DialDirectory(p.vsock)
		for _, port := range []uint32{agent.VsockPort, agent.NetworkPort} {
			c, err := dial(ctx, p.own().CID, port)
			if err != nil {
				t.Fatal(err)
			}
			if err := machinekey.New().Host(ctx, c, port); err == nil || !strings.Contains(err.Error(), "does not have") {
				t.Errorf("port %d: %v", port, err)
			}
		}
		if c, err := dial(ctx, p.own().CID, 22); err == nil {
			c.Close()
			t.Error("a port that nobody listens at was connected to")
		}
	})

	t.Run("names and its network", func(t *testing.T) {
		m := m.in(t)
		if out, code := m.shell("root", "nslookup sql.internal 10.0.2.1 && ping -c 1 -W 5 10.0.2.1 >/dev/null; cat /sys/class/net/eth0/mtu"); code != 0 ||
			!strings.Contains(out, "10.0.2.2") || !strings.Contains(out, "65520") {
			t.Errorf("exit code %d: %s", code, out)
		}
	})

	t.Run("balloon and grow", func(t *testing.T) {
		m := m.in(t)
		m.ok("balloon", "sql", "320MiB")
		if out := m.ok("balloon", "sql", "--json"); !strings.Contains(out, "335544320") {
			t.Errorf("balloon: %s", out)
		}
		m.ok("balloon", "sql", "512MiB")
		m.ok("grow", "sql", "9GiB")
		if out, _ := m.shell("root", "cat /sys/block/vdb/size"); strings.TrimSpace(out) != fmt.Sprint(9<<30/512) {
			t.Errorf("the disk has %s sectors", out)
		}
		if info, err := os.Stat(filepath.Join(p.dir(), "data.img")); err != nil || info.Size() != 9<<30 || info.Sys().(*syscall.Stat_t).Blocks*512 < 9<<30 {
			t.Errorf("the image: %v, %v", info.Size(), err)
		}
		m.rows(ctx)
	})

	t.Run("crosvm is killed", func(t *testing.T) {
		m := m.in(t)
		begin := time.Now()
		m.signal(first, syscall.SIGKILL)
		for m.record().Process == nil || *m.record().Process == first {
			pause(t, ctx)
		}
		m.up("sql")
		m.rows(ctx)
		t.Logf("healed after %.1f s", time.Since(begin).Seconds())
		if s := m.status(); s.Ends.Total != 1 || s.Ends.Last == nil || !strings.Contains(s.Ends.Last.Why, "signal 9") {
			t.Errorf("ends: %+v", s.Ends.Last)
		}
	})

	t.Run("its kernel panics", func(t *testing.T) {
		m := m.in(t)
		before, ends := m.process(), m.status().Ends.Total
		m.shell("root", "kill -QUIT 1") // a kernel without its init panics
		for m.record().Process == nil || *m.record().Process == before {
			pause(t, ctx)
		}
		m.up("sql")
		m.rows(ctx)
		s := m.status()
		if s.Ends.Total != ends+1 || !strings.Contains(s.Ends.Last.Why, "exit code 34") || !strings.Contains(s.Ends.Last.Why, "Kernel panic") {
			t.Errorf("ends: %+v", s.Ends.Last)
		}
	})

	t.Run("sovereignd is killed", func(t *testing.T) {
		m := m.in(t)
		machine := m.process()
		if !m.killSupervisor() {
			t.Fatal("no sovereignd runs")
		}
		p.start(t)
		m.up("sql")
		if now := m.process(); now != machine {
			t.Errorf("process %+v, was %+v", now, machine)
		}
		m.rows(ctx)
	})

	t.Run("an update that does not boot", func(t *testing.T) {
		m := m.in(t)
		wrong := strings.Repeat("0123456789abcdef", 4)
		bad := m.variant(t, func(b *bundle.Manifest) {
			b.VM.Cmdline = strings.ReplaceAll(b.VM.Cmdline, b.Root.Hash, wrong)
			b.Root.Hash = wrong
		})
		r := m.try(int(fault.Device), "update", "sql", bad)
		if r.Result != "reverted" || !strings.Contains(r.Why, "exit code 32") {
			t.Errorf("update: %+v", r)
		}
		m.rows(ctx)
		if rec := p.own(); rec.MaxCPUs != 0 {
			t.Errorf("a reset by the guest's init was taken for the processor's: %+v", rec)
		}
	})

	t.Run("a good update, and back", func(t *testing.T) {
		m := m.in(t)
		good := m.variant(t, func(b *bundle.Manifest) { b.VM.MemoryMiB += 64 })
		before := m.status()
		if r := m.try(0, "update", "sql", good); r.Result != "committed" {
			t.Errorf("update: %+v", r)
		}
		m.rows(ctx)
		r := m.try(0, "rollback", "sql")
		if s := m.status(); r.Result != "committed" || s.Active != before.Active {
			t.Errorf("rollback: %+v, %+v", r, s)
		}
		m.rows(ctx)
	})

	t.Run("down in order", func(t *testing.T) {
		m := m.in(t)
		out := m.ok("down", "sql", "--json")
		if strings.Contains(out, `"forced":true`) {
			t.Errorf("down: %s", out)
		}
		if _, err := os.Lstat(filepath.Join(p.dir(), "control.sock")); err == nil {
			t.Error("an end in order leaves the socket")
		}
	})

	// A guest that has written the head of another format into its own disk.
	t.Run("a disk that is not raw", func(t *testing.T) {
		m := m.in(t)
		disk, err := os.OpenFile(filepath.Join(p.dir(), "data.img"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer disk.Close()
		if _, err := disk.WriteAt([]byte("QFI\xfb"), 0); err != nil {
			t.Fatal(err)
		}
		if out, code := m.command("up", "sql", "--json"); code != int(fault.Device) || !strings.Contains(out, "QCOW2") {
			t.Errorf("exit code %d: %s", code, out)
		}
		m.ok("down", "sql")
		if _, err := disk.WriteAt(make([]byte, 4), 0); err != nil {
			t.Fatal(err)
		}
		m.up("sql")
		m.rows(ctx)
		m.ok("down", "sql")
	})
}

// TestCrosvmOthers has what differs by phone: a later crosvm whose control socket
// speaks otherwise, a processor that resets a guest of more than one CPU, memory
// that the host cannot read, and so no random numbers from a device.
func TestCrosvmOthers(t *testing.T) {
	p := newPhone(t, map[string]any{"profile": "newer", "max_cpus": 1, "other_json": true})
	m := p.machine
	ctx, cancel := context.WithTimeout(t.Context(), 3*bootDeadline)
	defer cancel()
	// The first start ends at once; whether up has seen that is chance.
	if out, code := m.command("up", m.bundle, "--protected", "--timeout", bootDeadline.String()); code != 0 && code != int(fault.Device) {
		t.Fatalf("up: exit code %d: %s", code, out)
	}
	// A guest that is reset before crosvm answers is tried again by the driver
	// itself; one that is reset later has ended.
	if s := m.status(); s.Ends.Last != nil && !strings.Contains(s.Ends.Last.Why, "exit code 32") {
		t.Errorf("ends: %+v", s.Ends.Last)
	}
	m.up("sql")
	conn := m.connect(ctx)
	if n := scan[int](t, ctx, conn, "SELECT 42"); n != 42 {
		t.Errorf("SELECT gave %d", n)
	}
	if rec := p.own(); rec.CPUs != 1 || rec.MaxCPUs != 1 || !rec.Up {
		t.Errorf("the driver's record: %+v", rec)
	}
	if out := m.ok("status", "sql", "--json"); !strings.Contains(out, `"protected":true`) {
		t.Errorf("status says nothing of protection: %s", out)
	}
	if out, code := m.shell("root", "ls /sys/class/misc/hw_random >/dev/null; cat /sys/class/misc/hw_random/rng_available"); strings.Contains(out, "virtio") {
		t.Errorf("a protected guest has a device of random numbers: %d, %s", code, out)
	}
	m.ok("balloon", "sql", "320MiB") // by the program's own command
	m.ok("down", "sql")
}

// TestCrosvmFullHost fills the file system that a machine's disk lies in. A disk
// with room of its own does not notice; a thin one is shut down in order before its
// writes fail, and comes back by itself when there is room.
func TestCrosvmFullHost(t *testing.T) {
	needBundle(t)
	host := t.TempDir()
	if err := unix.Mount("tmpfs", host, "tmpfs", 0, "mode=0700,size=4g"); err != nil {
		t.Skipf("a file system of its own: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(host, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", host, err)
		}
	})
	p := newPhoneAt(t, host, nil)
	m := p.machine
	ctx, cancel := context.WithTimeout(t.Context(), 4*bootDeadline)
	defer cancel()
	m.up(m.variant(t, func(b *bundle.Manifest) { b.VM.Data.Size = 1 << 30 }))
	conn := m.connect(ctx)
	if _, err := conn.Exec(ctx, "CREATE TABLE kept AS SELECT 42 AS n"); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(host, "ballast")
	fill(t, ballast)
	// Half of what TestFullHost writes is more than what is left, too.
	if _, err := conn.Exec(ctx, strings.ReplaceAll(filling, "250000", "125000")); err != nil {
		t.Errorf("a disk with its room, on a full host: %v", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	m.ok("down", "sql")

	m.ok("up", "sql", "--thin", "--timeout", bootDeadline.String())
	m.rows(ctx)
	fill(t, ballast)
	state, message := "", ""
	for state != "restarting" {
		pause(t, ctx)
		state, message = m.state()
	}
	if !strings.Contains(message, "is full") {
		t.Errorf("status says %q", message)
	}
	console, err := os.ReadFile(filepath.Join(p.dir(), "console.log"))
	if err != nil || !strings.Contains(string(console), "power off") || strings.Contains(string(console), "I/O error") {
		t.Errorf("the guest did not end in order: %v", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	m.up("sql")
	m.rows(ctx)
	m.ok("down", "sql")
}
