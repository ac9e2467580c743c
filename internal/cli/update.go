package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

func (s *session) updateCommand() *cobra.Command {
	var limit time.Duration
	var older, keep, forget bool
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

With --snapshot a copy of the data disk is kept first, when the former bundle has
been shut down: nothing that it has written is missing in it. An update that fails
then takes the data back with it, and rollback --with-data does so later. The
file system shares the blocks of both where it can, as btrfs and XFS do; else what
is in use is copied while the machine is down, and there has to be room for it,
which is looked at before anything is done. The copy goes with the next update,
or by --forget-snapshot.

A machine whose bundle has a key takes only what that key signs, or one that it
was rotated to, and nothing older than the newest it has seen.

BUNDLE is a bundle's directory, or a name for dist/NAME-ARCH. A machine that is
down tries the bundle at the next up; until then, rollback takes it back.`,
		Example: `  sovereign-build update sql dist/sql-amd64
  sovereign-build update sql sql --timeout 2m --json
  sovereign-build update sql dist/sql-amd64 --snapshot
  sovereign-build update sql --forget-snapshot`,
		Args: func(cmd *cobra.Command, args []string) error {
			if forget {
				return operands("NAME")(cmd, args)
			}
			return operands("NAME", "BUNDLE")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if forget {
				return s.forgetKept(cmd.Context(), args[0])
			}
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
			options := allowed(older)
			if keep {
				options = append(options, runtime.KeepData)
			}
			r, err := m.Update(cmd.Context(), bundle, limit, s.told(), options...)
			if err != nil {
				return err
			}
			return s.writeUpdate(m.Name(), r)
		},
	}
	cmd.Flags().DurationVar(&limit, "timeout", runtime.DefaultTrialLimit, "`time` the services have to become healthy")
	cmd.Flags().BoolVar(&keep, "snapshot", false, "keep a copy of the data disk, and go back to it if the update fails")
	cmd.Flags().BoolVar(&forget, "forget-snapshot", false, "remove the copy that the last update has kept, and do nothing else")
	cmd.MarkFlagsMutuallyExclusive("snapshot", "forget-snapshot")
	rollbackFlag(cmd, &older)
	return exits(cmd, fault.Environment, fault.Verification, fault.Device)
}

// ForgetResult is what update --forget-snapshot prints.
type ForgetResult struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"` // that the copy took; 0 where there was none
}

func (s *session) forgetKept(ctx context.Context, name string) error {
	m, err := s.machine(name)
	if err != nil {
		return err
	}
	size, err := m.ForgetKeptData(ctx)
	if err != nil {
		return err
	}
	return s.printer().result(ForgetResult{name, size}, func(w io.Writer) error {
		text := "there was no copy of its data"
		if size > 0 {
			text = "the copy of its data is removed: " + mebibytes(size)
		}
		_, err := fmt.Fprintf(w, "%s: %s\n", name, text)
		return err
	})
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
	r := UpdateResult{Name: name, Kind: u.Kind, Result: u.Result, Why: u.Why, From: u.From, To: u.To, Disk: u.Disk, Seconds: u.Seconds}
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
		if err == nil && r.Disk != "" {
			_, err = fmt.Fprintf(w, "its data went back; the disk with what was written since is kept%s, until %s: %s\n", s.there(), s.command("restore "+r.Name+" --forget"), oneLine(r.Disk))
		}
		return err
	})
	if err == nil && r.Result == runtime.UpdateReverted {
		return told{int(fault.Device)}
	}
	return err
}
