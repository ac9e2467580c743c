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

// phoneSettings is what device set --json prints.
type phoneSettings struct {
	Device string              `json:"device"`
	Phone  runtime.PhoneStatus `json:"phone"`
}

func (s *session) deviceSetCommand() *cobra.Command {
	var battery, heat int
	var phantom string
	cmd := &cobra.Command{
		Use:   "set adb:SERIAL",
		Short: "Change how sovereignd behaves on a phone",
		Long: `Set changes what a phone's sovereignd does there; without a flag it prints how it
is. The settings stay until they are changed again, or device remove takes them
away.

--battery-floor shuts the machines down in order when the battery is below so
many percent and not being charged, and starts them again when it is 5 above;
--heat-limit does so for the battery's temperature, and 3 below. 0 is no limit,
which is how a phone begins.

--phantom-processes off has Android end none of the processes that apps have
started, of which more than 32 are otherwise too many for it. sovereignd and its
machines are none of them; what runs in Termux is. The former values are kept,
and come back with --phantom-processes restore or device remove.`,
		Example: `  sovereign-build device set adb:R58M12ABCDE --battery-floor 20 --heat-limit 45
  sovereign-build device set adb:R58M12ABCDE --phantom-processes off`,
		Args: operands("DEVICE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := device.Parse(args[0])
			if err != nil {
				return err
			}
			if d.Local() {
				return fault.Errorf(fault.Usage, "this computer is no phone")
			}
			var change runtime.PhoneSettings
			f := cmd.Flags()
			if f.Changed("phantom-processes") {
				if err := oneOf("--phantom-processes", phantom, "off", "restore"); err != nil {
					return err
				}
				off := phantom == "off"
				change.PhantomOff = &off
			}
			s.device = args[0]
			return s.setPhone(cmd.Context(), change, func(floor *runtime.PhoneFloor) bool {
				if f.Changed("battery-floor") {
					floor.Battery = battery
				}
				if f.Changed("heat-limit") {
					floor.Celsius = heat
				}
				return f.Changed("battery-floor") || f.Changed("heat-limit")
			})
		},
		ValidArgsFunction: s.completeDevice,
	}
	f := cmd.Flags()
	f.IntVar(&battery, "battery-floor", 0, "shut machines down below so many `percent`, 1 to 90; 0 for none")
	f.IntVar(&heat, "heat-limit", 0, "shut machines down above so many `degrees` Celsius of the battery, 30 to 70; 0 for none")
	f.StringVar(&phantom, "phantom-processes", "", "off or restore: whether Android ends processes below apps")
	return exits(cmd, fault.Environment, fault.Device)
}

func (s *session) setPhone(ctx context.Context, change runtime.PhoneSettings, floor func(*runtime.PhoneFloor) bool) error {
	h, err := s.host()
	if err != nil {
		return err
	}
	info, err := h.Info(ctx)
	if err != nil {
		return err
	}
	if info.Phone == nil {
		return fault.Errorf(fault.Usage, "%s is no phone", s.link.device.Short())
	}
	if now := info.Phone.Floor; floor(&now) {
		change.Floor = &now
	}
	result := phoneSettings{s.link.device.String(), *info.Phone}
	if change.Floor != nil || change.PhantomOff != nil {
		if result.Phone, err = h.SetPhone(ctx, change); err != nil {
			return err
		}
	}
	return s.printer().result(result, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s: floor: %s\n", oneLine(result.Device), floorText(result.Phone.Floor))
		return err
	})
}
