package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/device"
)

// deviceStatus is what device status --json prints.
type deviceStatus struct {
	Device string `json:"device"`
	runtime.HostInfo
	// Machines are all there are, by state.
	Machines map[string]string `json:"machines"`
	// Service is "system" or "user" where systemd starts sovereignd with the
	// device, the name of a phone's manager of root where that does, "" where
	// nothing does; absent where that was not asked.
	Service *string `json:"service,omitempty"`
	// Missing has the names of what machines need there and is not there.
	Missing []string `json:"missing,omitempty"`
}

func (s *session) deviceStatusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status [DEVICE]",
		Short: "Ask a device's sovereignd about itself",
		Long: `Status asks a device (without one, that of commands without --device) which
sovereignd answers there, in which directory its machines are, and how they are.
Of a computer that ssh reaches, and of a phone, it says also whether sovereignd
is started with it, and what machines need that is not there; of a phone whether
sovereignd stays there whatever becomes of adb, whether machines may run now, and
how battery and heat are.`,
		Example: `  sovereign-build device status ssh:nas
  sovereign-build device status --json`,
		Args: optional("DEVICE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				s.device = args[0]
			}
			return s.runDeviceStatus(cmd.Context())
		},
		ValidArgsFunction: s.completeDevice,
	}
	return exits(cmd, fault.Environment, fault.Device)
}

func (s *session) runDeviceStatus(ctx context.Context) error {
	h, err := s.host()
	if err != nil {
		return err
	}
	r := deviceStatus{Device: s.link.device.String(), Machines: map[string]string{}}
	if r.HostInfo, err = h.Info(ctx); err != nil {
		return err
	}
	machines, err := h.Machines(ctx)
	if err != nil {
		return err
	}
	for _, m := range machines {
		r.Machines[m.Name] = machineStatus(m).State
	}
	var facts *device.Facts
	if s.link.device.Installs() {
		f, err := device.Look(ctx, s.link.device)
		if err != nil {
			return err
		}
		service := bootsBy(f)
		facts, r.Service, r.Missing = &f, &service, missingOn(f)
	}
	return s.printer().result(r, func(out io.Writer) error {
		w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
		fmt.Fprintf(w, "%s\tsovereignd %s, protocol %d, %s\n", oneLine(r.Device), oneLine(r.Version), r.Protocol, oneLine(r.Arch))
		fmt.Fprintf(w, "  machines\t%d, in %s\n", len(machines), oneLine(r.StateDir))
		for _, m := range machines {
			fmt.Fprintf(w, "  %s\t%s\n", oneLine(m.Name), oneLine(r.Machines[m.Name]))
		}
		if r.Phone != nil {
			writePhone(w, r.Phone)
		}
		if err := w.Flush(); err != nil || facts == nil {
			return err
		}
		return writeFacts(out, *r.Service, *facts)
	})
}

// writePhone is what a phone's sovereignd says, in rows of a table.
func writePhone(w io.Writer, p *runtime.PhoneStatus) {
	if p.Durable {
		fmt.Fprintln(w, "  durable\tyes: it stays when adb goes")
	} else {
		fmt.Fprintf(w, "  durable\tNO: %s\n", oneLine(p.NotDurable))
	}
	if p.Held != "" {
		fmt.Fprintf(w, "  held\tmachines do not run now: %s\n", oneLine(p.Held))
	}
	if p.Awake {
		fmt.Fprintln(w, "  awake\tyes, for its machines")
	} else {
		fmt.Fprintln(w, "  awake\tit may sleep")
	}
	if b := p.Battery; b != nil {
		fmt.Fprintf(w, "  battery\t%d %%, %s, %.1f °C\n", b.Percent, oneLine(b.State), b.Celsius)
	}
	if h := p.Heat; h != nil {
		fmt.Fprintf(w, "  heat\t%.1f °C at %s\n", h.Celsius, oneLine(h.Zone))
	}
	if f := p.Floor; f.Battery > 0 || f.Celsius > 0 {
		fmt.Fprintf(w, "  floor\t%s\n", floorText(f))
	}
	for _, c := range p.Concerns {
		fmt.Fprintf(w, "  concern\t%s\n", oneLine(c))
	}
}

func floorText(f runtime.PhoneFloor) string {
	var parts []string
	if f.Battery > 0 {
		parts = append(parts, fmt.Sprintf("machines stop below %d %%", f.Battery))
	}
	if f.Celsius > 0 {
		parts = append(parts, fmt.Sprintf("machines stop above %d °C", f.Celsius))
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, "; ")
}
