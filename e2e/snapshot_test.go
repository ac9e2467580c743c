package e2e

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// copied is what clone prints.
type copied struct {
	Name, From string
	HoldMS     float64 `json:"hold_ms"`
	Seconds    float64
}

func (m *machine) clone(name string) copied {
	m.t.Helper()
	var c copied
	out := m.ok("clone", "sql", name, "--json")
	if err := json.Unmarshal([]byte(out), &c); err != nil || c.Name != name || c.From != "sql" {
		m.t.Fatalf("clone --json printed %q: %v", out, err)
	}
	return c
}

// dial connects to a machine of any name.
func (m *machine) dial(ctx context.Context, name string) *pgx.Conn {
	m.t.Helper()
	conn, err := pgx.Connect(ctx, strings.TrimSpace(m.ok("dsn", name)))
	if err != nil {
		m.t.Fatal(err)
	}
	return conn
}

// writer inserts rows one after the other, and knows how many were acknowledged.
type writer struct {
	stop context.CancelFunc
	done sync.WaitGroup

	mu    sync.Mutex
	acked int
	worst time.Duration
	err   error
}

func write(t *testing.T, ctx context.Context, conn *pgx.Conn) *writer {
	t.Helper()
	if _, err := conn.Exec(ctx, "CREATE TABLE written (n int PRIMARY KEY, filler text)"); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(ctx)
	w := &writer{stop: stop}
	w.done.Go(func() {
		for n := 1; ctx.Err() == nil; n++ {
			begin := time.Now()
			// Not ctx: a statement that is given up closes the connection.
			_, err := conn.Exec(context.WithoutCancel(ctx), "INSERT INTO written VALUES ($1::int, repeat(md5($1::int::text), 60))", n)
			w.mu.Lock()
			if err != nil {
				w.err = err
				w.mu.Unlock()
				return
			}
			w.acked, w.worst = n, max(w.worst, time.Since(begin))
			w.mu.Unlock()
		}
	})
	return w
}

// reach waits until so many rows are acknowledged.
func (w *writer) reach(t *testing.T, ctx context.Context, n int) {
	t.Helper()
	for w.count() < n {
		w.mu.Lock()
		err := w.err
		w.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		pause(t, ctx)
	}
}

func (w *writer) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.acked
}

func (w *writer) end(t *testing.T) int {
	t.Helper()
	w.stop()
	w.done.Wait()
	if w.err != nil {
		t.Fatal(w.err)
	}
	return w.acked
}

// TestSnapshotClone clones a machine while rows are written to it: the clone has
// every row that was acknowledged before, whole, and secrets, ports and a history
// of its own, and the machine itself has noticed nothing.
func TestSnapshotClone(t *testing.T) {
	m := newMachine(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*bootDeadline)
	defer cancel()
	t.Cleanup(func() { m.command("stop", "copy") })
	m.up(m.bundle)
	w := write(t, ctx, m.connect(ctx))
	w.reach(t, ctx, 100)
	before := w.count()
	c := m.clone("copy")
	after := w.count()
	t.Logf("clone: writes held for %.1f ms, copied in %.1f s, in which %d rows were written to the %d there", c.HoldMS, c.Seconds, after-before, before)
	if c.HoldMS <= 0 {
		t.Error("nothing says for how long writes were held")
	}
	w.reach(t, ctx, after+20) // it goes on
	all := w.end(t)
	t.Logf("slowest insert: %v", w.worst)
	m.ok("grow", "sql", "20GiB") // no snapshot is in its way
	m.up("copy")
	conn := m.dial(ctx, "copy")
	defer conn.Close(ctx)
	var n, top, whole int
	if err := conn.QueryRow(ctx, "SELECT count(*), max(n), count(*) FILTER (WHERE filler = repeat(md5(n::text), 60)) FROM written").Scan(&n, &top, &whole); err != nil {
		t.Fatal(err)
	}
	if n < before || n != top || n != whole || n > all {
		t.Errorf("the clone has %d rows up to %d, %d of them whole; %d were acknowledged before it and %d after all", n, top, whole, before, all)
	}
	if m.ok("credentials", "sql", "postgresql/password") == m.ok("credentials", "copy", "postgresql/password") {
		t.Error("the clone has the other machine's password")
	}
	if lineage(m, "sql") == lineage(m, "copy") {
		t.Error("the clone has the other machine's lineage")
	}
	m.ok("down", "copy")
	file := filepath.Join(t.TempDir(), "sql.machine")
	m.ok("rename", "copy", "other")
	t.Cleanup(func() { m.command("stop", "other") })
	m.ok("export", "sql", file)
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("export: %d MiB", info.Size()>>20)
	m.ok("down", "sql")
	m.ok("import", file, "moved")
	t.Cleanup(func() { m.command("stop", "moved") })
	m.up("moved")
	moved := m.dial(ctx, "moved")
	defer moved.Close(ctx)
	if err := moved.QueryRow(ctx, "SELECT count(*) FROM written").Scan(&n); err != nil || n != all {
		t.Errorf("the machine of the file has %d rows of %d: %v", n, all, err)
	}
	if lineage(m, "sql") != lineage(m, "moved") {
		t.Error("the machine of the file has another lineage")
	}
}

func lineage(m *machine, name string) string {
	m.t.Helper()
	var rec struct {
		Continuity struct{ Lineage string }
	}
	text, err := os.ReadFile(filepath.Join(m.stateDir(), "instances", name, "instance.json"))
	if err == nil {
		err = json.Unmarshal(text, &rec)
	}
	if err != nil || rec.Continuity.Lineage == "" {
		m.t.Fatalf("%s has no lineage: %v", name, err)
	}
	return rec.Continuity.Lineage
}

// TestRollbackHeld puts an older copy of the data disk back: its services are
// held until the owner accepts it, and the disk that was given up is held from
// then on. A record that never reached the host is no alarm.
func TestRollbackHeld(t *testing.T) {
	m := newMachine(t)
	ctx, cancel := context.WithTimeout(t.Context(), 6*bootDeadline)
	defer cancel()
	m.up(m.bundle)
	conn := m.connect(ctx)
	if _, err := conn.Exec(ctx, "CREATE TABLE kept (n int)"); err != nil {
		t.Fatal(err)
	}
	m.ok("down", "sql")
	dir := filepath.Join(m.stateDir(), "instances", "sql")
	disk, monday := filepath.Join(dir, "data.img"), filepath.Join(t.TempDir(), "monday.img")
	record, err := os.ReadFile(filepath.Join(dir, "instance.json"))
	if err != nil {
		t.Fatal(err)
	}
	put := func(to, from string) {
		t.Helper()
		if out, err := exec.Command("cp", "--sparse=always", from, to).CombinedOutput(); err != nil {
			t.Fatalf("cp: %v %s", err, out)
		}
	}
	put(monday, disk)
	m.up("sql")
	conn = m.connect(ctx)
	if _, err := conn.Exec(ctx, "INSERT INTO kept VALUES (42)"); err != nil {
		t.Fatal(err)
	}
	m.ok("down", "sql")
	// As if the power had gone before the host remembered any of that.
	if err := os.WriteFile(filepath.Join(dir, "instance.json"), record, 0o600); err != nil {
		t.Fatal(err)
	}
	m.up("sql")
	m.rows(ctx)
	m.ok("down", "sql")
	tuesday := filepath.Join(t.TempDir(), "tuesday.img")
	put(tuesday, disk)
	put(disk, monday)
	out, code := m.command("up", "sql", "--json", "--timeout", bootDeadline.String())
	if code != 9 || !strings.Contains(out, "older copy") || !strings.Contains(out, `"stale"`) {
		t.Fatalf("Monday's copy: exit code %d: %s", code, out)
	}
	t.Log(out)
	if out, code := m.command("psql", "sql", "-c", "SELECT 1"); code == 0 {
		t.Errorf("a service answers on a disk that is held: %s", out)
	}
	out, code = m.command("exec", "sql", "--", "touch", "/data/x")
	if code == 0 {
		t.Errorf("a disk that is held takes a write: %s", out)
	}
	m.ok("accept-rollback", "sql", "--reason", "this is all there is", "--timeout", bootDeadline.String())
	m.port = m.record().Ports[0].Host
	conn = m.connect(ctx)
	var n int
	if err := conn.QueryRow(ctx, "SELECT count(*) FROM kept").Scan(&n); err != nil || n != 0 {
		t.Errorf("Monday's disk has %d rows, %v", n, err)
	}
	m.ok("down", "sql")
	put(disk, tuesday)
	if out, code := m.command("up", "sql", "--json", "--timeout", bootDeadline.String()); code != 9 {
		t.Errorf("the disk that was given up: exit code %d: %s", code, out)
	}
}
