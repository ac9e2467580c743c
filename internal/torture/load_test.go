package torture

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sovereign-build/sovereign/internal/pause"
)

// server is a PostgreSQL on this machine, in the place of a guest's.
type server struct {
	t    *testing.T
	dir  string
	cred *syscall.Credential
	cmd  *exec.Cmd
	over chan struct{} // closed when cmd has ended
}

// newServer makes a cluster. The server refuses to be root, so that as root
// the test runs it as Debian's user for it.
func newServer(t *testing.T) *server {
	t.Helper()
	for _, program := range []string{"initdb", "postgres", "pgbench", "pg_amcheck"} {
		if _, err := find(program); err != nil {
			t.Skip(err)
		}
	}
	dir, err := os.MkdirTemp("", "torture-pg") // short, for the socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &server{t: t, dir: dir}
	if os.Getuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Skip("root, and there is no user postgres")
		}
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(uidErr, gidErr, os.Chown(dir, int(uid), int(gid))); err != nil {
			t.Fatal(err)
		}
		s.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	if out, err := s.command("initdb", "-D", s.data(), "-U", "postgres", "-A", "trust", "--data-checksums", "--no-sync").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	return s
}

func (s *server) data() string { return filepath.Join(s.dir, "data") }

func (s *server) command(program string, args ...string) *exec.Cmd {
	path, err := find(program)
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = s.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.cred}
	return cmd
}

func (s *server) start() {
	s.t.Helper()
	s.cmd = s.command("postgres", "-D", s.data(), "-c", "listen_addresses=", "-c", "unix_socket_directories="+s.dir, "-c", "shared_buffers=16MB")
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.over = make(chan struct{})
	go func(cmd *exec.Cmd, over chan struct{}) {
		defer close(over)
		waitProgram(cmd)
	}(s.cmd, s.over)
}

// kill kills the postmaster; its children see that and end.
func (s *server) kill() {
	s.t.Helper()
	if err := s.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.t.Fatal(err)
	}
	<-s.over
}

// newTables is a server that runs, with the tables, and the machine that it is
// the database of.
func newTables(ctx context.Context, t *testing.T) (*server, *machine) {
	t.Helper()
	s := newServer(t)
	s.start()
	t.Cleanup(func() { s.kill() })
	m := &machine{dir: t.TempDir(), dsn: "postgres://postgres@/postgres?host=" + s.dir}
	if err := m.answers(ctx, selects); err != nil {
		t.Fatal(err)
	}
	if err := m.makeTables(ctx); err != nil {
		t.Fatal(err)
	}
	return s, m
}

// The writers, their record, its comparison with the tables and the look at
// every block, with a server that is killed under them and one that lost a
// row.
func TestWriters(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	s, m := newTables(ctx, t)
	for range 2 {
		l, err := m.startLoad(ctx, true)
		if err != nil {
			t.Fatal(err)
		}
		for before := m.log.count(); m.log.count() < before+50; {
			if err := pause.For(ctx, time.Millisecond); err != nil {
				t.Fatal(err)
			}
		}
		s.kill()
		if err := l.stop(); err != nil {
			t.Fatal(err)
		}
		s.restart(ctx, m)
		f, err := m.verify(ctx)
		if err != nil || len(f.Problems) > 0 || f.Rows < 50 {
			t.Fatalf("after a kill: %+v, %v", f, err)
		}
	}
	problems, blocks, err := m.deepCheck(ctx)
	if err != nil || len(problems) > 0 || blocks < 100 {
		t.Errorf("deep check: %q, %d blocks, %v", problems, blocks, err)
	}
	if f, err := m.verifyAll(ctx); err != nil || len(f.Problems) > 0 || f.Rows < 100 {
		t.Errorf("the whole record: %+v, %v", f, err)
	}

	// What it must notice.
	for sql, want := range map[string]string{
		`DELETE FROM torture.ledger WHERE ctid = (SELECT ctid FROM torture.ledger WHERE round = 2 LIMIT 1)`:              "acknowledged and lost",
		`INSERT INTO torture.ledger SELECT * FROM torture.ledger WHERE round = 2 LIMIT 1`:                                "there twice",
		`INSERT INTO torture.ledger VALUES (2, 1, 1000000, 'x')`:                                                         "never sent",
		`UPDATE torture.ledger SET payload = 'x' WHERE ctid = (SELECT ctid FROM torture.ledger WHERE round = 2 LIMIT 1)`: "not whole",
		`DELETE FROM torture.ledger WHERE round = 1 AND writer = 1`:                                                      "rows of earlier rounds",
		`UPDATE torture.tally SET n = n + 1 WHERE writer = 1`:                                                            "tallies differ",
		`UPDATE pgbench_tellers SET tbalance = tbalance + 1 WHERE tid = 1`:                                               "sums differ",
	} {
		if got := m.afterwards(ctx, t, sql); !strings.Contains(got, want) {
			t.Errorf("after %s: %q, want %q", sql, got, want)
		}
	}
	if err := m.closeLog(); err != nil {
		t.Error(err)
	}
}

// A page of a table that is damaged is found; one of a free space map, which the
// server makes anew, is none that a power cut must not leave.
func TestDeepCheck(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	s, m := newTables(ctx, t)
	damage := func(fork string, block int64) {
		c, err := m.connect(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer closeConn(c)
		var path string
		if err := c.QueryRow(ctx, "SELECT pg_relation_filepath('pgbench_accounts')").Scan(&path); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Exec(ctx, "CHECKPOINT"); err != nil {
			t.Fatal(err)
		}
		s.kill()
		f, err := os.OpenFile(filepath.Join(s.data(), path+fork), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, writeErr := f.WriteAt([]byte("torn"), block*8192+4096)
		if err := errors.Join(writeErr, f.Close()); err != nil {
			t.Fatal(err)
		}
		s.restart(ctx, m)
	}

	damage("_fsm", 2)
	c, err := m.connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(ctx, "VACUUM (DISABLE_PAGE_SKIPPING) pgbench_accounts"); err != nil {
		t.Fatal(err)
	}
	if n, err := badChecksums(ctx, c); err != nil || n == 0 {
		t.Fatalf("the server met %d bad checksums, %v: the test damages nothing", n, err)
	}
	closeConn(c)
	if problems, _, err := m.deepCheck(ctx); err != nil || len(problems) > 0 {
		t.Errorf("a free space map that was torn: %q, %v", problems, err)
	}

	damage("", 10)
	if problems, _, err := m.deepCheck(ctx); err != nil || len(problems) == 0 {
		t.Errorf("a damaged page of a table: %q, %v", problems, err)
	}
}

// restart starts the server again, as often as it takes: the killed one's
// children may hold its memory a moment longer, and the new one then ends.
func (s *server) restart(ctx context.Context, m *machine) {
	s.t.Helper()
	s.start()
	for {
		if ok, err := m.askOnce(ctx, selects); ok && err == nil {
			return
		}
		select {
		case <-s.over:
			s.start()
		default:
		}
		if err := pause.For(ctx, 20*time.Millisecond); err != nil {
			s.t.Fatal(err)
		}
	}
}

// afterwards spoils the tables, says what verify finds, and undoes it.
func (m *machine) afterwards(ctx context.Context, t *testing.T, sql string) string {
	t.Helper()
	c, err := m.connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer closeConn(c)
	var found string
	err = spoiled(ctx, c, sql, func() error {
		f, err := m.look(ctx, c)
		found = fmt.Sprint(f.Problems)
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return found
}

// spoiled runs work in a transaction that is rolled back.
func spoiled(ctx context.Context, c *pgx.Conn, sql string, work func() error) error {
	tx, err := c.Begin(ctx)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, sql)
	if err == nil {
		err = work()
	}
	return errors.Join(err, tx.Rollback(ctx))
}
