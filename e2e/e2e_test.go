// Package e2e boots the real bundle of recipes/sql through the command line
// and holds PostgreSQL to what the project promises of it.
//
// SOVEREIGN_E2E names the bundle's directory (make test-e2e and make
// test-arm64 set it); without it the tests are skipped.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sovereign-build/sovereign/pkg/bundle"
)

// bootDeadline is for a first boot with initdb under emulation on a busy
// machine; a quiet one needs a tenth of it.
const bootDeadline = 10 * time.Minute

// machine is the VM under test and the command line that drives it.
type machine struct {
	t      testing.TB
	bundle string
	env    []string
	port   int
}

// newMachine gives the test a state directory of its own, so that a VM of the
// same name that somebody runs here is left alone.
func newMachine(t testing.TB) *machine {
	t.Helper()
	dir := needBundle(t)
	m := &machine{t: t, bundle: dir, env: append(os.Environ(), "XDG_STATE_HOME="+t.TempDir())}
	t.Cleanup(func() {
		if t.Failed() {
			m.showConsole()
		}
		// Stopping what is stopped is no error.
		m.command("stop", "sql")
		// It would end by itself in a few seconds, and has files here until then.
		m.killSupervisor()
	})
	return m
}

func (m *machine) command(args ...string) (stdout string, code int) {
	m.t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command("../bin/sovereign-build", args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = m.env, &out, &errs
	err := cmd.Run()
	if cmd.ProcessState == nil {
		m.t.Fatalf("sovereign-build %s: %v", strings.Join(args, " "), err)
	}
	if errs.Len() > 0 {
		m.t.Logf("sovereign-build %s:\n%s", args[0], errs.String())
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

func (m *machine) ok(args ...string) string {
	m.t.Helper()
	out, code := m.command(args...)
	if code != 0 {
		m.t.Fatalf("sovereign-build %s: exit code %d: %s", strings.Join(args, " "), code, out)
	}
	return out
}

// boot starts the VM and returns once it is healthy.
func (m *machine) boot() {
	m.t.Helper()
	out := m.ok("run", m.bundle, "--detach", "--json", "--timeout", bootDeadline.String())
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var started struct {
		Name  string
		Ports map[string]int
	}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &started); err != nil {
		m.t.Fatalf("run --json printed %q: %v", out, err)
	}
	if started.Name != "sql" || started.Ports["5432"] == 0 {
		m.t.Fatalf("run --json gave name %q and ports %v", started.Name, started.Ports)
	}
	m.port = started.Ports["5432"]
}

// showConsole prints the end of the guest's console log.
func (m *machine) showConsole() {
	logs, _ := filepath.Glob(filepath.Join(strings.TrimPrefix(m.env[len(m.env)-1], "XDG_STATE_HOME="), "sovereign/instances/*/console.log"))
	for _, log := range logs {
		text, err := os.ReadFile(log)
		if err != nil {
			m.t.Log(err)
			continue
		}
		m.t.Logf("%s:\n%s", log, text[max(0, len(text)-8<<10):])
	}
}

func (m *machine) connect(ctx context.Context) *pgx.Conn {
	m.t.Helper()
	dsn := strings.TrimSpace(m.ok("dsn", "sql"))
	if want := fmt.Sprintf("@127.0.0.1:%d/", m.port); !strings.HasPrefix(dsn, "postgres://") || !strings.Contains(dsn, want) {
		m.t.Fatalf("dsn does not lead to %s", want)
	}
	if want := "sslmode=verify-full&sslrootcert="; !strings.Contains(dsn, want) {
		m.t.Errorf("dsn has no %s: it trusts whoever has the port", want)
	}
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func scan[T any](t *testing.T, ctx context.Context, conn *pgx.Conn, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := conn.QueryRow(ctx, sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func TestPostgreSQL(t *testing.T) {
	m := newMachine(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*bootDeadline)
	defer cancel()

	manifest, err := bundle.Load(m.bundle)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(manifest.Packages, func(p bundle.Package) bool { return p.Name == "postgresql17" })
	if i < 0 {
		t.Fatal("the manifest lists no postgresql17")
	}
	version, _, _ := strings.Cut(manifest.Packages[i].Version, "-r")

	m.boot()
	conn := m.connect(ctx)

	// Each command of the shell's is called with what none knows: they have to
	// come as far as to say so. Of one compiler's optimization, awk, vi and wget
	// ended by a signal on one architecture alone.
	t.Run("commands", func(t *testing.T) {
		const each = `for a in $(busybox --list); do
	timeout 5 busybox $a --nonsense </dev/null >/dev/null 2>&1 && code=0 || code=$?
	case $code in 132 | 134 | 135 | 136 | 139) echo $a ends with $code ;; esac
done
echo done`
		if out := m.ok("exec", "sql", "--user", "postgres", "--", "sh", "-c", each); strings.TrimSpace(out) != "done" {
			t.Errorf("%s", out)
		}
	})
	t.Run("settings", func(t *testing.T) {
		for sql, want := range map[string]string{
			"SHOW server_version": version,
			"SELECT datlocprovider::text FROM pg_database WHERE datname = current_database()": "i",
			"SELECT datlocale FROM pg_database WHERE datname = current_database()":            "en-US",
			"SHOW dynamic_shared_memory_type":                                                 "mmap",
			"SHOW data_checksums":                                                             "on",
			"SHOW fsync":                                                                      "on",
			"SHOW full_page_writes":                                                           "on",
			"SHOW password_encryption":                                                        "scram-sha-256",
			"SHOW server_encoding":                                                            "UTF8",
			"SHOW ssl":                                                                        "on",
			"SHOW ssl_min_protocol_version":                                                   "TLSv1.3",
			"SHOW authentication_timeout":                                                     "10s",
			"SHOW effective_io_concurrency":                                                   "32",
			"SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()":                    "TLSv1.3",
			// Nothing but what the image says was taken from its files.
			"SELECT count(*)::text FROM pg_file_settings WHERE error IS NOT NULL": "0",
			"SELECT count(*)::text FROM pg_hba_file_rules":                        "3",
		} {
			if got := scan[string](t, ctx, conn, sql); got != want {
				t.Errorf("%s: %q, want %q", sql, got, want)
			}
		}
		if n := scan[int](t, ctx, conn, "SELECT count(*) FROM pg_collation WHERE collprovider = 'i'"); n < 800 {
			t.Errorf("%d ICU collations; the full data set has more than 800", n)
		}
	})

	// Each order is one that codepoints, or another language, would get wrong.
	t.Run("collations", func(t *testing.T) {
		exec := func(sql string) {
			t.Helper()
			if _, err := conn.Exec(ctx, sql); err != nil {
				t.Fatalf("%s: %v", sql, err)
			}
		}
		exec(`CREATE COLLATION IF NOT EXISTS phonebook (provider = icu, locale = 'de-u-co-phonebk')`)
		exec(`CREATE COLLATION IF NOT EXISTS natural_order (provider = icu, locale = 'en-u-kn-true')`)
		for _, c := range []struct {
			collation string
			words     []string // in the order wanted
		}{
			{`"en-US-x-icu"`, []string{"apple", "Banana", "cherry", "été", "zebra"}},
			{`"sv-SE-x-icu"`, []string{"apa", "zebra", "åsna", "ärlig", "öl"}},
			{`"de-DE-x-icu"`, []string{"Afrika", "Ähre", "Ast", "Zebra"}},
			{`phonebook`, []string{"Ad", "Ähre", "Af", "Goethe", "Göthe", "Gof"}},
			{`natural_order`, []string{"file1", "file2", "file10", "file100"}},
		} {
			shuffled := slices.Clone(c.words)
			slices.Reverse(shuffled)
			got := scan[[]string](t, ctx, conn, `SELECT array_agg(w ORDER BY w COLLATE `+c.collation+`) FROM unnest($1::text[]) AS w`, shuffled)
			if !slices.Equal(got, c.words) {
				t.Errorf("%s: %v, want %v", c.collation, got, c.words)
			}
		}
	})

	t.Run("extensions", func(t *testing.T) {
		for _, name := range []string{"amcheck", "pg_stat_statements"} {
			if _, err := conn.Exec(ctx, "CREATE EXTENSION IF NOT EXISTS "+name); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := conn.Exec(ctx, "SELECT bt_index_check('pg_class_oid_index')"); err != nil {
			t.Errorf("amcheck: %v", err)
		}
	})

	// Between a fifth and a quarter of the memory: the kernel keeps some.
	t.Run("memory", func(t *testing.T) {
		buffers := scan[int](t, ctx, conn, "SELECT setting::int * 8 / 1024 FROM pg_settings WHERE name = 'shared_buffers'")
		if most := manifest.VM.MemoryMiB / 4; buffers > most || buffers < most*4/5 {
			t.Errorf("shared_buffers is %d MiB in a machine of %d MiB", buffers, manifest.VM.MemoryMiB)
		}
	})

	t.Run("in clear", func(t *testing.T) {
		config := conn.Config().Copy()
		config.TLSConfig = nil
		if c, err := pgx.ConnectConfig(ctx, config); err == nil {
			c.Close(ctx)
			t.Error("a connection without TLS was let in")
		}
	})

	t.Run("a rotated password", func(t *testing.T) {
		m.ok("secret", "rotate", "sql")
		if c, err := pgx.ConnectConfig(ctx, conn.Config().Copy()); err == nil {
			c.Close(ctx)
			t.Error("the old password was let in")
		}
		scan[int](t, ctx, m.connect(ctx), "SELECT 1")
		scan[int](t, ctx, conn, "SELECT 1") // open connections stay
	})

	t.Run("wrong password", func(t *testing.T) {
		config := conn.Config().Copy()
		config.Password = "not the password"
		if c, err := pgx.ConnectConfig(ctx, config); err == nil {
			c.Close(ctx)
			t.Error("a wrong password was let in")
		}
	})

	if _, err := conn.Exec(ctx, "CREATE TABLE kept (n int PRIMARY KEY); INSERT INTO kept SELECT generate_series(1, 1000)"); err != nil {
		t.Fatal(err)
	}

	t.Run("a killed postmaster is healed", func(t *testing.T) {
		was := scan[time.Time](t, ctx, conn, "SELECT pg_postmaster_start_time()")
		// The superuser's own shell in the guest does the killing; the
		// connection is gone with it.
		conn.Exec(ctx, `COPY (SELECT 1) TO PROGRAM 'kill -9 $(head -n 1 /data/postgresql/17/postmaster.pid)'`)
		conn := m.reconnect(ctx)
		if now := scan[time.Time](t, ctx, conn, "SELECT pg_postmaster_start_time()"); !now.After(was) {
			t.Errorf("the postmaster started at %v, before the kill it was %v", now, was)
		}
		if n := scan[int](t, ctx, conn, "SELECT count(*) FROM kept"); n != 1000 {
			t.Errorf("%d rows after the crash, want 1000", n)
		}
	})

	t.Run("a second boot keeps the rows", func(t *testing.T) {
		// The server learns the password that is made for a lost one, and dsn
		// the certificate.
		m.ok("exec", "sql", "--", "rm", "/data/secrets/postgresql/password", "/data/secrets/postgresql/server.crt")
		former := conn.Config().Copy()
		m.ok("stop", "sql")
		m.boot()
		conn := m.connect(ctx)
		former.Password = conn.Config().Password
		if c, err := pgx.ConnectConfig(ctx, former); err == nil {
			c.Close(ctx)
			t.Error("a client takes a certificate that it does not know")
		} else if !strings.Contains(err.Error(), "certificate") {
			t.Errorf("another certificate: %v", err)
		}
		if n := scan[int](t, ctx, conn, "SELECT count(*) FROM kept"); n != 1000 {
			t.Errorf("%d rows after the second boot, want 1000", n)
		}
		// An orderly stop leaves nothing to recover.
		if scan[bool](t, ctx, conn, "SELECT pg_is_in_recovery()") {
			t.Error("the server is in recovery")
		}
	})

	t.Run("a rebuilt bundle keeps the rows", func(t *testing.T) {
		m.ok("stop", "sql")
		m.rebuild(t, manifest.Arch)
		m.boot()
		conn := m.connect(ctx)
		if n := scan[int](t, ctx, conn, "SELECT count(*) FROM kept"); n != 1000 {
			t.Errorf("%d rows in the new bundle, want 1000", n)
		}
		if got := scan[string](t, ctx, conn, "SHOW log_min_duration_statement"); got != "12345ms" {
			t.Errorf("log_min_duration_statement is %s: the old image runs", got)
		}
		m.ok("stop", "sql")
	})
}

// rebuild makes a bundle that differs in one setting of PostgreSQL and takes
// it for the machine's.
func (m *machine) rebuild(t *testing.T, arch string) {
	t.Helper()
	dir := recipes(t)
	edit(t, dir+"/sql/files/postgresql.conf", "\n", "\nlog_min_duration_statement = 12345\n")
	out := t.TempDir()
	m.ok("build", dir+"/sql", "--arch", arch, "--output", out)
	m.bundle = filepath.Join(out, "sql-"+arch)
}

// reconnect waits until the server takes connections again.
func (m *machine) reconnect(ctx context.Context) *pgx.Conn {
	m.t.Helper()
	dsn := strings.TrimSpace(m.ok("dsn", "sql"))
	ctx, cancel := context.WithTimeout(ctx, bootDeadline)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := pgx.Connect(ctx, dsn)
		if err == nil {
			m.t.Cleanup(func() { conn.Close(context.Background()) })
			return conn
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			m.t.Fatalf("not healed: %v", err)
		}
	}
}
