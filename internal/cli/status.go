package cli

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func (s *session) statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status [NAME]",
		Short: "Show machines and their services",
		Long: `Status shows the state of a machine and of each of its services, as the guest
itself tells it; without a name, of every machine on this host.`,
		Example: `  sovereign-build status
  sovereign-build status sql --json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return operands("NAME")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) == 1 {
				name = args[0]
			}
			machines, err := s.Runtime.Status(cmd.Context(), name)
			if err != nil {
				return err
			}
			if machines == nil {
				machines = []MachineStatus{}
			}
			return s.printer().result(map[string]any{"machines": machines}, func(w io.Writer) error {
				return writeStatus(w, machines)
			})
		},
	}
	return exits(cmd, fault.Device)
}

func writeStatus(out io.Writer, machines []MachineStatus) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	if len(machines) == 0 {
		fmt.Fprintln(w, "no machine was ever started here")
	}
	for _, m := range machines {
		fmt.Fprintf(w, "%s\t%s\t%s\n", m.Name, m.State, m.Message)
		for _, port := range sortedPorts(m.Ports) {
			fmt.Fprintf(w, "  port %s\t127.0.0.1:%d\t\n", port, m.Ports[port])
		}
		for _, s := range m.Services {
			health := "not healthy"
			if s.Healthy {
				health = "healthy"
			}
			fmt.Fprintf(w, "  %s\t%s, %s\t%d restarts %s\n", s.Name, s.State, health, s.Restarts, s.Message)
		}
		writeSupervision(w, m)
	}
	return w.Flush()
}
