package cli

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func (s *session) downCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "down NAME",
		Short: "Shut a machine down and keep it down",
		Long: `Down has a machine not be wanted up any more and shuts it down in order, as stop
does. It stays down, also when this host is started anew, until up. Its data, its
bundles and an update that was not tried yet are kept.`,
		Example: `  sovereign-build down sql`,
		Args:    operands("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if timeout <= 0 {
				return fault.Errorf(fault.Usage, "--timeout %s is not a positive time", timeout)
			}
			return s.runStop(cmd.Context(), args[0], timeout)
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", stopTime, "`time` the guest has")
	return exits(cmd, fault.Environment, fault.Device)
}
