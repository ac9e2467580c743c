package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/device"
)

// listedDevice is a device as device list prints it.
type listedDevice struct {
	Device string `json:"device"`
	// Default: it is the device of commands without --device.
	Default bool `json:"default"`
}

func (s *session) deviceListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the devices that sovereignd was installed on",
		Long: `List prints this computer and the devices that sovereignd was installed on from
here, and which of them commands without --device mean. It asks none of them:
that is what device status does.`,
		Example: `  sovereign-build device list --json`,
		Args:    operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			used, err := s.theDevice()
			if err != nil {
				return err
			}
			known, err := knownDevices()
			if err != nil {
				return err
			}
			list, found := []listedDevice{}, false
			for _, d := range append([]device.Device{{}}, known...) {
				list = append(list, listedDevice{d.String(), d == used})
				found = found || d == used
			}
			if !found {
				list = append(list, listedDevice{used.String(), true})
			}
			return s.printer().result(map[string]any{"devices": list}, func(w io.Writer) error {
				for _, d := range list {
					mark := ""
					if d.Default {
						mark = "  (default)"
					}
					if _, err := fmt.Fprintf(w, "%s%s\n", oneLine(d.Device), mark); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	return exits(cmd, fault.Environment)
}
