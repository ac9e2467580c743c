package torture

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// writers is how many connections commit at a time; each has a row in tally.
const writers = 3

// The payload is a function of the key, so that a row that is not whole shows.
const (
	payload = `repeat(md5($1::int || ':' || $2::int || ':' || $3::int), 1 + $3::int % 40)`

	tables = `
CREATE SCHEMA torture;
CREATE TABLE torture.ledger (round int NOT NULL, writer int NOT NULL, seq int NOT NULL, payload text NOT NULL);
CREATE INDEX ON torture.ledger (round, writer, seq);
CREATE TABLE torture.tally (writer int PRIMARY KEY, n bigint NOT NULL);
INSERT INTO torture.tally SELECT w, 0 FROM generate_series(1, 3) w;
CREATE EXTENSION amcheck;
CREATE EXTENSION pg_prewarm;`

	// insert adds a row and counts it, in one transaction.
	insert = `
WITH added AS (
	INSERT INTO torture.ledger (round, writer, seq, payload) VALUES ($1, $2, $3, ` + payload + `))
UPDATE torture.tally SET n = n + 1 WHERE writer = $2`
)

// makeTables makes the writers' tables and pgbench's, of scale 1.
func (m *machine) makeTables(ctx context.Context) error {
	c, err := m.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	if _, err := c.Exec(ctx, tables); err != nil {
		return fmt.Errorf("the tables: %w", err)
	}
	cmd, err := m.client(ctx, "pgbench", "--initialize", "--scale=1", "--quiet")
	if err != nil {
		return err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fault.Errorf(fault.Device, "pgbench --initialize: %w: %s", err, out)
	}
	return nil
}

// connect opens a connection to the database.
func (m *machine) connect(ctx context.Context) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(m.dsn)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err)
	}
	cfg.ConnectTimeout = 10 * time.Second
	return pgx.ConnectConfig(ctx, cfg)
}

// client is a program of PostgreSQL's that connects to the database. The
// password goes by the environment.
func (m *machine) client(ctx context.Context, program string, args ...string) (*exec.Cmd, error) {
	path, err := find(program)
	if err != nil {
		return nil, err
	}
	cfg, err := pgx.ParseConfig(m.dsn)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err)
	}
	mode := "require" // TLS, as the guest's certificate is its own
	if cfg.TLSConfig == nil {
		mode = "disable"
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = 10 * time.Second
	cmd.Env = append(os.Environ(), "PGHOST="+cfg.Host, "PGPORT="+strconv.Itoa(int(cfg.Port)), "PGUSER="+cfg.User,
		"PGPASSWORD="+cfg.Password, "PGDATABASE="+cfg.Database, "PGSSLMODE="+mode, "PGCONNECT_TIMEOUT=10")
	return cmd, nil
}

// find looks for a program in PATH and where Debian puts those of one version
// of PostgreSQL.
func find(program string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/" + program)
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		return "", fault.Errorf(fault.Environment, "%s is not installed", program).
			Hintf("install PostgreSQL's programs: apt-get install postgresql postgresql-client")
	}
	return slices.Max(found), nil
}
