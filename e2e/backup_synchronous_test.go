package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/backup"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

// TestBackupSynchronous has commits wait until the device has their log. What was
// acknowledged is there after QEMU was killed and the data disk is lost; while the
// log cannot be received commits wait, and status and the owner's word have their
// part in it; and a copy, whose log nobody receives, does not wait.
func TestBackupSynchronous(t *testing.T) {
	m := newMachine(t)
	ctx, cancel := context.WithTimeout(t.Context(), 8*bootDeadline)
	defer cancel()
	defer func() {
		if text, err := os.ReadFile(filepath.Join(m.stateDir(), "sovereignd.log")); t.Failed() && err == nil {
			t.Logf("sovereignd:\n%s", text)
		}
	}()
	m.ok("repository", "init", "home", filepath.Join(t.TempDir(), "repository"))
	m.up(m.bundle)
	conn := m.connect(ctx)
	if _, err := conn.Exec(ctx, "CREATE TABLE kept (n int PRIMARY KEY, at timestamptz DEFAULT clock_timestamp())"); err != nil {
		t.Fatal(err)
	}
	if out, code := m.command("backup", "policy", "sql", "--every", "daily", "--synchronous"); code != 2 || out != "" {
		t.Errorf("without a log: exit %d, %q", code, out)
	}
	m.ok("backup", "policy", "sql", "--every", "daily", "--log", "--log-every", "5s", "--synchronous")
	on := func(b *runtime.BackupStatus) bool {
		return b.Log != nil && b.Log.Synchronous != nil && b.Log.Synchronous.On && b.Log.Synchronous.Why == ""
	}
	m.until(ctx, "commits that wait, with a backup below", on)
	var acknowledged int
	insert := func(n int) error {
		_, err := conn.Exec(ctx, "INSERT INTO kept (n) VALUES ($1)", n)
		if err == nil {
			acknowledged = n
		}
		return err
	}
	for n := 1; n <= 50; n++ {
		if err := insert(n); err != nil {
			t.Fatal(err)
		}
	}

	t.Run("a copy", func(t *testing.T) {
		m := m.in(t)
		made := jsonOf[backup.Snapshot](m, "backup", "sql")
		m.ok("restore", "sql@"+made.ID, "--as", "copy", "--start")
		defer func() {
			m.command("down", "copy")
			m.command("remove", "copy", "--data", "--yes")
		}()
		m.ok("psql", "copy", "--", "--quiet", "--command=INSERT INTO kept (n) VALUES (-1)")
		if out := m.ok("psql", "copy", "--", "--no-align", "--tuples-only", "--command=SHOW synchronous_standby_names"); strings.TrimSpace(out) != "" {
			t.Errorf("the copy waits for %q", out)
		}
	})

	t.Run("nobody receives", func(t *testing.T) {
		m := m.in(t)
		// The device cannot keep the log, as if its disk were full.
		dir := filepath.Join(m.stateDir(), "instances/sql/log")
		if err := os.Rename(dir, dir+".away"); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		m.ok("psql", "sql", "--", "--quiet", "--command=SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
		ended := make(chan error, 1)
		go func() { ended <- insert(51) }()
		m.until(ctx, "an alarm", func(b *runtime.BackupStatus) bool {
			return strings.Contains(strings.Join(b.Alarms, "\n"), "commits wait")
		})
		select {
		case err := <-ended:
			t.Errorf("a commit was acknowledged whose log nobody has: %v", err)
		default:
		}
		begin := time.Now()
		m.ok("backup", "policy", "sql", "--synchronous=false")
		if err := <-ended; err != nil {
			t.Errorf("the commit that waited: %v", err)
		}
		t.Logf("let go after %.1f s", time.Since(begin).Seconds())
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(dir+".away", dir); err != nil {
			t.Fatal(err)
		}
		m.ok("backup", "policy", "sql", "--synchronous")
		m.until(ctx, "commits that wait again", on)
	})

	t.Run("sovereignd is killed", func(t *testing.T) {
		m := m.in(t)
		if !m.killSupervisor() {
			t.Fatal("no sovereignd ran")
		}
		// The next command starts another, which goes on with the log.
		m.until(ctx, "commits that wait, by another sovereignd", on)
		conn.Close(ctx) // its way was through the first
		conn = m.connect(ctx)
		if err := insert(52); err != nil {
			t.Error(err)
		}
		if b := jsonOf[struct {
			Machines []struct{ Backup *runtime.BackupStatus }
		}](m, "status", "sql").Machines[0].Backup; len(b.Log.Breaks) > 0 {
			t.Errorf("the log broke: %+v", b.Log.Breaks)
		}
	})

	t.Run("all is lost but the log", func(t *testing.T) {
		m := m.in(t)
		qemu := m.process()
		const before = 200
		ended := make(chan error, 1)
		killed := make(chan struct{})
		go func() {
			begin := time.Now()
			for n := 53; ; n++ {
				if err := insert(n); err != nil {
					ended <- err
					return
				}
				if n == before {
					t.Logf("a commit took %.1f ms", time.Since(begin).Seconds()*1000/(before-52))
					close(killed)
				}
			}
		}()
		select {
		case err := <-ended:
			t.Fatal(err)
		case <-killed:
		}
		if err := os.Remove(filepath.Join(m.stateDir(), "instances/sql/data.img")); err != nil {
			t.Fatal(err)
		}
		m.signal(qemu, syscall.SIGKILL)
		<-ended
		t.Logf("%d was acknowledged last", acknowledged)
		if out := m.ok("recover", "sql"); strings.Contains(out, "isolated") {
			t.Errorf("in place: %s", out)
		}
		m.up("sql")
		missing := fmt.Sprintf("SELECT count(*) FROM generate_series(1, %d) n WHERE n NOT IN (SELECT n FROM kept)", acknowledged)
		// A busy host may have the service started once more.
		m.until(ctx, "commits of the recovered machine that wait", on)
		if out := strings.TrimSpace(m.ok("psql", "sql", "--", "--no-align", "--tuples-only", "--command="+missing)); out != "0" {
			t.Errorf("%s commits that were acknowledged are not there", out)
		}
	})
}
