package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sovereign-build/sovereign/pkg/backup"
	"github.com/sovereign-build/sovereign/pkg/backup/wal"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

type restoreFlags struct {
	as, from, bundle       string
	inPlace, forget, start bool
	moment                 momentFlags
}

// momentFlags say a moment between backups.
type momentFlags struct{ to, lsn, point string }

func (m *momentFlags) flags(f *pflag.FlagSet) {
	f.StringVar(&m.to, "to", "", "restore the `moment`, in RFC 3339: 2026-03-01T14:30:00Z")
	f.StringVar(&m.lsn, "lsn", "", "restore what was written before a `place` in PostgreSQL's log: 16/B374D848")
	f.StringVar(&m.point, "point", "", "restore the moment of a restore point, by its `name`")
}

func (s *session) restoreCommand() *cobra.Command {
	var o restoreFlags
	cmd := &cobra.Command{
		Use:   "restore NAME[@ID]",
		Short: "Restore a machine from a backup",
		Long: `Restore makes a machine of the newest backup of NAME, or of that with an ID:
with --as a new one, also on another device; with --in-place in the place of the
one that is there, which goes on with the restored disk. Every piece of the disk
is held to the sum that was taken when it was read. Interrupted or killed, there
is either the machine as it was or the restored one.

A new machine is down, and isolated: it has no network, as it is a copy of one
that may be alive, with its keys and its identity. Look into it with up, exec and
psql; then sovereign-build down NEW and up NEW --activate give it its network.

Where the log is kept (backup policy NAME --log), --to, --lsn and --point restore
any moment between backups: by RFC 3339, by a place in PostgreSQL's log (all that
was written before it), or by the name of a restore point. The backup that this
begins with is chosen, the log is read whole before anything is touched, and it is
replayed in a machine that nobody sees; a moment that cannot be had ends the
command with 2, and the words say which can.

In place the former disk is kept, beside the new one, until restore NAME
--forget removes it.`,
		Example: `  sovereign-build restore sql --as sql2
  sovereign-build restore sql@k3x9 --in-place
  sovereign-build restore sql --to 2026-03-01T14:30:00Z --as sql2
  sovereign-build restore sql --point before-the-migration --in-place
  sovereign-build restore sql --forget
  sovereign-build restore file sql /data/postgresql/17/postgresql.conf > conf.tar
  sovereign-build restore table sql public.orders --to 2026-03-01T14:30:00Z -o orders.sql`,
		Args: operands("NAME[@ID]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, id, err := nameAndID(args[0])
			if err != nil {
				return err
			}
			return s.runRestore(cmd.Context(), o, name, id)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.as, "as", "", "the `name` of a new machine (default: NAME, where there is none)")
	f.BoolVar(&o.inPlace, "in-place", false, "put the disk in the place of the machine's, which is kept")
	f.BoolVar(&o.forget, "forget", false, "remove the disks that restores in place have kept")
	f.StringVar(&o.from, "from", "", "the `repository` (default: that of the machine's policy, or the only one)")
	f.StringVar(&o.bundle, "bundle", "", "`directory` of the bundle, where neither the backup nor the device has it")
	o.moment.flags(f)
	f.BoolVar(&o.start, "start", false, "start the new machine, isolated, and wait for its services")
	cmd.AddCommand(s.restoreFileCommand(), s.restoreTableCommand())
	return exits(cmd, fault.Environment, fault.Source, fault.Verification, fault.Device)
}

func (s *session) runRestore(ctx context.Context, o restoreFlags, name, id string) error {
	m, err := s.machine(name)
	if err != nil {
		return err
	}
	if o.forget {
		n, err := m.ForgetFormerDisks(ctx)
		if err != nil {
			return err
		}
		return s.printer().result(map[string]any{"name": name, "disks": n}, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "%d former disks of %s are removed\n", n, name)
			return err
		})
	}
	t, err := o.moment.target()
	if err != nil {
		return err
	}
	switch {
	case !t.IsEnd() && o.bundle != "":
		return fault.Errorf(fault.Usage, "--bundle is not for a moment").Hintf("restore the backup first, with its bundle; or have the device know the bundle")
	case o.inPlace && o.as != "":
		return fault.Errorf(fault.Usage, "--as and --in-place are two ways").Hintf("give one of them")
	case o.inPlace && o.start:
		return fault.Errorf(fault.Usage, "--start is for a new machine").Hintf("a machine that runs goes on by itself after a restore in place")
	case o.inPlace:
		r, err := withProgress(ctx, s, name, "restored", func(ctx context.Context) (runtime.RestoreResult, error) {
			if !t.IsEnd() {
				return m.RestoreInPlaceTo(ctx, id, o.from, t)
			}
			return m.RestoreInPlace(ctx, id, o.from)
		})
		if err != nil {
			return err
		}
		return s.writeRestored(r, true)
	}
	if o.as == "" {
		o.as = name
	}
	h, err := s.host()
	if err != nil {
		return err
	}
	r, err := withProgress(ctx, s, o.as, "restored", func(ctx context.Context) (runtime.RestoreResult, error) {
		if !t.IsEnd() {
			return h.RestoreTo(ctx, name, id, o.from, o.as, t)
		}
		return h.Restore(ctx, name, id, o.from, o.as, o.bundle, s.told())
	})
	if err != nil {
		return err
	}
	if o.start {
		made := h.Machine(o.as)
		if err := made.Up(ctx, runtime.UpOptions{}, nil); err != nil {
			return err
		}
		if _, err := made.WaitReady(ctx, s.told()); err != nil {
			return err
		}
	}
	return s.writeRestored(r, false)
}

// target is the moment that is asked for.
func (m momentFlags) target() (t backup.Target, err error) {
	t.Point = m.point
	if m.to != "" {
		if t.Time, err = backup.ParseTime(m.to); err != nil {
			return t, err
		}
	}
	if m.lsn != "" {
		if t.LSN, err = wal.ParseLSN(m.lsn); err != nil {
			return t, err
		}
	}
	return t, t.Check()
}

func (s *session) recoverCommand() *cobra.Command {
	var from string
	cmd := &cobra.Command{
		Use:   "recover NAME",
		Short: "Roll a machine forward to the end of its log",
		Long: `Recover is for a machine whose disk is lost, or went back to an older state. It
restores the newest backup that the log goes on from, and replays that to its
end, with what the repository and this device have of it: nothing is lost that
was on the device's disk. The disk that the machine has is kept, as by restore
--in-place, and is not touched before the end has been reached.

Where the log broke as the disk went back, it is the log of before that is
replayed: what was done since is on the disk that is kept. A machine that serves a
disk with all of its log has nothing to recover, and the command ends with 2: what
it commits meanwhile would be on the former disk alone. A disk that is there and
good needs only sovereign-build up: PostgreSQL recovers from a crash by itself.`,
		Example: `  sovereign-build recover sql`,
		Args:    operands("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := s.machine(args[0])
			if err != nil {
				return err
			}
			r, err := withProgress(cmd.Context(), s, m.Name(), "restored", func(ctx context.Context) (runtime.RestoreResult, error) {
				return m.Recover(ctx, from)
			})
			if err != nil {
				return err
			}
			return s.writeRestored(r, !r.New)
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "the `repository` (default: that of the machine's policy, or the only one)")
	return exits(cmd, fault.Environment, fault.Source, fault.Verification, fault.Device)
}

func (s *session) writeRestored(r runtime.RestoreResult, inPlace bool) error {
	return s.printer().result(r, func(w io.Writer) error {
		fmt.Fprintf(w, "%s is restored from %s, taken %s: %s in %.1f s\n", oneLine(r.Machine), oneLine(r.From), r.Taken.Format("2006-01-02T15:04:05Z07:00"), mebibytes(r.Read), r.TookS)
		if l := r.Reached; l != nil {
			until := "with no transaction behind the backup"
			if !l.Time.IsZero() {
				until = "the last of them at " + l.Time.UTC().Format(time.RFC3339Nano)
			}
			fmt.Fprintf(w, "its log was replayed until %v of timeline %d: %s, %d transactions, %s\n", l.LSN, l.Timeline, mebibytes(l.Bytes), l.Transactions, until)
		}
		for _, note := range r.Notes {
			fmt.Fprintf(w, "note: %s\n", oneLine(note))
		}
		if !inPlace {
			_, err := fmt.Fprintf(w, "it is isolated, without a network; to give it one: %s\n", s.command("up "+oneLine(r.Machine)+" --activate"))
			return err
		}
		if r.Kept == "" {
			return nil
		}
		_, err := fmt.Fprintf(w, "the former disk is kept: %s%s; to remove it: %s\n", oneLine(r.Kept), s.there(), s.command("restore "+oneLine(r.Machine)+" --forget"))
		return err
	})
}

func (s *session) restoreFileCommand() *cobra.Command {
	var from, output string
	cmd := &cobra.Command{
		Use:   "file NAME[@ID] PATH...",
		Short: "Get files out of a backup",
		Long: `File copies files and directories out of a backup, by their absolute paths in the
guest, as a tar archive. The backup is started as a machine without a network,
which is removed again: no program of this computer reads the guest's file
system.`,
		Example: `  sovereign-build restore file sql /data/postgresql/17/postgresql.conf -o conf.tar
  sovereign-build restore file sql@k3x9 /data/git > git.tar`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) >= 2 {
				return nil
			}
			return operands("NAME[@ID]", "PATH")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			name, id, err := nameAndID(args[0])
			if err != nil {
				return err
			}
			h, err := s.host()
			if err != nil {
				return err
			}
			to := s.Stdout
			if output != "" {
				f, err := os.OpenFile(output, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
				if err != nil {
					return fault.Wrap(fault.Environment, err)
				}
				defer func() {
					if closeErr := f.Close(); err == nil {
						err = fault.Wrap(fault.Environment, closeErr)
					}
					if err != nil {
						os.Remove(output) // a part is not the whole
					}
				}()
				to = f
			} else if s.json {
				return fault.Errorf(fault.Usage, "--json needs --output: the archive itself goes to standard output")
			}
			n, err := h.RestoreFiles(cmd.Context(), name, id, from, args[1:], to)
			if err != nil || output == "" {
				return err
			}
			return s.printer().result(map[string]any{"machine": name, "output": output, "bytes": n}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s: %d bytes\n", output, n)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "the `repository` (default: that of the machine's policy, or the only one)")
	cmd.Flags().StringVarP(&output, "output", "o", "", "a new `file` for the archive (default: standard output)")
	return exits(cmd, fault.Environment, fault.Source, fault.Verification, fault.Device)
}
