package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/internal/printable"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

func (s *session) statusCommand() *cobra.Command {
	var watch bool
	var interval time.Duration
	cmd := &cobra.Command{
		Use:   "status [NAME]",
		Short: "Show machines and their services",
		Long: `Status shows the state of a machine, of its data disk and of each of its
services, as the guest itself tells it; without a name, of every machine on the
device. With --watch it goes on until Ctrl-C, and shows also what processor time
and memory each service uses, and PostgreSQL's commits: in a terminal the table
stays in place, else it is printed anew whenever something in it has changed,
with --json as one object a line.`,
		Example: `  sovereign-build status
  sovereign-build status sql --json
  sovereign-build status sql --watch`,
		Args: optional("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) == 1 {
				name = args[0]
			}
			if interval < 100*time.Millisecond {
				return fault.Errorf(fault.Usage, "--interval %s is less than 100ms", interval)
			}
			if watch {
				return s.watchStatus(cmd.Context(), name, interval)
			}
			machines, err := s.status(cmd.Context(), name)
			if err != nil {
				return err
			}
			return s.writeMachines(s.printer(), machines)
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on, and show what changes and what the services do")
	cmd.Flags().DurationVar(&interval, "interval", time.Second, "`time` between two measurements with --watch")
	return exits(cmd, fault.Environment, fault.Device)
}

// status is that of the named machine, or of all.
func (s *session) status(ctx context.Context, name string) ([]MachineStatus, error) {
	h, err := s.host()
	if err != nil {
		return nil, err
	}
	all := []runtime.Status{{}}
	if name == "" {
		all, err = h.Machines(ctx)
	} else {
		all[0], err = h.Machine(name).Status(ctx)
	}
	if err != nil {
		return nil, err
	}
	machines := []MachineStatus{}
	for _, v := range all {
		machines = append(machines, machineStatus(v))
	}
	return machines, nil
}

func (s *session) writeMachines(p printer, machines []MachineStatus) error {
	return p.result(map[string]any{"machines": machines}, func(w io.Writer) error { return s.writeStatus(w, machines) })
}

func (s *session) writeStatus(out io.Writer, machines []MachineStatus) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	if len(machines) == 0 {
		fmt.Fprintf(w, "no machine was ever started %s\n", s.place())
	}
	for _, m := range machines {
		fmt.Fprintf(w, "%s\t%s\t%s\n", oneLine(m.Name), oneLine(m.State), below(m.Message))
		for _, port := range sortedPorts(m.Ports) {
			fmt.Fprintf(w, "  port %s\t127.0.0.1:%d%s\t\n", port, m.Ports[port], s.there())
		}
		if d := m.Data; d != nil {
			warning := ""
			if d.NearlyFull {
				warning = "nearly full: " + s.command("grow "+m.Name+" SIZE") + " makes it larger"
			}
			fmt.Fprintf(w, "  data disk\t%s of %s are free\t%s\n", mebibytes(d.Free), mebibytes(d.Size), warning)
		}
		if m.Clock == "unset" {
			fmt.Fprintf(w, "  clock\tunset\tthe guest's time is wrong: it found no clock and no time server\n")
		}
		if m.Load != nil {
			fmt.Fprintf(w, "  load\t%s\t\n", m.Load)
		}
		for _, v := range m.Services {
			load := v.Load.String()
			if load != "" {
				load += ", "
			}
			fmt.Fprintf(w, "  %s\t%s, %s\t%s%d restarts %s\n", oneLine(v.Name), oneLine(v.State), v.health(), load, v.Restarts, oneLine(v.said()))
		}
		if m.Isolated {
			fmt.Fprintf(w, "  isolated\tno network\t%s gives it one\n", s.command("up "+oneLine(m.Name)+" --activate"))
		}
		writeBackup(w, m.Backup)
		writeWitnessed(w, m.Witnesses)
		writeSupervision(w, m)
	}
	return w.Flush()
}

// below puts the lines of a message but the first, such as the end of a
// console, below the machine's row, where they are not taken for another row.
func below(message string) string {
	first, rest, _ := strings.Cut(strings.TrimSpace(message), "\n")
	text := oneLine(first)
	for line := range strings.Lines(rest) {
		if line = strings.TrimRight(printable.Line(line), " "); line != "" {
			text += "\n  | " + line
		}
	}
	return text
}

func (s ServiceStatus) health() string {
	switch {
	case s.Healthy:
		return "healthy"
	case s.Optional:
		return "not healthy (optional)"
	}
	return "not healthy"
}

// said is the service's last problem, or what a healthy one warns of.
func (s ServiceStatus) said() string {
	if s.Warning != "" {
		return "warning: " + s.Warning
	}
	return s.Message
}
