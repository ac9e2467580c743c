package cli

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

// Machines as objects: cloned, exported, imported and renamed.

// CopyResult is what clone, export, import and rename print.
type CopyResult struct {
	Name string `json:"name"`
	// From is the machine that it was, To the file where it is one.
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
	// HoldMS is for how long writes of a machine that ran were held, in
	// milliseconds.
	HoldMS  float64 `json:"hold_ms,omitempty"`
	Seconds float64 `json:"seconds"`
}

func (s *session) cloneCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "clone NAME NEW",
		Short: "Make a second machine from a copy of one's data",
		Long: `Clone copies a machine's data disk, its bundle and its options into a machine NEW,
which is down until up starts it. NAME goes on meanwhile: its guest takes a
snapshot, for which writes are held for some milliseconds.

NEW is a machine of its own. It has other ports, and at its first start its guest
throws away all secrets, certificates and what else the other machine is known by
(its node in a tailnet), and makes them anew. Secrets that were handed over have
to be handed over again.`,
		Example: `  sovereign-build clone sql sql-test
  sovereign-build up sql-test`,
		Args: operands("NAME", "NEW"),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := s.machine(args[0])
			if err != nil {
				return err
			}
			begin := time.Now()
			hold, err := m.Clone(cmd.Context(), args[1], s.meter("copied"))
			if err != nil {
				return err
			}
			r := CopyResult{Name: args[1], From: args[0], HoldMS: float64(hold.Microseconds()) / 1000, Seconds: time.Since(begin).Seconds()}
			return s.printer().result(r, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s is a copy of %s, and down: start it with sovereign-build up %[1]s\n", r.Name, r.From)
				return err
			})
		},
	}
	return exits(cmd, fault.Environment, fault.Verification, fault.Device)
}

func (s *session) exportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export NAME FILE",
		Short: "Write a machine into a file",
		Long: `Export writes a machine into one file on this machine: its bundle, its options and
its data disk as it is now, compressed. The machine goes on meanwhile, as with
clone. The file is there when all of it is, and was read back on its way.

All secrets of the machine are in the file, and it is not encrypted: keep it as
you keep them. It is a tar archive that is compressed by zstd.`,
		Example: `  sovereign-build export sql sql.machine
  sovereign-build import --device ssh:nas sql.machine`,
		Args: operands("NAME", "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := s.machine(args[0])
			if err != nil {
				return err
			}
			begin := time.Now()
			if err := m.Export(cmd.Context(), args[1], s.meter("exported")); err != nil {
				return err
			}
			path, err := filepath.Abs(args[1])
			if err != nil {
				return err
			}
			r := CopyResult{Name: args[0], To: path, Seconds: time.Since(begin).Seconds()}
			return s.printer().result(r, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s is in %s, with all its secrets\n", r.Name, r.To)
				return err
			})
		},
	}
	return exits(cmd, fault.Environment, fault.Verification, fault.Device)
}

func (s *session) importCommand() *cobra.Command {
	var clone bool
	cmd := &cobra.Command{
		Use:   "import FILE [NAME]",
		Short: "Make a machine from a file that export has written",
		Long: `Import makes a machine from a file that export has written, here or elsewhere. It is
down until up starts it. A file that was cut off or changed makes none.

The machine is the one that was exported: it has its secrets, its addresses in a
tailnet and its history. Do not start the other one again, or say --clone, which
makes this one a machine of its own, as clone does.`,
		Example: `  sovereign-build import sql.machine
  sovereign-build import sql.machine sql-test --clone`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := s.host()
			if err != nil {
				return err
			}
			name := ""
			if len(args) == 2 {
				name = args[1]
			}
			begin := time.Now()
			made, err := h.Import(cmd.Context(), args[0], name, clone, s.meter("sent"))
			if err != nil {
				return err
			}
			r := CopyResult{Name: made.Name, From: made.From, Seconds: time.Since(begin).Seconds()}
			return s.printer().result(r, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s is there, and down: start it with sovereign-build up %[1]s\n", oneLine(r.Name))
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&clone, "clone", false, "make it a machine of its own, with other secrets")
	return exits(cmd, fault.Environment, fault.Verification, fault.Device)
}

func (s *session) renameCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "rename OLD NEW",
		Short:   "Give a machine another name",
		Long:    `Rename gives a machine that is down another name. Nothing else of it changes.`,
		Example: `  sovereign-build rename sql orders`,
		Args:    operands("OLD", "NEW"),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := s.machine(args[0])
			if err != nil {
				return err
			}
			if err := m.Rename(cmd.Context(), args[1]); err != nil {
				return err
			}
			r := CopyResult{Name: args[1], From: args[0]}
			return s.printer().result(r, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s is now %s\n", r.From, r.Name)
				return err
			})
		},
	}
	return exits(cmd, fault.Environment, fault.Device)
}

// AcceptResult is what accept-rollback prints.
type AcceptResult struct {
	Name string `json:"name"`
	runtime.Continuity
	Ports map[string]int `json:"ports"`
}

func (s *session) acceptRollbackCommand() *cobra.Command {
	var reason string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "accept-rollback NAME --reason TEXT",
		Short: "Go on with a data disk that is not the newest",
		Long: `Accept-rollback is your word that a machine whose services are held goes on with
the data disk that it has, although that is not the one it had last: an older
copy, another history, another machine's disk or an empty one. What status says is
lost then is. The reason is kept on the disk.

The machine is started anew, and the command returns when its services are
healthy. From then on this disk is the newest, and a copy of the former one is
not.`,
		Example: `  sovereign-build accept-rollback sql --reason "the phone is gone, this is Monday's copy"`,
		Args:    operands("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return fault.Errorf(fault.Usage, "a rollback is accepted for a reason").Hintf("say --reason TEXT")
			}
			if timeout <= 0 {
				return fault.Errorf(fault.Usage, "--timeout %s must be a positive time", timeout)
			}
			m, err := s.machine(args[0])
			if err != nil {
				return err
			}
			c, err := m.AcceptRollback(cmd.Context(), reason)
			if err != nil {
				return err
			}
			limit, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			status, err := m.WaitReady(limit, s.told())
			if err != nil {
				return err
			}
			r := AcceptResult{args[0], c, hostPorts(status.Ports)}
			return s.printer().result(r, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s goes on with the data disk that it has, at epoch %d\n", r.Name, r.Epoch)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, at most 450 bytes: `text` that is kept on the disk")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "`time` the services have to become healthy")
	return exits(cmd, fault.Environment, fault.Device, fault.Stale)
}

func (s *session) freezeCommand() *cobra.Command {
	var limit time.Duration
	cmd := &cobra.Command{
		Use:   "freeze NAME",
		Short: "Hold the writes to a machine's data file system",
		Long: `Freeze brings the guest's data file system to rest and holds all writes to it, so
that a tool of yours can copy the disk's image. Whoever writes waits. The guest
thaws it by itself after --for, which a further freeze begins anew.

For a copy by Sovereign nothing is frozen: clone and export take a snapshot.`,
		Example: `  sovereign-build freeze sql --for 30s && cp --sparse=always DIRECTORY/data.img copy.img; sovereign-build thaw sql`,
		Args:    operands("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < time.Second || limit > 10*time.Minute {
				return fault.Errorf(fault.Usage, "--for %s is not from 1s to 10m", limit)
			}
			m, err := s.machine(args[0])
			if err != nil {
				return err
			}
			if err := m.Freeze(cmd.Context(), limit); err != nil {
				return err
			}
			r := FreezeResult{Name: args[0], Frozen: true, Seconds: int(limit / time.Second)}
			return s.printer().result(r, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "writes to the data of %s are held for %v\n", r.Name, limit)
				return err
			})
		},
	}
	cmd.Flags().DurationVar(&limit, "for", 30*time.Second, "`time` after which the guest thaws it by itself, from 1s to 10m")
	return exits(cmd, fault.Environment, fault.Device)
}

// FreezeResult is what freeze and thaw print.
type FreezeResult struct {
	Name   string `json:"name"`
	Frozen bool   `json:"frozen"`
	// Seconds are those after which the guest thaws by itself.
	Seconds int `json:"seconds,omitempty"`
}

func (s *session) thawCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "thaw NAME",
		Short:   "End a freeze",
		Long:    `Thaw lets writes to a machine's data file system go on. One that is not frozen is no error.`,
		Example: `  sovereign-build thaw sql`,
		Args:    operands("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := s.machine(args[0])
			if err != nil {
				return err
			}
			if err := m.Thaw(cmd.Context()); err != nil {
				return err
			}
			return s.printer().result(FreezeResult{Name: args[0]}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "writes to the data of %s go on\n", args[0])
				return err
			})
		},
	}
	return exits(cmd, fault.Environment, fault.Device)
}
