package backups

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// tablesPrefix begins the name of the machine that tables are read in.
const tablesPrefix = "tables-"

// postgresUser owns a cluster, and is let in by it without a password.
const postgresUser = "postgres"

// Limits of one request; a name has at most 63 bytes, and may be in quotes and
// behind a schema's.
const (
	maxTables = 1000
	maxTable  = 512
)

// Tables are what is wanted of a database.
type Tables struct {
	Database string // "": postgres
	// Names are pg_dump's patterns; none: all of the database.
	Names []string
}

func (t Tables) check() error {
	if len(t.Names) > maxTables {
		return fault.Errorf(fault.Usage, "%d tables are more than %d", len(t.Names), maxTables)
	}
	for _, name := range append([]string{t.Database}, t.Names...) {
		if len(name) > maxTable || strings.ContainsRune(name, 0) {
			return fault.Errorf(fault.Usage, "%.80q is no name of a database or a table", name)
		}
	}
	for _, name := range t.Names {
		if name == "" {
			return fault.Errorf(fault.Usage, "a table's name is empty")
		}
	}
	return nil
}

// dump is the program that writes them as SQL. What it is given is a connection
// string, in which a database's name would be taken for another one.
func (t Tables) dump(more ...string) agent.ExecRequest {
	name := t.Database
	if name == "" {
		name = postgresUser
	}
	quoted := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(name)
	argv := append([]string{"pg_dump", "--no-password", "--strict-names", "--dbname=dbname='" + quoted + "'"}, more...)
	for _, name := range t.Names {
		argv = append(argv, "--table="+name)
	}
	return agent.ExecRequest{Argv: argv, User: postgresUser}
}

// Tables writes tables of a backup, or of a moment, to w as SQL. It is restored
// into a machine without a network that is nobody's, whose own pg_dump reads them,
// and nothing of which is left. begin is called when there is nothing left that
// could be said as an error, and returns where the SQL goes.
func (m *Manager) Tables(ctx context.Context, q Restore, t Tables, begin func() (io.WriteCloser, error)) (err error) {
	if err := t.check(); err != nil {
		return err
	}
	end, err := m.temporary(ctx, &q, "the tables of ", tablesPrefix)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	var log *replayed
	if q.Moment != nil {
		if log, err = m.prepare(ctx, q); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, log.close()) }()
		q.Snapshot, q.Moment = log.base.ID, nil
	}
	if _, err := m.restoreNew(ctx, q, true); err != nil {
		return err
	}
	if _, err := m.boot(ctx, q.As, log); err != nil {
		return err
	}
	return dumpTables(ctx, m.o.Host.Machine(q.As), t, begin)
}

// dumpTables has the guest's pg_dump write to where begin says, when that has
// found what is wanted.
func dumpTables(ctx context.Context, guest *runtime.Machine, t Tables, begin func() (io.WriteCloser, error)) error {
	complaint := &last{limit: 4 << 10}
	// It names what is not there, and nothing has been sent by then.
	code, err := guest.Exec(ctx, t.dump("--schema-only"), agent.ExecIO{Stderr: complaint})
	if err != nil {
		return err
	}
	if code != 0 {
		return fault.Errorf(fault.Usage, "the backup has not all of that: %s", strings.TrimSpace(complaint.String())).
			Hintf("name a table as pg_dump does, schema.table; --database is for another than %s", postgresUser)
	}
	out, err := begin()
	if err != nil {
		return err
	}
	complaint = &last{limit: 4 << 10}
	code, err = guest.Exec(ctx, t.dump(), agent.ExecIO{Stdout: out, Stderr: complaint})
	if err == nil && code != 0 {
		err = fmt.Errorf("pg_dump ended with %d: %s", code, strings.TrimSpace(complaint.String()))
	}
	if err != nil {
		return err // its reader sees that it was cut off
	}
	return out.Close()
}
