package sql

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sovereign-build/sovereign/internal/pgtest"
)

// server is a real PostgreSQL, the machine's own and not the image's, with the
// recipe's scripts and settings. It runs as the user postgres, on loopback,
// with its data in a directory of its own.
type server struct {
	t                                  *testing.T
	dir, run, secrets, cluster, config string
	programs, applets                  string
	addresses                          string // of the machine, beside loopback's
	port                               int
	account                            *syscall.Credential
	process                            *exec.Cmd
}

// newServer makes a cluster by postgresql-setup and starts it.
func newServer(t *testing.T) *server {
	t.Helper()
	programs, account := pgtest.Programs(t)
	// Not t.TempDir, which only root can enter.
	dir, err := os.MkdirTemp("", "pg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	version := filepath.Base(filepath.Dir(programs))
	s := &server{
		t: t, dir: dir, run: dir + "/run", secrets: dir + "/secrets/postgresql", cluster: dir + "/data/" + version, config: dir + "/etc",
		programs: programs, applets: dir + "/applets", account: account,
	}
	for _, d := range []string{s.run, s.secrets, dir + "/data", s.config, s.applets, dir + "/lib"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.freePort()
	s.install()
	if err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, int(account.Uid), int(account.Gid)))
	}); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s.must("postgresql-setup", s.cluster, s.run+"/machine.conf")
	s.replace(s.cluster+"/postgresql.conf", "/etc/sovereign", s.config)
	t.Cleanup(s.stop)
	s.start()
	return s
}

// freePort finds a port, which is anybody's until the server has it.
func (s *server) freePort() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	s.port = l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		s.t.Fatal(err)
	}
}

// install puts the recipe's files where the server's user finds them, with
// this test's paths.
func (s *server) install() {
	s.t.Helper()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		s.t.Skip("no busybox: install busybox-static")
	}
	if out, err := exec.Command(busybox, "--install", "-s", s.applets).CombinedOutput(); err != nil {
		s.t.Fatalf("busybox --install: %v: %s", err, out)
	}
	// PostgreSQL 15 has no --set yet.
	s.write(s.dir+"/lib/initdb", `#!/bin/sh
for arg; do
	shift
	case $arg in --set=*) ;; *) set -- "$@" "$arg" ;; esac
done
exec `+s.programs+`/initdb "$@"
`, 0o755)
	scripts, err := filepath.Glob("files/postgresql-*")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range scripts {
		s.copy(f, filepath.Join(s.dir, "lib", filepath.Base(f)), 0o755)
	}
	s.copy("files/pg_hba.conf", s.config+"/pg_hba.conf", 0o644)
	s.copy("files/pg_ident.conf", s.config+"/pg_ident.conf", 0o644)
	s.copy("files/postgresql.conf", s.config+"/postgresql.conf", 0o644)
	s.replace(s.config+"/postgresql.conf", "/run/postgresql", s.run, "/data/secrets/postgresql", s.secrets,
		"/etc/sovereign", s.config, "port = 5432", fmt.Sprintf("port = %d", s.port))
	s.write(s.secrets+"/password", "first", 0o600)
	s.certificate()
}

// certificate makes what sovereign-init makes.
func (s *server) certificate() {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"sql"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		s.t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		s.t.Fatal(err)
	}
	s.write(s.secrets+"/server.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})), 0o644)
	s.write(s.secrets+"/server.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), 0o600)
}

func (s *server) write(path, text string, mode os.FileMode) {
	s.t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) copy(from, to string, mode os.FileMode) {
	s.t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		s.t.Fatal(err)
	}
	s.write(to, string(text), mode)
}

func (s *server) replace(path string, oldnew ...string) {
	s.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	s.write(path, strings.NewReplacer(oldnew...).Replace(string(text)), 0o644)
}

// script runs a script of the recipe as init would.
func (s *server) script(name string, args ...string) (int, string) {
	s.t.Helper()
	cmd := s.command(filepath.Join(s.dir, "lib", name), args...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// command is a program as the user postgres, without a terminal.
func (s *server) command(program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(s.t.Context(), program, args...)
	cmd.Dir = s.dir
	cmd.Env = []string{
		"PATH=" + s.dir + "/lib:" + s.programs + ":" + s.applets, "SOVEREIGN_SECRETS=" + s.secrets,
		"SOVEREIGN_MEMORY_MIB=512", "SOVEREIGN_DATA_MIB=8192", "SOVEREIGN_ADDRESSES=" + s.addresses,
		"PGHOST=" + s.run, fmt.Sprintf("PGPORT=%d", s.port),
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.account, Setsid: true}
	return cmd
}

func (s *server) must(name string, args ...string) string {
	s.t.Helper()
	code, out := s.script(name, args...)
	if code != 0 {
		s.t.Fatalf("%s: exit %d: %s", name, code, out)
	}
	return out
}

// start starts the server as the recipe does and waits until it has a socket:
// before that a client's question says nothing about the server's state.
func (s *server) start(options ...string) {
	s.t.Helper()
	s.must("postgresql-setup", s.cluster, s.run+"/machine.conf")
	s.process = s.command(s.programs+"/postgres", append([]string{"-D", s.cluster}, options...)...)
	log, err := os.OpenFile(s.dir+"/log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	s.process.Stdout, s.process.Stderr = log, log
	if err := s.process.Start(); err != nil {
		s.t.Fatal(err)
	}
	socket := fmt.Sprintf("%s/.s.PGSQL.%d", s.run, s.port)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(time.Minute); ; {
		if _, err := os.Stat(socket); err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			s.t.Fatalf("no %s", socket)
		}
	}
}

func (s *server) stop() {
	s.t.Helper()
	if s.process == nil {
		return
	}
	if err := s.process.Process.Signal(syscall.SIGINT); err != nil {
		s.t.Error(err)
	}
	s.process.Wait() //nolint:errcheck // a killed test's server ends with an error
	s.process = nil
	if s.t.Failed() {
		log, err := os.ReadFile(s.dir + "/log")
		s.t.Logf("server's log (%v):\n%s", err, log)
	}
}

// health waits for the exit code and returns what is printed with it.
func (s *server) health(want int) string {
	s.t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(time.Minute); ; {
		code, out := s.script("postgresql-health", s.cluster)
		if code == want {
			return strings.TrimSpace(out)
		}
		select {
		case <-tick.C:
		case <-deadline:
			s.t.Fatalf("health: exit %d, want %d: %s", code, want, out)
		}
	}
}

// healthy fails unless the server is, without a warning.
func (s *server) healthy() {
	s.t.Helper()
	if out := s.health(0); out != "" {
		s.t.Errorf("a healthy server's warning: %s", out)
	}
}

// connect connects over TCP, with sslmode=require unless config says another.
func (s *server) connect(password string, change func(*pgx.ConnConfig)) (*pgx.Conn, error) {
	s.t.Helper()
	config, err := pgx.ParseConfig(fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=require", s.port))
	if err != nil {
		s.t.Fatal(err)
	}
	config.Password = password
	if change != nil {
		change(config)
	}
	conn, err := pgx.ConnectConfig(s.t.Context(), config)
	if err == nil {
		s.t.Cleanup(func() { conn.Close(context.Background()) })
	}
	return conn, err
}

// sql runs statements as the superuser over the socket.
func (s *server) sql(database string, statements ...string) string {
	s.t.Helper()
	cmd := s.command(s.programs+"/psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1")
	cmd.Env = append(cmd.Env, "PGDATABASE="+database, "PGOPTIONS=-c client_min_messages=error")
	cmd.Stdin = strings.NewReader(strings.Join(statements, ";\n"))
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			out = exit.Stderr
		}
		s.t.Fatalf("%s: %v: %s", statements, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestWhoMayConnect(t *testing.T) {
	s := newServer(t)
	s.healthy()
	conn, err := s.connect("first", nil)
	if err != nil {
		t.Fatal(err)
	}
	var version string
	if err := conn.QueryRow(t.Context(), "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()").Scan(&version); err != nil || version != "TLSv1.3" {
		t.Errorf("%q, %v: want TLSv1.3", version, err)
	}
	for name, change := range map[string]func(*pgx.ConnConfig){
		"in clear":         func(c *pgx.ConnConfig) { c.TLSConfig = nil },
		"a wrong password": func(c *pgx.ConnConfig) { c.Password = "wrong" },
		"no password":      func(c *pgx.ConnConfig) { c.Password = "" },
		"TLS 1.2":          func(c *pgx.ConnConfig) { c.TLSConfig.MaxVersion = tls.VersionTLS12 },
		"replication":      func(c *pgx.ConnConfig) { c.RuntimeParams["replication"] = "true" },
	} {
		if _, err := s.connect("first", change); err == nil {
			t.Errorf("let in: %s", name)
		}
	}
	// Over the socket it is the kernel that says who somebody is.
	cmd := s.command(s.programs+"/psql", "-X", "-c", "SELECT 1", "-U", "postgres", "postgres")
	cmd.SysProcAttr.Credential = nil
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "Peer authentication failed") {
		t.Errorf("root as postgres: %v: %s", err, out)
	}
	s.sql("postgres", "CREATE ROLE other LOGIN PASSWORD 'x'")
	cmd = s.command(s.programs+"/psql", "-X", "-c", "SELECT 1", "-U", "other", "postgres")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "no pg_hba.conf entry") {
		t.Errorf("another role over the socket: %v: %s", err, out)
	}
}

func TestAlterSystemWins(t *testing.T) {
	s := newServer(t)
	s.healthy()
	s.sql("postgres", "ALTER SYSTEM SET max_connections = 33")
	s.stop()
	s.start()
	s.healthy()
	if got := s.sql("postgres", "SHOW max_connections"); got != "33" {
		t.Errorf("max_connections is %s", got)
	}
}

func TestHealth(t *testing.T) {
	s := newServer(t)
	s.healthy()

	t.Run("too many clients", func(t *testing.T) {
		s.stop()
		s.start("-c", "max_connections=2", "-c", "superuser_reserved_connections=0", "-c", "max_wal_senders=0")
		s.healthy()
		for range 2 {
			if _, err := s.connect("first", nil); err != nil {
				t.Fatal(err)
			}
		}
		if out := s.health(0); !strings.Contains(out, "too many clients") {
			t.Errorf("warning %q", out)
		}
	})

	t.Run("a new address", func(t *testing.T) {
		s.stop()
		s.start()
		s.healthy()
		s.addresses = "127.0.0.9,fd00::9"
		if out := s.health(2); !strings.Contains(out, "does not listen on 127.0.0.9,") {
			t.Errorf("message %q", out)
		}
		// One that the owner chose is the owner's business.
		s.sql("postgres", "ALTER SYSTEM SET listen_addresses = '127.0.0.1'")
		s.stop()
		s.start()
		s.healthy()
		s.sql("postgres", "ALTER SYSTEM RESET listen_addresses")
		s.stop()
		s.start()
		s.healthy()
		if _, err := s.connect("first", func(c *pgx.ConnConfig) { c.Host = "127.0.0.9" }); err != nil {
			t.Error(err)
		}
	})

	t.Run("dead", func(t *testing.T) {
		s.stop()
		if out := s.health(2); !strings.Contains(out, "no server has") {
			t.Errorf("message %q", out)
		}
	})

	t.Run("starting up", func(t *testing.T) {
		// A standby without a primary never gets to where it may answer.
		s.write(s.cluster+"/standby.signal", "", 0o644)
		s.start("-c", "hot_standby=off", "-c", "restore_command=/bin/false")
		if out := s.health(1); !strings.Contains(out, "the database system is") {
			t.Errorf("message %q", out)
		}
	})
}

func TestPassword(t *testing.T) {
	s := newServer(t)
	s.healthy()
	s.sql("postgres", "CREATE EXTENSION pg_stat_statements", "ALTER SYSTEM SET log_statement = 'all'", "SELECT pg_reload_conf()")
	// A first life with another password, and everything that quotes.
	const awkward = `it's "4" \ $HOME %s ö`
	rotate := func(password string) {
		t.Helper()
		s.write(s.secrets+"/password", password, 0o600)
	}
	works := func(password string, want bool) {
		t.Helper()
		if _, err := s.connect(password, nil); (err == nil) != want {
			t.Errorf("password %q: %v", password, err)
		}
	}
	rotate(awkward)
	if out := s.must("postgresql-reload", s.cluster); out != "" {
		t.Errorf("printed %q", out)
	}
	works(awkward, true)
	works("first", false)
	log, err := os.ReadFile(s.dir + "/log")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(log), "it''s") || strings.Contains(string(log), awkward) {
		t.Error("the log shows the password")
	}
	if !strings.Contains(string(log), "SCRAM-SHA-256") {
		t.Error("the log does not show the statement at all")
	}
	if n := s.sql("postgres", `SELECT count(*) FROM pg_stat_statements WHERE query LIKE '%"4"%'`); n != "0" {
		t.Errorf("pg_stat_statements shows the password in %s statements", n)
	}

	for text, want := range map[string]string{"": "is empty", "two\nlines": "more than one line"} {
		rotate(text)
		if code, out := s.script("postgresql-reload", s.cluster); code != 1 || !strings.Contains(out, want) {
			t.Errorf("%q: exit %d: %s", text, code, out)
		}
	}
	works(awkward, true)
	s.stop()
	rotate("good")
	if code, out := s.script("postgresql-reload", s.cluster); code != 1 || !strings.Contains(out, "password of the role postgres") {
		t.Errorf("without a server: exit %d: %s", code, out)
	}
}

func TestReindex(t *testing.T) {
	s := newServer(t)
	s.healthy()
	const odd = `od'd "x"=1; \`
	identifier := pgx.Identifier{odd}.Sanitize()
	s.sql("postgres", "CREATE DATABASE "+identifier, "CREATE DATABASE plain TEMPLATE template0 LOCALE_PROVIDER libc LOCALE 'C'")
	s.sql(odd, "CREATE TABLE words (w text PRIMARY KEY)", "INSERT INTO words SELECT md5(n::text) FROM generate_series(1, 100) n",
		// An index that cannot be rebuilt while the table trip has no row.
		"CREATE TABLE trip AS SELECT 1",
		"CREATE FUNCTION f(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$BEGIN IF NOT EXISTS (SELECT FROM public.trip) THEN RAISE 'tripped'; END IF; RETURN $1; END$$",
		"CREATE INDEX tripping ON words (f(w))", "DELETE FROM trip")
	// As if an ICU of another version had made the two.
	s.sql("postgres", "UPDATE pg_database SET datcollversion = '0' WHERE datname IN ('template1', "+literal(odd)+")")
	s.sql(odd, `UPDATE pg_collation SET collversion = '0' WHERE collname IN ('sv-SE-x-icu', 'de-DE-x-icu')`)
	s.sql("plain", `UPDATE pg_collation SET collversion = '0' WHERE collname = 'sv-SE-x-icu'`)
	files := func() string {
		return s.sql(odd, "SELECT relfilenode FROM pg_class WHERE relname = 'words_pkey'")
	}
	before := files()

	if out := s.health(0); !strings.Contains(out, `has changed, in "od'd ""x""=1; \", template1: run`) {
		t.Errorf("warning %q", out)
	}

	code, out := s.script("postgresql-reindex")
	if code == 0 || !strings.Contains(out, "tripped") {
		t.Fatalf("exit %d: %s", code, out)
	}
	if got := s.sql(odd, "SELECT datcollversion FROM pg_database WHERE datname = current_database()"); got != "0" {
		t.Errorf("marked as done (%s) with an index to go", got)
	}
	s.sql(odd, "INSERT INTO trip VALUES (1)")
	out = s.must("postgresql-reindex")
	for _, want := range []string{"postgres: nothing to do", odd + ": done", "plain: done"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
	if files() == before {
		t.Error("the index was not rebuilt")
	}
	if n := s.sql(odd, "SELECT count(*) FROM pg_collation WHERE collversion <> pg_collation_actual_version(oid)"); n != "0" {
		t.Errorf("%s collations are left", n)
	}
	s.healthy()
	after := files()
	lines := strings.Split(strings.TrimSpace(s.must("postgresql-reindex")), "\n")
	if slices.ContainsFunc(lines, func(l string) bool { return !strings.HasSuffix(l, ": nothing to do") }) || len(lines) != 4 {
		t.Errorf("a second run: %q", lines)
	}
	if files() != after {
		t.Error("a second run rebuilt the index")
	}

	// The first check after a boot asks at once when the server warns of the
	// database postgres, and else leaves it to the next check.
	for _, c := range []struct{ database, first string }{{"postgres", "in postgres: run"}, {"template1", ""}} {
		s.sql("postgres", "UPDATE pg_database SET datcollversion = '0' WHERE datname = "+literal(c.database))
		if err := os.Remove(s.run + "/answered"); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{c.first, "in " + c.database + ": run"} {
			if out := s.health(0); (out == "") != (want == "") || !strings.Contains(out, want) {
				t.Errorf("%s: warning %q, want %q", c.database, out, want)
			}
		}
		s.must("postgresql-reindex")
	}
	s.stop()
	if code, out := s.script("postgresql-reindex"); code == 0 {
		t.Errorf("without a server: exit 0: %s", out)
	}
}

// literal quotes text for SQL.
func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
