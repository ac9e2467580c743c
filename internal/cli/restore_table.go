package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

func (s *session) restoreTableCommand() *cobra.Command {
	var o runtime.TablesOptions
	var moment momentFlags
	var output string
	cmd := &cobra.Command{
		Use:   "table NAME[@ID] [TABLE...]",
		Short: "Get tables or a database out of a backup",
		Long: `Table writes tables of a machine's PostgreSQL as SQL, as they were in its newest
backup, in that of an ID, or with --to, --lsn or --point at any moment for which
the log is there (backup policy NAME --log). Without a TABLE it is the whole
database. The backup is restored into a machine without a network, whose own
pg_dump reads the tables, and which is removed again: the machine itself is not
touched, and need not be there.

A TABLE is named as pg_dump names it: schema.table, or a pattern of them. One that
was not there ends the command with 2, and nothing is written. What comes out is
for psql; to have the tables beside the present ones, restore them into a database
of their own.`,
		Example: `  sovereign-build restore table sql public.orders -o orders.sql
  sovereign-build restore table sql orders lines --database shop --to 2026-03-01T14:30:00Z -o shop.sql
  sovereign-build restore table sql --database shop --point before-the-migration | sovereign-build psql sql -- --dbname shop_then`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) >= 1 {
				return nil
			}
			return operands("NAME[@ID]")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			name, id, err := nameAndID(args[0])
			if err != nil {
				return err
			}
			if o.Target, err = moment.target(); err != nil {
				return err
			}
			o.Snapshot, o.Tables = id, args[1:]
			return s.runRestoreTable(cmd.Context(), name, o, output)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Database, "database", "", "the `database` (default: postgres)")
	f.StringVar(&o.Repository, "from", "", "the `repository` (default: that of the machine's policy, or the only one)")
	moment.flags(f)
	f.StringVarP(&output, "output", "o", "-", "the `file` for the SQL; - is standard output")
	return exits(cmd, fault.Environment, fault.Source, fault.Verification, fault.Device)
}

func (s *session) runRestoreTable(ctx context.Context, name string, o runtime.TablesOptions, output string) error {
	if output == "-" && s.json {
		return fault.Errorf(fault.Usage, "--json needs --output: the SQL itself goes to standard output")
	}
	h, err := s.host()
	if err != nil {
		return err
	}
	read := func(w io.Writer) (int64, error) {
		return withProgress(ctx, s, name, "restored", func(ctx context.Context) (int64, error) {
			return h.RestoreTables(ctx, name, o, w)
		})
	}
	if output == "-" {
		_, err := read(s.Stdout)
		return err
	}
	f, err := atomicfile.Create(output, 0o600)
	if err != nil {
		return err
	}
	defer f.Abort()
	n, err := read(f)
	if err != nil {
		return err
	}
	if err := f.Commit(); err != nil {
		return err
	}
	return s.printer().result(map[string]any{"machine": name, "output": output, "bytes": n}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s: %d bytes\n", output, n)
		return err
	})
}
