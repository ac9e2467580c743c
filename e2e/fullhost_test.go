package e2e

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	// hostSize is the file system that holds the machine: its slot, its disk
	// with a cluster, and what the test writes.
	hostSize = "900m"
	// hostRoom is what the ballast leaves of it, in bytes. The guest's cache
	// alone takes more than that of what is written.
	hostRoom = 80 << 20
	// filling writes about 250 MB, without a log of it, and waits until they
	// are on the disk.
	filling = "CREATE UNLOGGED TABLE filler AS SELECT n, repeat(md5(n::text), 30) AS text FROM generate_series(1, 250000) AS n; CHECKPOINT"
)

// TestFullHost fills the file system that a machine's disk grows in. The
// machine has to wait, say so, and go on by itself once there is room, as if
// nothing had been.
func TestFullHost(t *testing.T) {
	needBundle(t)
	host := t.TempDir()
	if err := unix.Mount("tmpfs", host, "tmpfs", 0, "mode=0700,size="+hostSize); err != nil {
		t.Skipf("a file system of its own: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(host, 0); err != nil {
			t.Errorf("unmount %s: %v", host, err)
		}
	})
	m := newMachine(t)
	m.env[len(m.env)-1] = "XDG_STATE_HOME=" + host
	ctx, cancel := context.WithTimeout(t.Context(), 3*bootDeadline)
	defer cancel()
	m.up(m.bundle)
	conn := m.connect(ctx)
	if _, err := conn.Exec(ctx, "CREATE TABLE kept AS SELECT 42 AS n"); err != nil {
		t.Fatal(err)
	}
	before := m.process()

	ballast := filepath.Join(host, "ballast")
	fill(t, ballast)
	written := make(chan error, 1)
	go func() {
		_, err := conn.Exec(ctx, filling)
		written <- err
	}()
	state, message := "", ""
	for state != "paused" {
		select {
		case err := <-written:
			t.Fatalf("all was written, or refused: %v", err)
		default:
			pause(t, ctx)
		}
		state, message = m.state()
	}
	if !strings.Contains(message, "make room") {
		t.Errorf("status says %q", message)
	}
	t.Log(message)

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := <-written; err != nil {
		t.Errorf("what was being written when the disk was full: %v", err)
	}
	for state != "ready" {
		pause(t, ctx)
		state, _ = m.state()
	}
	if now := m.process(); now != before {
		t.Errorf("another machine runs: %+v, it was %+v", now, before)
	}
	m.rows(ctx)
	var n int
	if err := conn.QueryRow(ctx, "SELECT count(*) FROM filler WHERE text = repeat(md5(n::text), 30)").Scan(&n); err != nil || n != 250000 {
		t.Errorf("%d rows are whole, %v", n, err)
	}
	m.ok("down", "sql")
}

// fill makes a file that leaves hostRoom of its file system.
func fill(t *testing.T, path string) {
	t.Helper()
	var fs unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &fs); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(fs.Bavail)*int64(fs.Bsize)-hostRoom); err != nil {
		t.Fatal(err)
	}
}

// state is what status says of the machine.
func (m *machine) state() (state, message string) {
	m.t.Helper()
	var all struct {
		Machines []struct{ State, Message string }
	}
	out := m.ok("status", "sql", "--json")
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all.Machines) != 1 {
		m.t.Fatalf("status --json printed %q: %v", out, err)
	}
	return all.Machines[0].State, all.Machines[0].Message
}
