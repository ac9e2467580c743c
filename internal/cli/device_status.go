package cli

import (
	"context"
	"fmt"
	"io"
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
	// device, "" where nothing does; absent where that was not asked.
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
Of a computer that ssh reaches it says also whether sovereignd is started with
it, and what machines need that is not there.`,
		Example: `  sovereign-build device status ssh:nas
  sovereign-build device status --json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return operands("DEVICE")(cmd, args)
		},
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
	if _, ok := s.link.device.SSH(); ok {
		f, err := device.Look(ctx, s.link.device)
		if err != nil {
			return err
		}
		service := ""
		if f.Boots() {
			service = f.Service
		}
		facts, r.Service, r.Missing = &f, &service, missingOn(f)
	}
	return s.printer().result(r, func(out io.Writer) error {
		w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
		fmt.Fprintf(w, "%s\tsovereignd %s, protocol %d, %s\n", oneLine(r.Device), oneLine(r.Version), r.Protocol, oneLine(r.Arch))
		fmt.Fprintf(w, "  machines\t%d, in %s\n", len(machines), oneLine(r.StateDir))
		for _, m := range machines {
			fmt.Fprintf(w, "  %s\t%s\n", oneLine(m.Name), oneLine(r.Machines[m.Name]))
		}
		if err := w.Flush(); err != nil || facts == nil {
			return err
		}
		return writeFacts(out, *r.Service, *facts)
	})
}
