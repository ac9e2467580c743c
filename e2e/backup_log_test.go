package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/backup"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

// TestBackupLog keeps the log of a real PostgreSQL beside its backups: moments
// between them are restored, and a disk that was lost comes back with what was
// committed after the last of them.
func TestBackupLog(t *testing.T) {
	m := newMachine(t)
	ctx, cancel := context.WithTimeout(t.Context(), 8*bootDeadline)
	defer cancel()
	m.ok("repository", "init", "home", filepath.Join(t.TempDir(), "repository"))
	m.up(m.bundle)
	conn := m.connect(ctx)
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	exec("CREATE TABLE kept (n int PRIMARY KEY, at timestamptz DEFAULT clock_timestamp())")
	exec("INSERT INTO kept SELECT generate_series(1, 1000)")
	m.ok("backup", "policy", "sql", "--every", "daily", "--log", "--log-every", "5s", "--recover-for", "7d")
	// The policy makes a backup that the log goes on from at once.
	for based := false; !based && ctx.Err() == nil; {
		m.until(ctx, "a backup and a log that is received", func(b *runtime.BackupStatus) bool {
			return b.Last != nil && b.Log != nil && b.Log.Receiving
		})
		for _, s := range jsonOf[struct{ Backups []backup.Snapshot }](m, "backups", "sql").Backups {
			based = based || s.Log != nil
		}
	}
	exec("INSERT INTO kept SELECT generate_series(1001, 3000)")
	moment := scan[time.Time](t, ctx, conn, "SELECT clock_timestamp()")
	exec("INSERT INTO kept SELECT generate_series(3001, 4000)")
	m.ok("backup", "point", "sql", "before-the-mistake")
	exec("DELETE FROM kept WHERE n % 2 = 0")
	exec("INSERT INTO kept SELECT generate_series(10001, 10500)")
	end := scan[string](t, ctx, conn, "SELECT pg_current_wal_flush_lsn()::text")
	behind := fmt.Sprintf("SELECT $1::pg_lsn >= '%s'::pg_lsn", end)
	m.until(ctx, "the log until "+end+" in the repository", func(b *runtime.BackupStatus) bool {
		return b.Log != nil && scan[bool](t, ctx, conn, behind, b.Log.Stored.String())
	})
	const rows = "SELECT count(*) || ' ' || max(n) FROM kept"
	want := scan[string](t, ctx, conn, rows)
	conn.Close(ctx)

	t.Run("known", func(t *testing.T) {
		m := m.in(t)
		if out := m.ok("backups", "sql"); !strings.Contains(out, "before-the-mistake") {
			t.Logf("backups: %s", out)
		}
		m.ok("backup", "verify", "sql", "--read", "100")
	})
	for _, tt := range []struct{ name, flag, value, want string }{
		{"a moment", "--to", moment.UTC().Format(time.RFC3339Nano), "3000 3000"},
		{"a point", "--point", "before-the-mistake", "4000 4000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := m.in(t)
			defer func() {
				m.command("down", "then")
				m.command("remove", "then", "--data", "--yes")
			}()
			r := jsonOf[runtime.RestoreResult](m, "restore", "sql", tt.flag, tt.value, "--as", "then", "--start")
			t.Logf("restored: %+v", r)
			out := strings.TrimSpace(m.ok("psql", "then", "--", "--no-align", "--tuples-only", "--command="+rows))
			if out != tt.want {
				t.Errorf("the rows are %q, want %q", out, tt.want)
			}
		})
	}
	t.Run("drill", func(t *testing.T) {
		m := m.in(t)
		d := jsonOf[backup.Drill](m, "backup", "drill", "sql")
		for _, c := range d.Checks {
			t.Logf("%+v", c)
		}
		if !d.Passed || d.Check() != nil || d.Log == nil || d.Log.Transactions == 0 || d.Log.Time.IsZero() {
			t.Fatalf("%+v", d)
		}
		t.Logf("%.1f s to the disk, %.1f s to healthy services; its log until %v, %v", d.RestoreS, d.BootS, d.Log.LSN, d.Log.Time)
		m.until(ctx, "the drill in status", func(b *runtime.BackupStatus) bool {
			return b.Proven != nil && b.Proven.Log != nil && b.Proven.Log.LSN == d.Log.LSN
		})
		if out := m.ok("status", "sql"); !strings.Contains(out, "and its log until") {
			t.Errorf("status: %s", out)
		}
	})
	t.Run("tables", func(t *testing.T) {
		m := m.in(t)
		to := filepath.Join(t.TempDir(), "kept.sql")
		m.ok("restore", "table", "sql", "kept", "--to", moment.UTC().Format(time.RFC3339Nano), "-o", to)
		text, err := os.ReadFile(to)
		if err != nil {
			t.Fatal(err)
		}
		// It goes into a database of its own, and the machine's stays as it is.
		m.ok("psql", "sql", "--", "--quiet", "--command=CREATE DATABASE beside")
		m.pipe(string(text), "psql", "sql", "--", "--quiet", "--set=ON_ERROR_STOP=1", "--dbname=beside")
		for database, want := range map[string]string{"beside": "3000 3000", "postgres": want} {
			if got := strings.TrimSpace(m.ok("psql", "sql", "--", "--no-align", "--tuples-only", "--dbname="+database, "--command="+rows)); got != want {
				t.Errorf("%s has the rows %q, want %q", database, got, want)
			}
		}
		if out := m.ok("restore", "table", "sql", "--point", "before-the-mistake"); !strings.Contains(out, "CREATE TABLE public.kept") || !strings.Contains(out, "\n4000\t") {
			t.Errorf("the whole database has %d bytes", len(out))
		}
		for _, args := range [][]string{{"kept", "absent"}, {"--database", "absent"}, {"kept", "--point", "never"}} {
			if out, code := m.command(append([]string{"restore", "table", "sql", "-o", to}, args...)...); code != 2 || out != "" {
				t.Errorf("%q: exit %d, %q", args, code, out)
			}
		}
		if now, err := os.ReadFile(to); err != nil || string(now) != string(text) {
			t.Errorf("what could not be had changed the file: %v", err)
		}
		if out := m.ok("status"); strings.Contains(out, "tables-") {
			t.Errorf("a machine is left: %s", out)
		}
	})
	t.Run("no such moment", func(t *testing.T) {
		m := m.in(t)
		for _, args := range [][]string{
			{"--to", "2001-01-01T00:00:00Z"},
			{"--to", time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339)},
			{"--to", "yesterday"},
			{"--point", "never"},
		} {
			if out, code := m.command(append([]string{"restore", "sql", "--as", "then"}, args...)...); code != 2 || out != "" {
				t.Errorf("%q: exit %d, %q", args, code, out)
			}
		}
	})
	t.Run("recover", func(t *testing.T) {
		m := m.in(t)
		if out, code := m.command("recover", "sql"); code != 2 || out != "" {
			t.Errorf("of a machine that serves all that there is: exit %d, %q", code, out)
		}
		m.ok("down", "sql")
		if err := os.Remove(filepath.Join(m.stateDir(), "instances/sql/data.img")); err != nil {
			t.Fatal(err)
		}
		out := m.ok("recover", "sql")
		t.Log(out)
		m.up("sql")
		got := strings.TrimSpace(m.ok("psql", "sql", "--", "--no-align", "--tuples-only", "--command="+rows))
		if got != want {
			t.Errorf("the rows are %q, and were %q", got, want)
		}
		if list := jsonOf[struct{ Backups []backup.Snapshot }](m, "backups", "sql").Backups; len(list) == 0 {
			t.Error("no backup is left")
		}
	})
}

// until waits for what status says of the machine's backups.
func (m *machine) until(ctx context.Context, what string, holds func(*runtime.BackupStatus) bool) {
	m.t.Helper()
	var last *runtime.BackupStatus
	for ctx.Err() == nil {
		status := jsonOf[struct {
			Machines []struct{ Backup *runtime.BackupStatus }
		}](m, "status")
		if len(status.Machines) == 1 {
			if last = status.Machines[0].Backup; last != nil && holds(last) {
				return
			}
		}
		time.Sleep(200 * time.Millisecond)
	}
	m.t.Fatalf("not seen: %s; the last word was %+v", what, last)
}
