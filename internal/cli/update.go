package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

func (s *session) updateCommand() *cobra.Command {
	var limit time.Duration
	var older bool
	cmd := &cobra.Command{
		Use:   "update NAME BUNDLE",
		Short: "Change a machine's bundle, and go back by itself if it is not healthy",
		Long: `Update copies a bundle beside the one that the machine runs, checks the copy, and
restarts the machine into it. When its services become healthy in time and stay
so for half a minute, that is the machine's bundle from now on; otherwise the
former one is started again by itself, the reason is printed and kept for status,
and the command ends with 8. An optional service counts if it was healthy before;
what is wrong around the services, no network say, does not. The data disk is not
touched. An update that is interrupted, by whatever, goes
on where it was or goes back; the machine can be started at every moment.

A machine whose bundle has a key takes only what that key signs, or one that it
was rotated to, and nothing older than the newest it has seen.

BUNDLE is a bundle's directory, or a name for dist/NAME-ARCH. A machine that is
down tries the bundle at the next up; until then, rollback takes it back.`,
		Example: `  sovereign-build update sql dist/sql-amd64
  sovereign-build update sql sql --timeout 2m --json`,
		Args: operands("NAME", "BUNDLE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := trialTime(limit); err != nil {
				return err
			}
			bundle, err := s.findBundle(cmd.Context(), args[1])
			if err != nil {
				return err
			}
			m, err := s.machine(args[0])
			if err != nil {
				return err
			}
			r, err := m.Update(cmd.Context(), bundle, limit, s.told(), allowed(older)...)
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

// rollbackFlag is that of every command that may bring an older bundle.
func rollbackFlag(cmd *cobra.Command, older *bool) {
	cmd.Flags().BoolVar(older, "allow-rollback", false, "let in a signed bundle that is older than the newest seen, and write down that it was")
}

func allowed(older bool) []runtime.UpdateOption {
	if older {
		return []runtime.UpdateOption{runtime.AllowRollback}
	}
	return nil
}

func trialTime(limit time.Duration) error {
	if limit < time.Second || limit > 24*time.Hour {
		return fault.Errorf(fault.Usage, "--timeout %s is not a time from 1s to 24h", limit)
	}
	return nil
}

// writeUpdate prints a result and says by the exit code whether the former
// bundle had to come back.
func (s *session) writeUpdate(name string, u runtime.UpdateResult) error {
	r := newUpdateResult(name, u)
	return s.writeOutcome(r, r)
}

func newUpdateResult(name string, u runtime.UpdateResult) UpdateResult {
	r := UpdateResult{Name: name, Kind: u.Kind, Result: u.Result, Why: u.Why, From: u.From, To: u.To, Seconds: u.Seconds}
	switch u.Result {
	case runtime.UpdateInstalled, runtime.UpdateCommitted, runtime.UpdateReverted:
		r.Ports = hostPorts(u.Status.Ports)
	}
	return r
}

// writeOutcome prints v, as text the outcome that is in it.
func (s *session) writeOutcome(v any, r UpdateResult) error {
	err := s.printer().result(v, func(w io.Writer) error {
		var err error
		switch r.Result {
		case runtime.UpdateInstalled, runtime.UpdateCommitted:
			_, err = fmt.Fprintf(w, "%s runs %.19s, after %.1f s\n", r.Name, r.To, r.Seconds)
		case runtime.UpdateReverted:
			_, err = fmt.Fprintf(w, "%s runs %.19s again, after %.1f s; the %s failed: %s\n", r.Name, r.From, r.Seconds, r.Kind, oneLine(r.Why))
		case runtime.UpdateStaged:
			_, err = fmt.Fprintf(w, "%s is down and tries the bundle at the next up\n", r.Name)
		case runtime.UpdateUnchanged:
			_, err = fmt.Fprintf(w, "%s has that bundle already\n", r.Name)
		case runtime.UpdateCancelled:
			_, err = fmt.Fprintf(w, "%s keeps %.19s, and tries nothing else\n", r.Name, r.To)
		}
		return err
	})
	if err == nil && r.Result == runtime.UpdateReverted {
		return told{int(fault.Device)}
	}
	return err
}
