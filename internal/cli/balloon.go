package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

func (s *session) balloonCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "balloon NAME [SIZE]",
		Short: "Take memory from a running machine, or give it back",
		Long: `Balloon has the guest give memory back until it has SIZE, or take again what it
gave, up to what it was started with; without SIZE it prints what the guest has.
It waits for the guest for at most 10 s: one that needs its memory keeps it, and
takes it again when it runs short. The next start is with all of it.`,
		Example: `  sovereign-build balloon sql 256MiB
  sovereign-build balloon sql --json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				return nil
			}
			return operands("NAME")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var size recipe.Size
			if len(args) == 2 {
				if err := size.UnmarshalText([]byte(args[1])); err != nil {
					return fault.Errorf(fault.Usage, "SIZE: %w", err)
				}
			}
			m, err := s.machine(args[0])
			if err != nil {
				return err
			}
			var has runtime.Memory
			if len(args) == 2 {
				has, err = m.Balloon(cmd.Context(), int64(size))
			} else {
				has, err = m.Memory(cmd.Context())
			}
			if err != nil {
				return err
			}
			result := struct {
				Name string `json:"name"`
				runtime.Memory
			}{m.Name(), has}
			return s.printer().result(result, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s has %s of %s\n", m.Name(), mebibytes(has.Now), mebibytes(has.Max))
				return err
			})
		},
	}
	return exits(cmd, fault.Environment, fault.Device)
}
