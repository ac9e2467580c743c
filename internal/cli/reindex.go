package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/internal/printable"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// reindexProgram is in images with PostgreSQL.
const reindexProgram = "/usr/lib/sovereign/postgresql-reindex"

func (s *session) reindexCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reindex NAME",
		Short: "Rebuild PostgreSQL's indexes after its collations have changed",
		Long: `Reindex rebuilds the indexes of every database whose collation version is not
the one of the ICU in the image, and notes the new version. status warns when
that is so: until then an index may not find rows that are there. A table
cannot be written to while its indexes are rebuilt, which takes as long as they
are large. Where all versions agree nothing is done. Interrupted, it can be run
again.`,
		Example: `  sovereign-build reindex sql`,
		Args:    operands("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := s.machine(args[0])
			if err != nil {
				return err
			}
			r := agent.ExecRequest{Argv: []string{reindexProgram}, User: postgresUser}
			out := s.Stdout
			if s.json {
				out = s.Stderr // standard output is for the result
			}
			stdout, stderr := printable.NewWriter(out), printable.NewWriter(s.Stderr)
			code, err := m.Exec(cmd.Context(), r, agent.ExecIO{Stdout: stdout, Stderr: stderr})
			if err := errors.Join(err, stdout.Flush(), stderr.Flush()); err != nil {
				return err
			}
			if code != 0 {
				return fault.Errorf(fault.Device, "%s in the guest of %s ended with exit code %d", reindexProgram, m.Name(), code).
					Hintf("read what it printed; it can be run again at any time")
			}
			if s.json {
				return s.printer().result(map[string]any{"name": m.Name(), "exit_code": code}, nil)
			}
			return nil
		},
	}
	return exits(cmd, fault.Environment, fault.Device)
}
