package cli

import (
	"context"
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
returns when the machine is off. Only when it has not ended in time is its power
cut, and the command says so; services then recover as after a crash. Stopping a
machine that does not run is no error.`,
		Example: `  sovereign-build stop sql`,
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

func (s *session) runStop(ctx context.Context, name string, grace time.Duration) error {
	m, err := s.machine(name)
	if err != nil {
		return err
	}
	r, err := m.Down(ctx, grace)
	if err != nil {
		return err
	}
	result := StopResult{name, r}
	return s.printer().result(result, func(w io.Writer) error { return writeStop(w, result) })
}

func writeStop(w io.Writer, r StopResult) error {
	var err error
	switch {
	case !r.WasRunning:
		_, err = fmt.Fprintf(w, "%s was not running\n", r.Name)
	case r.Forced:
		_, err = fmt.Fprintf(w, "%s is off, its power was cut: %s\n", r.Name, oneLine(r.Why))
	default:
		_, err = fmt.Fprintf(w, "%s is stopped, after %.1f s\n", r.Name, r.Seconds)
	}
	return err
}
