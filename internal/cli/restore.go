package cli

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

type restoreFlags struct {
	as, from, bundle       string
	inPlace, forget, start bool
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

In place the former disk is kept, beside the new one, until restore NAME
--forget removes it.`,
		Example: `  sovereign-build restore sql --as sql2
  sovereign-build restore sql@k3x9 --in-place
  sovereign-build restore sql --forget
  sovereign-build restore file sql /data/postgresql/17/postgresql.conf > conf.tar`,
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
	f.BoolVar(&o.start, "start", false, "start the new machine, isolated, and wait for its services")
	cmd.AddCommand(s.restoreFileCommand())
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
	switch {
	case o.inPlace && o.as != "":
		return fault.Errorf(fault.Usage, "--as and --in-place are two ways").Hintf("give one of them")
	case o.inPlace && o.start:
		return fault.Errorf(fault.Usage, "--start is for a new machine").Hintf("a machine that runs goes on by itself after a restore in place")
	case o.inPlace:
		r, err := withProgress(ctx, s, name, "restored", func(ctx context.Context) (runtime.RestoreResult, error) {
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

func (s *session) writeRestored(r runtime.RestoreResult, inPlace bool) error {
	return s.printer().result(r, func(w io.Writer) error {
		fmt.Fprintf(w, "%s is restored from %s, taken %s: %s in %.1f s\n", oneLine(r.Machine), oneLine(r.From), r.Taken.Format("2006-01-02T15:04:05Z07:00"), mebibytes(r.Read), r.TookS)
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
