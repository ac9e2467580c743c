package cli

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

func (s *session) rollbackCommand() *cobra.Command {
	var limit time.Duration
	var older bool
	cmd := &cobra.Command{
		Use:   "rollback NAME",
		Short: "Go back to the bundle before the last update",
		Long: `Rollback restarts a machine into the bundle that it ran before the last update,
in the way of update: it stays when its services become healthy and stay so, or else
the machine comes back as it was, and the command ends with 8. A second rollback
goes forward again. The data disk is not touched: what a newer bundle has made
of the data, an older one has to understand.

A machine whose bundles are signed has seen a newer one by then, whose index says
so, and refuses without --allow-rollback: older bundles have the holes that the
newer ones close.

What a machine that is down is yet to try, from update or rollback, is taken
back instead: it keeps the bundle that it has.`,
		Example: `  sovereign-build rollback sql`,
		Args:    operands("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := trialTime(limit); err != nil {
				return err
			}
			m, err := s.machine(args[0])
			if err != nil {
				return err
			}
			r, err := m.Rollback(cmd.Context(), limit, s.told(), allowed(older)...)
			if err != nil {
				return err
			}
			return s.writeUpdate(m.Name(), r)
		},
	}
	cmd.Flags().DurationVar(&limit, "timeout", runtime.DefaultTrialLimit, "`time` the services have to become healthy")
	rollbackFlag(cmd, &older)
	return exits(cmd, fault.Environment, fault.Verification, fault.Device)
}
