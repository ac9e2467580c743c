package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/device"
)

// removedDevice is what device remove --json prints.
type removedDevice struct {
	Device string `json:"device"`
	// Stopped are the machines that were shut down for it.
	Stopped []string `json:"stopped"`
	// State is the directory of its machines, which was kept; "" where there is
	// none any more.
	State string `json:"state,omitempty"`
}

func (s *session) deviceRemoveCommand() *cobra.Command {
	var data, keep, yes bool
	cmd := &cobra.Command{
		Use:   "remove ssh:HOST|adb:SERIAL",
		Short: "Take sovereignd away from a computer that ssh reaches, or a phone",
		Long: `Remove shuts the machines of a device down in order and takes away what device
install has put there: on a computer the program, its service and, if that was
made for it, the user's lingering; on a phone the program, the script that starts
it at boot, and every setting that was changed, which gets its former value.

The machines of a computer stay on its disk, and are found again by the next
install; with --data they are removed too, with all their data, wherever a link
leads. A phone is left as it was before: its machines are removed with all their
data, unless --keep-data keeps them. Removed data cannot be brought back.

It asks first; without a terminal to ask at, --yes is needed.`,
		Example: `  sovereign-build device remove ssh:nas
  sovereign-build device remove ssh:nas --data --yes
  sovereign-build device remove adb:R58M12ABCDE --keep-data`,
		Args: operands("DEVICE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := device.Parse(args[0])
			if err != nil {
				return err
			}
			if !d.Installs() {
				return fault.Errorf(fault.Usage, "%s is reached by neither ssh nor adb", d).
					Hintf("only what device install has put somewhere can be removed")
			}
			if data && keep {
				return fault.Errorf(fault.Usage, "--data and --keep-data are the opposite of each other")
			}
			s.device = args[0]
			_, phone := d.Serial()
			return s.removeDevice(cmd.Context(), d, data || phone && !keep, yes)
		},
		ValidArgsFunction: s.completeDevice,
	}
	f := cmd.Flags()
	f.BoolVar(&data, "data", false, "remove the machines and their data as well, as is done on a phone")
	f.BoolVar(&keep, "keep-data", false, "keep the machines and their data, as is done on a computer")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask")
	return exits(cmd, fault.Environment, fault.Device)
}

func (s *session) removeDevice(ctx context.Context, d device.Device, data, yes bool) error {
	facts, err := device.Look(ctx, d)
	if err != nil {
		return err
	}
	var machines []runtime.Status
	h, err := s.host()
	if err != nil {
		return err
	}
	// Without a program nothing runs, and nobody answers.
	if facts.Digest != "" {
		if machines, err = h.Machines(ctx); err != nil {
			return err
		}
	}
	if !yes {
		what := fmt.Sprintf("its %d machines are shut down and kept", len(machines))
		if data {
			what = fmt.Sprintf("with its %d machines and all their data, which cannot be undone", len(machines))
		}
		if err := s.confirm("remove sovereignd of "+d.String(), what); err != nil {
			return err
		}
	}
	r := removedDevice{Device: d.String(), Stopped: []string{}}
	for _, m := range machines {
		if err := s.takeDown(ctx, h.Machine(m.Name), m, data, &r); err != nil {
			return err
		}
	}
	// It goes on being connected, and so running, otherwise.
	if err := h.Close(); err != nil {
		return fault.Wrap(fault.Device, err)
	}
	if facts, err = device.Remove(ctx, d, data); err != nil {
		return err
	}
	if err := rememberDevice(ctx, d, false); err != nil {
		return err
	}
	if !data {
		r.State = facts.State
	}
	return s.printer().result(r, func(w io.Writer) error {
		for _, name := range r.Stopped {
			fmt.Fprintf(w, "%s is stopped\n", oneLine(name))
		}
		text := r.Device + " has no sovereignd any more\n"
		if r.State != "" {
			text = fmt.Sprintf("%s has no sovereignd any more; its machines, if any, are kept: %s\n", r.Device, oneLine(r.State))
		}
		_, err := io.WriteString(w, text)
		return err
	})
}

// takeDown shuts a machine down, and with data removes it.
func (s *session) takeDown(ctx context.Context, m *runtime.Machine, status runtime.Status, data bool, r *removedDevice) error {
	if status.State == runtime.Unreadable {
		e := fault.Errorf(fault.Environment, "nothing is known of the machine %s: %s", m.Name(), status.Message)
		return e.Hintf("see to its directory there first")
	}
	if status.PID != 0 {
		s.printer().note("stopping " + m.Name())
	}
	stopped, err := m.Down(ctx, stopTime)
	if err != nil {
		return err
	}
	if stopped.WasRunning {
		r.Stopped = append(r.Stopped, m.Name())
	}
	if !data {
		return nil
	}
	_, err = m.Remove(ctx, true)
	return err
}
