package e2e

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/backup"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

// jsonOf runs a command with --json and reads its result.
func jsonOf[T any](m *machine, args ...string) T {
	m.t.Helper()
	var v T
	out := m.ok(append(args, "--json")...)
	if err := json.Unmarshal([]byte(out[strings.LastIndex(strings.TrimSpace(out), "\n")+1:]), &v); err != nil {
		m.t.Fatalf("sovereign-build %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return v
}

// TestBackup takes a real machine with rows through a backup while it runs, a
// drill, a restore in place, its loss with its disk, and a restore elsewhere.
func TestBackup(t *testing.T) {
	m := newMachine(t)
	ctx, cancel := context.WithTimeout(t.Context(), 6*bootDeadline)
	defer cancel()
	repository := filepath.Join(t.TempDir(), "repository")
	made := jsonOf[struct{ Key string }](m, "repository", "init", "home", repository)
	if len(made.Key) < 39 {
		t.Fatalf("the key is %d long", len(made.Key))
	}
	m.up(m.bundle)
	conn := m.connect(ctx)
	for _, sql := range []string{
		"CREATE TABLE kept (n int PRIMARY KEY, text text)",
		"INSERT INTO kept SELECT n, md5(n::text) FROM generate_series(1, 50000) n",
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	const rows = "SELECT count(*) || ' ' || md5(string_agg(text, ',' ORDER BY n)) FROM kept"
	want := scan[string](t, ctx, conn, rows)
	first := jsonOf[backup.Snapshot](m, "backup", "sql", "--with-bundle")
	t.Logf("first: %+v", first)
	if !first.Live || first.HoldMS <= 0 || first.Stored < 1<<20 || !first.Whole {
		t.Errorf("the first backup: %+v", first)
	}
	if _, err := conn.Exec(ctx, "DELETE FROM kept WHERE n > 100"); err != nil {
		t.Fatal(err)
	}
	later := scan[string](t, ctx, conn, rows)
	second := jsonOf[backup.Snapshot](m, "backup", "sql")
	t.Logf("second: %+v", second)
	if second.Stored >= first.Stored/2 {
		t.Errorf("the second took %d bytes, the first %d", second.Stored, first.Stored)
	}
	conn.Close(ctx)

	t.Run("drill", func(t *testing.T) {
		d := jsonOf[backup.Drill](m.in(t), "backup", "drill", "sql")
		for _, c := range d.Checks {
			t.Logf("%+v", c)
		}
		if !d.Passed || d.Snapshot != second.ID || d.Check() != nil || d.Read != second.Read {
			t.Errorf("%+v", d)
		}
		t.Logf("%.1f s to the disk, %.1f s to healthy services, %.1f s in all", d.RestoreS, d.BootS, d.TookS)
		status := jsonOf[struct {
			Machines []struct{ Backup *runtime.BackupStatus }
		}](m, "status")
		if len(status.Machines) != 1 || status.Machines[0].Backup == nil || status.Machines[0].Backup.Proven == nil {
			t.Errorf("status after it: %+v", status)
		}
	})

	t.Run("one file", func(t *testing.T) {
		to := filepath.Join(t.TempDir(), "files.tar")
		m.in(t).ok("restore", "file", "sql@"+second.ID, "/data/postgresql/17/PG_VERSION", "-o", to)
		out, err := exec.Command("tar", "-xOf", to).Output()
		if err != nil || strings.TrimSpace(string(out)) != "17" {
			t.Errorf("%q, %v", out, err)
		}
		if out, code := m.command("restore", "file", "sql", "/data/absent"); code != 2 || out != "" {
			t.Errorf("what is not there: %d, %q", code, out)
		}
	})

	t.Run("in place", func(t *testing.T) {
		m := m.in(t)
		r := jsonOf[runtime.RestoreResult](m, "restore", "sql@"+first.ID, "--in-place")
		if _, err := os.Stat(r.Kept); err != nil {
			t.Errorf("the former disk: %v", err)
		}
		m.up("sql")
		conn := m.connect(ctx)
		defer conn.Close(ctx)
		if got := scan[string](t, ctx, conn, rows); got != want {
			t.Errorf("the rows are %s, and were %s", got, want)
		}
		if n := jsonOf[struct{ Disks int }](m, "restore", "sql", "--forget").Disks; n != 1 {
			t.Errorf("%d former disks were forgotten", n)
		}
	})

	t.Run("after it was lost", func(t *testing.T) {
		m := m.in(t)
		m.ok("down", "sql")
		m.ok("remove", "sql", "--data", "--yes")
		begin := time.Now()
		r := jsonOf[runtime.RestoreResult](m, "restore", "sql@"+second.ID, "--as", "found", "--start", "--bundle", m.bundle)
		t.Logf("restored: %+v", r)
		t.Logf("from nothing to healthy services: %.1f s", time.Since(begin).Seconds())
		defer m.command("stop", "found")
		out := m.ok("psql", "found", "--", "--no-align", "--tuples-only", "--command="+rows)
		if strings.TrimSpace(out) != later {
			t.Errorf("the rows are %q, and were %q", out, later)
		}
		if out := m.ok("exec", "found", "--", "ls", "/sys/class/net"); strings.Contains(out, "eth") {
			t.Errorf("it has a network: %q", out)
		}
	})
}
