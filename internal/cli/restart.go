package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func (s *session) restartCommand() *cobra.Command {
	var grace, timeout time.Duration
	cmd := &cobra.Command{
		Use:   "restart NAME",
		Short: "Shut a machine down in order and start it again",
		Long: `Restart stops a machine that up keeps running, as stop does, has sovereignd start
it again at once, and returns when its services are healthy. What was changed by
flags of up takes effect. Ends in a row are forgotten.`,
		Example: `  sovereign-build restart sql`,
		Args:    operands("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if grace <= 0 || timeout <= 0 {
				return fault.Errorf(fault.Usage, "--stop-timeout %s and --timeout %s must be positive times", grace, timeout)
			}
			p := s.printer()
			r, err := s.restart(cmd.Context(), args[0], grace, timeout)
			if err != nil {
				return err
			}
			return p.result(r, func(w io.Writer) error {
				if r.Forced {
					if err := writeStop(w, r.StopResult); err != nil {
						return err
					}
				}
				_, err := fmt.Fprintf(w, "%s is ready again, after %.1f s\n", r.Name, r.ReadySeconds)
				return err
			})
		},
	}
	cmd.Flags().DurationVar(&grace, "stop-timeout", stopTime, "`time` the guest has to shut down")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "`time` the services have to become healthy")
	return exits(cmd, fault.Environment, fault.Device)
}

func (s *session) restart(ctx context.Context, name string, grace, timeout time.Duration) (r RestartResult, err error) {
	begin := time.Now()
	m, err := s.machine(name)
	if err != nil {
		return r, err
	}
	stopped, err := m.Restart(ctx, grace)
	if err != nil {
		return r, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	status, err := m.WaitReady(ctx, s.told())
	if err != nil {
		return r, err
	}
	return RestartResult{StopResult{name, stopped}, hostPorts(status.Ports), time.Since(begin).Seconds()}, nil
}
