package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

func (s *session) rollbackCommand() *cobra.Command {
	var limit time.Duration
	var older, withData, yes bool
	cmd := &cobra.Command{
		Use:   "rollback NAME",
		Short: "Go back to the bundle before the last update",
		Long: `Rollback restarts a machine into the bundle that it ran before the last update,
in the way of update: it stays when its services become healthy and stay so, or else
the machine comes back as it was, and the command ends with 8. A second rollback
goes forward again. The data disk is not touched: what a newer bundle has made
of the data, an older one has to understand.

With --with-data the data goes back too, to the copy that update --snapshot has
kept: what was written since is not there then. It says since when, and asks;
without a terminal to ask at, --yes is needed. The disk with what was written
since is kept beside it, until restore NAME --forget.

A machine whose bundles are signed has seen a newer one by then, whose index says
so, and refuses without --allow-rollback: older bundles have the holes that the
newer ones close.

What a machine that is down is yet to try, from update or rollback, is taken
back instead: it keeps the bundle that it has.`,
		Example: `  sovereign-build rollback sql
  sovereign-build rollback sql --with-data --yes`,
		Args: operands("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := trialTime(limit); err != nil {
				return err
			}
			m, err := s.machine(args[0])
			if err != nil {
				return err
			}
			options := allowed(older)
			if withData {
				if err := s.confirmData(cmd.Context(), m, yes); err != nil {
					return err
				}
				options = append(options, runtime.WithData)
			}
			r, err := m.Rollback(cmd.Context(), limit, s.told(), options...)
			if err != nil {
				return err
			}
			return s.writeUpdate(m.Name(), r)
		},
	}
	cmd.Flags().DurationVar(&limit, "timeout", runtime.DefaultTrialLimit, "`time` the services have to become healthy")
	cmd.Flags().BoolVar(&withData, "with-data", false, "go back to the data from before the update as well")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	rollbackFlag(cmd, &older)
	return exits(cmd, fault.Environment, fault.Verification, fault.Device)
}

// confirmData asks whether what was written since the copy may go.
func (s *session) confirmData(ctx context.Context, m *runtime.Machine, yes bool) error {
	status, err := m.Status(ctx)
	if err != nil {
		return err
	}
	if status.Supervision == nil || status.Supervision.Kept == nil {
		return fault.Errorf(fault.Usage, "%s has no copy of its data from before the last update", m.Name()).
			Hintf("go back without it: sovereign-build rollback %s; or to a backup: sovereign-build restore %s --in-place", m.Name(), m.Name())
	}
	text := writtenSince(*status.Supervision.Kept, status.Continuity, time.Now())
	if yes {
		s.printer().note(text)
		return nil
	}
	return s.confirm("go back with the data of "+m.Name(), text)
}

// writtenSince says what of a disk is not in a copy of it.
func writtenSince(k runtime.Kept, now *runtime.Witnessed, at time.Time) string {
	text := "what was written since " + k.Time.UTC().Format(time.RFC3339)
	if d := at.Sub(k.Time).Round(time.Second); d > 0 {
		text += fmt.Sprintf(", in %v", d)
	}
	if c := k.Continuity; c != nil && now != nil && now.Lineage == c.Lineage && now.Epoch >= c.Epoch {
		text += fmt.Sprintf(" (%d epochs of its disk)", now.Epoch-c.Epoch)
	}
	return text + ", is not in it"
}
