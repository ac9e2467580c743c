package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/internal/printable"
	"github.com/sovereign-build/sovereign/internal/terminal"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

func (s *session) statusCommand() *cobra.Command {
	var watch bool
	var interval time.Duration
	cmd := &cobra.Command{
		Use:   "status [NAME]",
		Short: "Show machines and their services",
		Long: `Status shows the state of a machine, of its data disk and of each of its
services, as the guest itself tells it; without a name, of every machine on this
host. With --watch it goes on until Ctrl-C: in a terminal the table stays in
place, else it is printed anew whenever something has changed, with --json as
one object a line.`,
		Example: `  sovereign-build status
  sovereign-build status sql --json
  sovereign-build status sql --watch`,
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
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on, and show what changes")
	cmd.Flags().DurationVar(&interval, "interval", time.Second, "`time` between two looks with --watch")
	return exits(cmd, fault.Device)
}

func (s *session) status(ctx context.Context, name string) ([]MachineStatus, error) {
	machines, err := s.Runtime.Status(ctx, name)
	if machines == nil {
		machines = []MachineStatus{}
	}
	return machines, err
}

func (s *session) writeMachines(p printer, machines []MachineStatus) error {
	return p.result(map[string]any{"machines": machines}, func(w io.Writer) error { return writeStatus(w, machines) })
}

// watchStatus prints what is different from the last look. It ends without an
// error when ctx does.
func (s *session) watchStatus(ctx context.Context, name string, interval time.Duration) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	_, screen := terminal.Of(s.Stdout)
	var last string
	for {
		machines, err := s.status(ctx, name)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		now, err := json.Marshal(stable(machines))
		if err != nil {
			return err
		}
		if string(now) != last {
			last = string(now)
			if err := s.redraw(machines, screen && !s.json); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// redraw writes the table in one go, over the last one on a screen.
func (s *session) redraw(machines []MachineStatus, screen bool) error {
	var b bytes.Buffer
	if screen {
		b.WriteString("\x1b[H\x1b[J") // home, and clear to the end
	}
	p := printer(textPrinter{out: &b, err: s.Stderr})
	if s.json {
		p = jsonPrinter{out: &b, err: s.Stderr}
	}
	if err := s.writeMachines(p, machines); err != nil {
		return err
	}
	if !screen && !s.json {
		b.WriteString("\n")
	}
	_, err := s.Stdout.Write(b.Bytes())
	return fault.Wrap(fault.Environment, err)
}

// stable leaves out what changes all the time: free bytes on a disk count by
// the 16 MiB.
func stable(machines []MachineStatus) []MachineStatus {
	out := make([]MachineStatus, len(machines))
	for i, m := range machines {
		if m.Data != nil {
			d := *m.Data
			d.Free &^= 16<<20 - 1
			m.Data = &d
		}
		out[i] = m
	}
	return out
}

func writeStatus(out io.Writer, machines []MachineStatus) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	if len(machines) == 0 {
		fmt.Fprintln(w, "no machine was ever started here")
	}
	for _, m := range machines {
		fmt.Fprintf(w, "%s\t%s\t%s\n", oneLine(m.Name), oneLine(m.State), below(m.Message))
		for _, port := range sortedPorts(m.Ports) {
			fmt.Fprintf(w, "  port %s\t127.0.0.1:%d\t\n", port, m.Ports[port])
		}
		if d := m.Data; d != nil {
			warning := ""
			if d.NearlyFull {
				warning = "nearly full: sovereign-build grow " + m.Name + " SIZE makes it larger"
			}
			fmt.Fprintf(w, "  data disk\t%s of %s are free\t%s\n", mebibytes(d.Free), mebibytes(d.Size), warning)
		}
		if m.Clock == "unset" {
			fmt.Fprintf(w, "  clock\tunset\tthe guest's time is wrong: it found no clock and no time server\n")
		}
		for _, s := range m.Services {
			fmt.Fprintf(w, "  %s\t%s, %s\t%d restarts %s\n", oneLine(s.Name), oneLine(s.State), s.health(), s.Restarts, oneLine(s.said()))
		}
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
