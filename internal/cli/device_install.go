package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/arch"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/device"
)

// installedDevice is what device install --json prints.
type installedDevice struct {
	Device  string `json:"device"`
	Changed bool   `json:"changed"` // another sovereignd, or none, was there
	Version string `json:"version"`
	Program string `json:"program"`
	Digest  string `json:"digest"`
	Arch    string `json:"arch"`
	// Service is "system" or "user" where systemd starts sovereignd with the
	// device, the name of a phone's manager of root where that does, and "" where
	// nothing does.
	Service string `json:"service"`
	// Missing has the names of what machines need there and is not there.
	Missing []string `json:"missing"`
}

func (s *session) deviceInstallCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "install ssh:HOST|adb:SERIAL",
		Short: "Put sovereignd on a computer that ssh reaches, or a phone that adb does",
		Long: `Install copies the sovereignd for the architecture of a Linux computer there by
your own ssh, to ~/.local/share/sovereign, and needs no rights but the user's.
The copy is checked on the far side and takes its place as a whole, or not at
all. Where sovereignd runs already it is replaced, and its machines run on.

sovereign-backup, which sovereignd starts for backups and restores, goes beside
it where there is one for the device beside sovereign-build
(make bin/sovereign-backup-linux-arm64).

Where systemd is, sovereignd is started with the computer: as a service of the
system for root, and else as one of the user, for which the user is made to
linger (loginctl enable-linger). Where that is not allowed, install says what an
administrator has to do; until then sovereignd runs when it is asked for.

A phone has to be rooted; there it goes to /data/adb/sovereign, which is root's
alone, and a script in /data/adb/service.d has Magisk, KernelSU or APatch start
it at boot. Nothing else of the phone is changed.

Interrupted, it can be done again.`,
		Example: `  sovereign-build device install ssh:nas
  sovereign-build device install adb:R58M12ABCDE
  sovereign-build device install ssh:root@192.0.2.7 --json`,
		Args: operands("DEVICE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := device.Parse(args[0])
			if err != nil {
				return err
			}
			return s.installDevice(cmd.Context(), d)
		},
		ValidArgsFunction: s.completeDevice,
	}
	return exits(cmd, fault.Environment, fault.Device)
}

// completeDevice completes the one operand of commands about a device.
func (s *session) completeDevice(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return s.deviceNames(), cobra.ShellCompDirectiveNoFileComp
}

func (s *session) installDevice(ctx context.Context, d device.Device) error {
	programs, err := device.Beside()
	if err != nil {
		return err
	}
	p := s.printer()
	r, err := device.Install(ctx, d, programs, p.note)
	if err != nil {
		return err
	}
	if err := rememberDevice(ctx, d, true); err != nil {
		return err
	}
	f := r.Facts
	result := installedDevice{
		Device: d.String(), Changed: r.Changed, Program: f.Program, Digest: f.Digest, Arch: f.Arch(), Missing: missingOn(f),
	}
	result.Service = bootsBy(f)
	// Whether it answers shows whether it works; and machines that are wanted
	// up have somebody again who keeps them.
	s.device = d.String()
	h, err := s.host()
	if err != nil {
		return err
	}
	info, err := h.Info(ctx)
	if err != nil {
		return err
	}
	result.Version = info.Version
	return p.result(result, func(w io.Writer) error {
		fmt.Fprintf(w, "%s has sovereignd %s: %s\n", oneLine(result.Device), oneLine(result.Version), oneLine(f.Program))
		if err := writeFacts(w, result.Service, f); err != nil {
			return err
		}
		_, err := fmt.Fprintf(w, "use it: sovereign-build up NAME --device %s\n", shellWord(result.Device))
		return err
	})
}

// bootsBy is what starts sovereignd with a device, "" where nothing does.
func bootsBy(f device.Facts) string {
	switch {
	case !f.Boots():
		return ""
	case f.Phone != nil:
		manager, _, _ := strings.Cut(f.Phone.Manager, " ")
		return manager
	}
	return f.Service
}

// missingOn names what machines need on a device.
func missingOn(f device.Facts) []string {
	missing := []string{}
	if p := f.Phone; p != nil {
		if p.CrosVM == "" && !f.QEMU {
			missing = append(missing, "crosvm")
		}
		if p.Device == "" {
			missing = append(missing, "/dev/kvm")
		}
		return missing
	}
	if !f.QEMU {
		missing = append(missing, "qemu-system-"+f.Machine)
	}
	if !f.KVM {
		missing = append(missing, "/dev/kvm")
	}
	return missing
}

// writeFacts says whether sovereignd is started with a device, by whose service,
// and what is missing there.
func writeFacts(w io.Writer, service string, f device.Facts) error {
	if f.Phone != nil {
		return writePhoneFacts(w, service, f)
	}
	switch {
	case service != "":
		fmt.Fprintf(w, "it is started with the device, as a service of the %s: %s\n", service, oneLine(f.Unit))
	case f.Service == "user":
		fmt.Fprintf(w, "it is not started with the device: there, as root, run loginctl enable-linger %s, and install again\n", oneLine(f.User))
	case f.Service == "":
		fmt.Fprintln(w, "it is not started with the device: there is no systemd; it runs when it is asked for")
	default:
		fmt.Fprintln(w, "it is not started with the device: its service is not enabled; install again")
	}
	if !f.QEMU {
		fmt.Fprintf(w, "missing: qemu-system-%s, without which no machine runs; on Debian, apt-get install %s\n", oneLine(f.Machine), qemuPackage(f))
	}
	if !f.KVM {
		fmt.Fprintf(w, "missing: /dev/kvm for %s; without it machines are emulated, several times slower\n", oneLine(f.User))
	}
	return nil
}

// writePhoneFacts is writeFacts for a phone.
func writePhoneFacts(w io.Writer, service string, f device.Facts) error {
	p := f.Phone
	switch {
	case p.Root == device.Shell:
		fmt.Fprintln(w, "the phone is not rooted: machines run by Android's own service, end with adbd, and are reached only while a command of yours is connected, such as forward")
	case service != "":
		fmt.Fprintf(w, "it is started with the phone, by %s: %s\n", oneLine(p.Manager), oneLine(f.Unit))
	case p.SafeMode:
		fmt.Fprintln(w, "it is not started with the phone, which is in safe mode: restart the phone")
	case f.Unit == "":
		fmt.Fprintln(w, "it is not started with the phone: install again")
	default:
		fmt.Fprintln(w, "it is not started with the phone: no Magisk, KernelSU or APatch is there to do it; it runs when it is asked for")
	}
	for _, m := range missingOn(f) {
		switch m {
		case "crosvm":
			fmt.Fprintln(w, "missing: crosvm, of the APEX com.android.virt: this phone has no virtual machines")
		default:
			fmt.Fprintf(w, "missing: %s or another hypervisor's device; without it machines are emulated, many times slower\n", m)
		}
	}
	return nil
}

func qemuPackage(f device.Facts) string {
	a, _ := arch.Of(f.Arch()) // installing has refused what is none
	return a.QEMUPackage
}
