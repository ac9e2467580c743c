package cli

import (
	"bytes"
	"context"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

func (s *session) metricsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "metrics [NAME]",
		Short: "Print metrics in Prometheus' text format",
		Long: `Metrics prints what the device knows of a machine, or without a name of every
machine: whether it runs, the moments of the newest backup and of the newest
restore that was proven, how far the log is behind on the device and in the
repository, where it broke, and how many alarms there are. With a name come
those of its guest before them, if it runs: memory, load, pressure, the data disk
and the services.

Moments are in seconds since 1970: their age is time() less them. Node exporter's
textfile collector takes the output as it is.`,
		Example: `  sovereign-build metrics > /var/lib/node_exporter/sovereign.prom
  sovereign-build metrics sql --device ssh:phone`,
		Args: optional("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) == 1 {
				name = args[0]
			}
			text, err := s.metrics(cmd.Context(), name)
			if err != nil {
				return err
			}
			return s.printer().result(map[string]string{"metrics": text}, func(w io.Writer) error {
				_, err := io.WriteString(w, text)
				return err
			})
		},
	}
	return exits(cmd, fault.Environment, fault.Device)
}

func (s *session) metrics(ctx context.Context, name string) (string, error) {
	h, err := s.host()
	if err != nil {
		return "", err
	}
	var text bytes.Buffer
	machines := []runtime.Status{{}}
	if name == "" {
		machines, err = h.Machines(ctx)
	} else {
		machines[0], err = h.Machine(name).Status(ctx)
	}
	if err != nil {
		return "", err
	}
	if name != "" && machines[0].State == runtime.Running {
		guest, err := h.Machine(name).Metrics(ctx)
		if err != nil {
			return "", err
		}
		text.Write(guest)
	}
	err = runtime.WriteMetrics(&text, machines, time.Now())
	return text.String(), err
}
