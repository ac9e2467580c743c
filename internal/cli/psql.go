package cli

import (
	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/internal/terminal"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// postgresUser owns the cluster, and is let in by the peer rule of
// pg_hba.conf: no password is needed.
const postgresUser = "postgres"

func (s *session) psqlCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "psql NAME [-- ARGUMENT...]",
		Short: "Talk SQL with the PostgreSQL of a running machine",
		Long: `Psql runs the psql of the guest, as its user postgres: no password and no port
is needed, and nothing of PostgreSQL on this machine. Arguments after -- are
psql's. In a terminal it is interactive; else it reads SQL from standard input.

For a connection of your own, see sovereign-build dsn.`,
		Example: `  sovereign-build psql sql
  sovereign-build psql sql -- --tuples-only --command 'SELECT version()'
  sovereign-build psql sql < schema.sql`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 || cmd.ArgsLenAtDash() != 1 {
				return operands("NAME")(cmd, args)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			_, in := terminal.Of(s.Stdin)
			_, out := terminal.Of(s.Stdout)
			o := execFlags{input: true, ExecRequest: agent.ExecRequest{
				Argv: append([]string{"psql"}, args[1:]...), User: postgresUser, TTY: in && out && !s.json,
			}}
			return s.runExec(cmd.Context(), args[0], o)
		},
	}
	return exitsLike(cmd, "psql")
}
