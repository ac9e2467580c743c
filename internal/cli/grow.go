package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

func (s *session) growCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "grow NAME SIZE",
		Short: "Make a machine's data disk larger",
		Long: `Grow makes the data disk SIZE large and its file system with it, while the
machine runs and services write. A machine that does not run takes the room at
its next boot. The disk's file is sparse: it takes room on this machine only as
the guest writes. A disk is never made smaller. Interrupted, it can be run
again.`,
		Example: `  sovereign-build grow sql 16GiB`,
		Args:    operands("NAME", "SIZE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var size recipe.Size
			if err := size.UnmarshalText([]byte(args[1])); err != nil {
				return fault.Errorf(fault.Usage, "SIZE: %w", err)
			}
			m, err := s.machine(args[0])
			if err != nil {
				return err
			}
			g, err := m.Grow(cmd.Context(), int64(size))
			if err != nil {
				return err
			}
			result := struct {
				Name string `json:"name"`
				runtime.Grown
			}{m.Name(), g}
			return s.printer().result(result, func(w io.Writer) error {
				when := "its file system too"
				if !g.Online {
					when = "its file system grows at the next boot"
				}
				_, err := fmt.Fprintf(w, "the data disk of %s has %s, it had %s; %s\n", m.Name(), recipe.Size(g.Size), recipe.Size(g.Before), when)
				return err
			})
		},
	}
	return exits(cmd, fault.Environment, fault.Device)
}
