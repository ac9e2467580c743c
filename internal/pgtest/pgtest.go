// Package pgtest gives tests a real PostgreSQL server, the machine's own: in its
// own directory, behind a unix socket that lets root in as the role postgres.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startLimit is how long a server may take to answer, on a busy machine.
const startLimit = 2 * time.Minute

// Server is a server, and its cluster.
type Server struct {
	Data string // the cluster's directory
	Run  string // the socket's
	t    testing.TB
	dir  string
	bin  string
	user *syscall.Credential
	log  string
	cmd  *exec.Cmd
}

// New makes a cluster and starts a server with these settings beside the few
// that a test wants.
func New(t testing.TB, settings ...string) *Server {
	t.Helper()
	s := prepare(t)
	s.run("initdb", "--pgdata="+s.Data, "--username=postgres", "--auth-local=trust", "--encoding=UTF8", "--locale=C", "--data-checksums", "--no-sync", "--no-instructions")
	s.Configure("postgresql.conf", append([]string{
		"listen_addresses = ''", "unix_socket_directories = '" + s.Run + "'", "max_connections = 20", "shared_buffers = 16MB",
		"dynamic_shared_memory_type = mmap", "log_min_messages = info", "wal_level = replica",
	}, settings...)...)
	s.Start()
	return s
}

// Of is a server over a copy of another's cluster, not started.
func Of(t testing.TB, data string) *Server {
	t.Helper()
	s := prepare(t)
	s.must(exec.Command("cp", "-a", data, s.Data).Run())
	s.must(os.Remove(filepath.Join(s.Data, "postmaster.pid")), os.ErrNotExist)
	s.Configure("postgresql.conf", "unix_socket_directories = '"+s.Run+"'")
	return s
}

// Programs is the directory of Debian's newest server, and its user, as whom it
// has to run. A test is skipped where there is none, or it is not root's.
func Programs(t testing.TB) (bin string, account *syscall.Credential) {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		t.Skip("no PostgreSQL server: install postgresql")
	}
	who, err := user.Lookup("postgres")
	if os.Getuid() != 0 || err != nil {
		t.Skip("only root can become the user postgres")
	}
	uid, err1 := strconv.ParseUint(who.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(who.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(found[len(found)-1]), &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

func prepare(t testing.TB) *Server {
	t.Helper()
	bin, account := Programs(t)
	uid, gid := int(account.Uid), int(account.Gid)
	// Not t.TempDir, which only root can enter.
	dir, err := os.MkdirTemp("", "pg")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, dir: dir, bin: bin, Data: dir + "/data", Run: dir + "/run", log: dir + "/log", user: account}
	t.Cleanup(func() {
		s.Kill()
		if t.Failed() {
			if text, err := os.ReadFile(s.log); err == nil {
				t.Logf("the server's log:\n%s", text)
			}
		}
		os.RemoveAll(dir)
	})
	s.must(os.Mkdir(s.Run, 0o755))
	s.must(os.Chown(dir, uid, gid))
	s.must(os.Chown(s.Run, uid, gid))
	s.must(os.Chmod(dir, 0o755))
	return s
}

func (s *Server) must(err error, but ...error) {
	s.t.Helper()
	for _, b := range but {
		if errors.Is(err, b) {
			return
		}
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// run runs a program of PostgreSQL's as the server's user.
func (s *Server) run(program string, args ...string) {
	s.t.Helper()
	cmd := exec.Command(filepath.Join(s.bin, program), args...)
	cmd.Dir, cmd.SysProcAttr = s.dir, &syscall.SysProcAttr{Credential: s.user}
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v: %s", program, err, out)
	}
}

// Configure adds lines to a file of the cluster.
func (s *Server) Configure(file string, lines ...string) {
	s.t.Helper()
	f, err := os.OpenFile(filepath.Join(s.Data, file), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	s.must(err)
	_, err = f.WriteString("\n" + strings.Join(lines, "\n") + "\n")
	s.must(errors.Join(err, f.Chown(int(s.user.Uid), int(s.user.Gid)), f.Close()))
}

// Begin starts the server and does not wait for it.
func (s *Server) Begin() {
	s.t.Helper()
	out, err := os.OpenFile(s.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	s.must(err)
	defer out.Close()
	s.cmd = exec.Command(filepath.Join(s.bin, "postgres"), "-D", s.Data)
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = s.dir, out, out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.user, Pdeathsig: syscall.SIGKILL}
	s.must(s.cmd.Start())
}

// Start starts the server and returns when it answers.
func (s *Server) Start() {
	s.t.Helper()
	s.Begin()
	deadline := time.Now().Add(startLimit)
	for {
		if _, err := s.psql("SELECT 1"); err == nil {
			return
		} else if time.Now().After(deadline) || s.Ended() {
			s.t.Fatalf("the server does not answer: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Ended says whether the server's process is gone.
func (s *Server) Ended() bool {
	var info syscall.WaitStatus
	pid, err := syscall.Wait4(s.cmd.Process.Pid, &info, syscall.WNOHANG, nil)
	return err != nil || pid != 0
}

// Log is what the server has printed.
func (s *Server) Log() string {
	text, err := os.ReadFile(s.log)
	s.must(err)
	return string(text)
}

// Stop shuts the server down in order.
func (s *Server) Stop() { s.end(syscall.SIGINT) }

// Kill is a power cut, but for the kernel's caches.
func (s *Server) Kill() { s.end(syscall.SIGQUIT) }

func (s *Server) end(sig syscall.Signal) {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(sig) // it may have ended
	_ = s.cmd.Wait()              // how, its log says
	s.cmd = nil
}

func (s *Server) psql(query string) (string, error) {
	cmd := exec.Command("psql", "--no-psqlrc", "-qAt", "--set=ON_ERROR_STOP=1", "-h", s.Run, "-U", "postgres", "-d", "postgres", "-c", query)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// Query runs a query and returns its rows, as psql -At prints them.
func (s *Server) Query(query string) string {
	s.t.Helper()
	out, err := s.psql(query)
	s.must(err)
	return out
}

// Dial connects to the server's socket.
func (s *Server) Dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", filepath.Join(s.Run, ".s.PGSQL.5432"))
}

// Replay has a server that is not started replay the log in a directory up to a
// record, as the sql recipe's scripts do, and returns when it answers.
func (s *Server) Replay(dir, timeline, lsn string) {
	s.t.Helper()
	s.Configure("postgresql.conf", "restore_command = 'cp "+dir+"/%f \"%p\"'", "recovery_target_timeline = '"+timeline+"'",
		"recovery_target_lsn = '"+lsn+"'", "recovery_target_inclusive = on", "recovery_target_action = promote", "hot_standby = off")
	s.must(os.RemoveAll(filepath.Join(s.Data, "pg_replslot", "sovereign")))
	s.Configure("recovery.signal")
	s.Start()
}
