package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/internal/process"
	"github.com/sovereign-build/sovereign/internal/sovereignd"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// TestOperate has sovereignd keep the real machine: healed when QEMU is
// killed, adopted when sovereignd is, updated, brought back from an update
// that does not boot, rolled back; not started without its data disk, repaired
// when a slot is damaged; the rows are there all the time.
func TestOperate(t *testing.T) {
	m := newMachine(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*bootDeadline)
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

	t.Run("QEMU is killed", func(t *testing.T) {
		m := m.in(t)
		begin := time.Now()
		m.signal(first, syscall.SIGKILL)
		for m.record().Process == nil || *m.record().Process == first {
			pause(t, ctx)
		}
		m.up("sql")
		m.rows(ctx)
		t.Logf("healed after %.1f s", time.Since(begin).Seconds())
		if s := m.status(); s.Ends.Total != 1 || s.Ends.Last == nil || s.Ends.Last.Why == "" {
			t.Errorf("ends: %+v", s.Ends)
		}
	})

	t.Run("sovereignd is killed", func(t *testing.T) {
		m := m.in(t)
		machine := m.process()
		if !m.killSupervisor() {
			t.Fatal("no sovereignd runs")
		}
		m.rows(ctx) // by the next one, which whoever asks starts
		if s := m.status(); !s.Supervisor {
			t.Error("status says that no sovereignd runs")
		}
		m.up("sql")
		if now := m.process(); now != machine {
			t.Errorf("process %+v, was %+v", now, machine)
		}
		m.rows(ctx)
	})

	good := m.variant(t, func(b *bundle.Manifest) { b.VM.MemoryMiB += 64 })
	t.Run("an update that does not boot", func(t *testing.T) {
		m := m.in(t)
		wrong := strings.Repeat("0123456789abcdef", 4)
		bad := m.variant(t, func(b *bundle.Manifest) {
			b.VM.Cmdline = strings.ReplaceAll(b.VM.Cmdline, b.Root.Hash, wrong)
			b.Root.Hash = wrong
		})
		r := m.try(int(fault.Device), "update", "sql", bad)
		if r.Result != "reverted" || r.Why == "" {
			t.Errorf("update: %+v", r)
		}
		t.Logf("back after %.1f s: %s", r.Seconds, r.Why)
		m.rows(ctx)
		if s := m.status(); s.LastUpdate == nil || s.LastUpdate.Committed || s.LastUpdate.Why != r.Why || s.Trial != nil {
			t.Errorf("status: %+v", s)
		}
	})

	t.Run("a good update, and back", func(t *testing.T) {
		m := m.in(t)
		before := m.status()
		r := m.try(0, "update", "sql", good)
		if r.Result != "committed" || r.From != before.Slots[before.Active].Digest {
			t.Errorf("update: %+v", r)
		}
		t.Logf("updated after %.1f s", r.Seconds)
		m.rows(ctx)
		r = m.try(0, "rollback", "sql")
		if s := m.status(); r.Result != "committed" || r.To != before.Slots[before.Active].Digest || s.Active != before.Active {
			t.Errorf("rollback: %+v, %+v", r, s)
		}
		t.Logf("rolled back after %.1f s", r.Seconds)
		m.rows(ctx)
	})

	m.ok("down", "sql")
	if m.record().Process != nil {
		t.Error("the machine runs after down")
	}

	t.Run("the data disk is gone, and a slot is damaged", func(t *testing.T) {
		m := m.in(t)
		disk := filepath.Join(m.stateDir(), "instances", "sql", "data.img")
		if err := os.Rename(disk, disk+".away"); err != nil {
			t.Fatal(err)
		}
		if out, code := m.command("up", "sql", "--json"); code != int(fault.Environment) || !strings.Contains(out, "--new-data") {
			t.Errorf("up without its data disk: exit code %d: %s", code, out)
		}
		if state, message := m.state(); state != "restarting" || !strings.Contains(message, disk) {
			t.Errorf("status: %s, %s", state, message)
		}
		if _, err := os.Lstat(disk); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("something was put in its place: %v", err)
		}
		m.ok("down", "sql")
		if err := os.Rename(disk+".away", disk); err != nil {
			t.Fatal(err)
		}

		active := m.status().Active
		kernel := filepath.Join(m.stateDir(), "instances", "sql", "slots", string(active), m.kernel())
		if err := os.Truncate(kernel, 4096); err != nil {
			t.Fatal(err)
		}
		if out, code := m.command("update", "sql", m.bundle, "--json"); code != 0 || !strings.Contains(out, `"staged"`) {
			t.Errorf("repair: exit code %d: %s", code, out)
		}
		m.up("sql")
		m.rows(ctx)
		if s := m.status(); s.Active == active || len(s.Slots) != 1 {
			t.Errorf("after the repair: %+v", s)
		}
		m.ok("down", "sql")
	})
}

// kernel is the name of the bundle's.
func (m *machine) kernel() string {
	m.t.Helper()
	b, err := bundle.Load(m.bundle)
	if err != nil {
		m.t.Fatal(err)
	}
	a, _ := b.Artifact(bundle.RoleKernel)
	return a.File
}

// in is the machine in a subtest.
func (m *machine) in(t *testing.T) *machine {
	other := *m
	other.t = t
	return &other
}

// up brings the target up and notes its port.
func (m *machine) up(target string) {
	m.t.Helper()
	out := m.ok("up", target, "--json", "--timeout", bootDeadline.String())
	var started struct{ Ports map[string]int }
	if err := json.Unmarshal([]byte(out), &started); err != nil || started.Ports["5432"] == 0 {
		m.t.Fatalf("up --json printed %q: %v", out, err)
	}
	m.port = started.Ports["5432"]
}

// rows checks that what was written is there.
func (m *machine) rows(ctx context.Context) {
	m.t.Helper()
	m.port = m.record().Ports[0].Host
	conn := m.connect(ctx)
	defer conn.Close(ctx)
	var n int
	if err := conn.QueryRow(ctx, "SELECT n FROM kept").Scan(&n); err != nil || n != 42 {
		m.t.Errorf("SELECT gave %d, %v", n, err)
	}
}

type trialResult struct {
	Result, Why, From, To string
	Seconds               float64
}

func (m *machine) try(want int, args ...string) trialResult {
	m.t.Helper()
	out, code := m.command(append(args, "--json", "--timeout", bootDeadline.String())...)
	if code != want {
		m.t.Fatalf("%s: exit code %d, want %d: %s", args[0], code, want, out)
	}
	var r trialResult
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		m.t.Fatalf("%s --json printed %q: %v", args[0], out, err)
	}
	return r
}

func (m *machine) stateDir() string {
	return filepath.Join(strings.TrimPrefix(m.env[len(m.env)-1], "XDG_STATE_HOME="), "sovereign")
}

// record is the part of instance.json that the test looks at.
func (m *machine) record() (rec struct {
	Process    *vm.Process
	Ports      []struct{ Host int }
	Continuity struct{ Epoch uint64 }
}) {
	m.t.Helper()
	text, err := os.ReadFile(filepath.Join(m.stateDir(), "instances", "sql", "instance.json"))
	if err == nil {
		err = json.Unmarshal(text, &rec)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	return rec
}

func (m *machine) process() vm.Process {
	m.t.Helper()
	rec := m.record()
	if rec.Process == nil {
		m.t.Fatal("no machine runs")
	}
	return *rec.Process
}

func (m *machine) status() runtime.Supervision {
	m.t.Helper()
	var all struct {
		Machines []struct{ Supervision *runtime.Supervision }
	}
	out := m.ok("status", "sql", "--json")
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all.Machines) != 1 || all.Machines[0].Supervision == nil {
		m.t.Fatalf("status --json printed %q: %v", out, err)
	}
	return *all.Machines[0].Supervision
}

func (m *machine) signal(p vm.Process, sig syscall.Signal) {
	m.t.Helper()
	if err := p.Signal(sig); err != nil {
		m.t.Fatal(err)
	}
}

// killSupervisor kills the sovereignd of the test, if one runs.
func (m *machine) killSupervisor() bool {
	m.t.Helper()
	p, ok, err := process.Listener(context.Background(), filepath.Join(m.stateDir(), sovereignd.Socket))
	if err != nil {
		m.t.Fatal(err)
	}
	for alive := ok; alive; {
		m.signal(p, syscall.SIGKILL)
		if alive, err = p.Alive(); err != nil {
			m.t.Fatal(err)
		}
	}
	return ok
}

// variant is the bundle with another manifest.
func (m *machine) variant(t *testing.T, change func(*bundle.Manifest)) string {
	t.Helper()
	dir := t.TempDir()
	b, err := bundle.Load(m.bundle)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range b.Artifacts {
		copyFile(t, filepath.Join(dir, a.File), filepath.Join(m.bundle, a.File))
	}
	change(b)
	text, err := bundle.Marshal(b)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, bundle.ManifestFile), text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func copyFile(t *testing.T, to, from string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if closeErr := out.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		t.Fatal(err)
	}
}

func pause(t *testing.T, ctx context.Context) {
	t.Helper()
	select {
	case <-ctx.Done():
		t.Fatal(context.Cause(ctx))
	case <-time.After(50 * time.Millisecond):
	}
}
