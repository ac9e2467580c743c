package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/device"
)

// listedDevice is a device as device list prints it.
type listedDevice struct {
	Device string `json:"device"`
	// Default: it is the device of commands without --device.
	Default bool `json:"default"`
	// Installed: sovereignd was installed there from here.
	Installed bool `json:"installed"`
	// Phone is what a phone that adb has now says of itself; absent for others.
	Phone *device.PhoneFacts `json:"phone,omitempty"`
	// Trouble is why a phone says nothing: it is not plugged in, not authorized, …
	Trouble string `json:"trouble,omitempty"`
	Hint    string `json:"hint,omitempty"`
}

// phoneLimit bounds what one phone is asked; its owner may have to allow root
// first.
const phoneLimit = 20 * time.Second

func (s *session) deviceListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the devices that there are",
		Long: `List prints this computer, the devices that sovereignd was installed on from
here, and the phones that adb has now; and which of them commands without
--device mean.

Phones are asked what they are: model, Android version, whether the shell can be
root, whether there are virtual machines (AVF) and protected ones, the firmware of
these (pvmfw), the kernel, room on /data, battery. A phone may ask its owner for
root for that. Other devices are not asked: that is what device status does.
Where no adb server runs, one is started only for a phone that is known.`,
		Example: `  sovereign-build device list
  sovereign-build device list --json`,
		Args: operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := s.listDevices(cmd.Context())
			if err != nil {
				return err
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
					writeListedPhone(w, d)
				}
				return nil
			})
		},
	}
	return exits(cmd, fault.Environment)
}

func (s *session) listDevices(ctx context.Context) ([]listedDevice, error) {
	used, err := s.theDevice()
	if err != nil {
		return nil, err
	}
	known, err := knownDevices()
	if err != nil {
		return nil, err
	}
	list := []listedDevice{}
	add := func(d device.Device, installed bool) *listedDevice {
		for i := range list {
			if list[i].Device == d.String() {
				return &list[i]
			}
		}
		list = append(list, listedDevice{Device: d.String(), Default: d == used, Installed: installed})
		return &list[len(list)-1]
	}
	add(device.Device{}, false)
	wantPhones := false
	for _, d := range append(known, used) {
		add(d, slices.Contains(known, d))
		_, phone := d.Serial()
		wantPhones = wantPhones || phone
	}
	phones, err := device.Phones(ctx, wantPhones)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	attached := map[string]error{} // why nothing can be asked of it
	for _, p := range phones {
		d := device.Phone(p.Serial)
		add(d, false)
		attached[d.String()] = p.Trouble()
	}
	var asking sync.WaitGroup
	for i := range list {
		l := &list[i]
		d, parseErr := device.Parse(l.Device)
		if _, phone := d.Serial(); parseErr != nil || !phone {
			continue
		}
		trouble, there := attached[l.Device]
		switch {
		case err != nil:
			trouble = err
		case !there:
			trouble = fault.Errorf(fault.Device, "it is not there").Hintf("plug it in, or adb connect to it")
		}
		if trouble != nil {
			l.Trouble, l.Hint = trouble.Error(), fault.HintOf(trouble)
			continue
		}
		asking.Go(func() {
			limit, cancel := context.WithTimeout(ctx, phoneLimit)
			defer cancel()
			f, err := device.Look(limit, d)
			if err != nil {
				l.Trouble, l.Hint = err.Error(), fault.HintOf(err)
				return
			}
			l.Phone = f.Phone
		})
	}
	asking.Wait()
	return list, context.Cause(ctx)
}

// writeListedPhone is what a phone says, in lines below its name.
func writeListedPhone(w io.Writer, d listedDevice) {
	if d.Trouble != "" {
		fmt.Fprintf(w, "  %s\n", oneLine(d.Trouble))
		if d.Hint != "" {
			fmt.Fprintf(w, "  hint: %s\n", oneLine(d.Hint))
		}
	}
	p := d.Phone
	if p == nil {
		return
	}
	yes := func(is bool, yes, no string) string {
		if is {
			return yes
		}
		return no
	}
	root := "not rooted: " + p.NoRoot
	switch p.Root {
	case device.NoRoot:
	case device.Shell:
		root = "not rooted: machines run by Android's own service, while adbd runs"
	default:
		root = "root by " + string(p.Root) + yes(p.Manager != "", ", "+p.Manager, "")
	}
	fmt.Fprintf(w, "  %s, Android %s, kernel %s; %s\n", oneLine(p.Model), oneLine(p.Android), oneLine(p.Kernel), oneLine(root))
	fmt.Fprintf(w, "  virtual machines: %s, protected: %s, pvmfw: %s\n",
		yes(p.AVF, "yes", "no"), yes(p.Protected, "yes", "no"), yes(p.PVMFW != "", "yes", "not seen"))
	fmt.Fprintf(w, "  /data: %.1f of %.1f GiB free; battery: %d %%, %s\n",
		float64(p.DataFree)/(1<<30), float64(p.DataSize)/(1<<30), p.Battery, oneLine(yes(p.Charging != "", p.Charging, "not known")))
}
