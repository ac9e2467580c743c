package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func (s *session) stopCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "stop NAME",
		Short: "Shut a running machine down in order",
		Long: `Stop asks the guest to stop its services and to unmount the data disk, and
returns when the machine is off. A machine that does not end in time is an
error; its power is not cut, since that is the owner's decision.`,
		Example: `  sovereign-build stop sql`,
		Args:    operands("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := s.Runtime.Stop(cmd.Context(), args[0], timeout); err != nil {
				return err
			}
			return s.printer().result(map[string]string{"name": args[0], "state": "stopped"}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s is stopped\n", args[0])
				return err
			})
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", stopTime, "how `long` the guest has")
	return exits(cmd, fault.Device)
}
