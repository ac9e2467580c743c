package e2e

import (
	"context"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/audit"
)

// audit runs the command, and holds its exit code to its result.
func (m *machine) audit(args ...string) *audit.Report {
	m.t.Helper()
	out, code := m.command(append([]string{"audit", "--json"}, args...)...)
	r := new(audit.Report)
	if err := json.Unmarshal([]byte(out), r); err != nil {
		m.t.Fatalf("audit: exit code %d, %v: %s", code, err, out)
	}
	if len(r.Rows) != 22 || (code == 0) != r.OK() || code != 0 && code != 6 {
		m.t.Fatalf("exit code %d with %d rows, %+v", code, len(r.Rows), r.Counts)
	}
	for _, row := range r.Rows {
		m.t.Logf("%2d %-14s %s | %s | %s", row.Number, row.Verdict, row.Item, row.Seen, row.Why)
	}
	return r
}

// want holds rows to verdicts; all others may be what they are but failed.
func want(t *testing.T, r *audit.Report, proven []int, failed ...int) {
	t.Helper()
	for _, row := range r.Rows {
		switch {
		case slices.Contains(failed, row.Number) != (row.Verdict == audit.Failed),
			slices.Contains(proven, row.Number) && row.Verdict != audit.Proven:
			t.Errorf("%+v", row)
		}
	}
}

func TestAuditBundle(t *testing.T) {
	m := newMachine(t)
	want(t, m.audit(m.bundle), []int{3, 5, 6, 7, 8, 9, 10, 11, 15})
}

// TestAudit audits the real machine as it is, breaks what can be broken in it,
// sees the rows fail, mends it, and lets the audit break the rest.
func TestAudit(t *testing.T) {
	m := newMachine(t)
	m.ok("up", m.bundle, "--timeout", bootDeadline.String())

	healthy := []int{3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 22}
	began := time.Now()
	r := m.audit("sql")
	took := time.Since(began)
	t.Logf("the audit took %s", took)
	want(t, r, healthy)
	if took > time.Minute {
		t.Errorf("it took %s", took)
	}

	t.Run("a database with libc's collation", func(t *testing.T) {
		m := m.in(t)
		m.ok("psql", "sql", "--", "--command", "CREATE DATABASE bytes TEMPLATE template0 LOCALE_PROVIDER libc LOCALE 'C'")
		want(t, m.audit("sql"), nil, 13)
		m.ok("psql", "sql", "--", "--command", "DROP DATABASE bytes")
	})

	t.Run("posix shared memory and no fsync", func(t *testing.T) {
		m := m.in(t)
		m.ok("psql", "sql", "--", "--command", "ALTER SYSTEM SET dynamic_shared_memory_type = posix", "--command", "ALTER SYSTEM SET fsync = off")
		m.ok("restart", "sql", "--timeout", bootDeadline.String())
		want(t, m.audit("sql"), nil, 14, 20)
		m.ok("psql", "sql", "--", "--command", "ALTER SYSTEM RESET ALL")
		m.ok("restart", "sql", "--timeout", bootDeadline.String())
		want(t, m.audit("sql"), healthy)
	})

	t.Run("a privileged port", func(t *testing.T) {
		m := m.in(t)
		ctx, cancel := context.WithTimeout(t.Context(), bootDeadline)
		defer cancel()
		done := make(chan struct{})
		go func() {
			defer close(done)
			m.command("exec", "sql", "--", "httpd", "-f", "-p", "127.0.0.1:80", "-h", "/tmp")
		}()
		for { // until it listens
			if out, _ := m.shell("root", "cat /proc/net/tcp"); strings.Contains(out, "0100007F:0050 ") {
				break
			}
			pause(t, ctx)
		}
		want(t, m.audit("sql"), nil, 15)
		m.shell("root", "killall httpd")
		<-done
	})

	t.Run("yesterday's disk", func(t *testing.T) {
		m := m.in(t)
		want(t, m.audit("sql"), []int{21})
		m.ok("down", "sql", "--timeout", bootDeadline.String())
		disk := filepath.Join(m.stateDir(), "instances", "sql", "data.img")
		yesterday := filepath.Join(t.TempDir(), "data.img")
		sparse := func(from, to string) {
			t.Helper()
			if out, err := exec.Command("cp", "--sparse=always", from, to).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		sparse(disk, yesterday)
		m.ok("up", m.bundle, "--timeout", bootDeadline.String())
		m.ok("down", "sql", "--timeout", bootDeadline.String())
		today := filepath.Join(t.TempDir(), "data.img")
		sparse(disk, today)
		sparse(yesterday, disk)
		if out, code := m.command("up", m.bundle, "--timeout", bootDeadline.String()); code == 0 {
			t.Errorf("an older disk was taken without a word: %s", out)
		}
		want(t, m.audit("sql"), nil, 21)
		m.ok("down", "sql", "--timeout", bootDeadline.String())
		sparse(today, disk)
		m.ok("up", m.bundle, "--timeout", bootDeadline.String())
		want(t, m.audit("sql"), append(slices.Clone(healthy), 21))
	})

	t.Run("disturbed", func(t *testing.T) {
		m := m.in(t)
		r := m.audit("sql", "--disturb")
		want(t, r, append(slices.Clone(healthy), 17, 18, 19, 20))
		if out := m.ok("psql", "sql", "--", "--tuples-only", "--command", "SELECT count(*) FROM pg_class WHERE relname LIKE 'sovereign_audit%'"); strings.TrimSpace(out) != "0" {
			t.Errorf("the audit left its table: %s", out)
		}
		want(t, m.audit("sql"), healthy)
	})
}
