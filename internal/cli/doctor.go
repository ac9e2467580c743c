package cli

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	goruntime "runtime"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/internal/doctor"
	"github.com/sovereign-build/sovereign/pkg/build"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/device"
)

func (s *session) doctorCommand() *cobra.Command {
	var only, engine string
	cmd := &cobra.Command{
		Use:   "doctor [NAME|BUNDLE]",
		Short: "Check what this machine or a phone lacks, and say how to mend it",
		Long: `Doctor looks for what running machines and building bundles need here: QEMU for
each architecture, KVM, memory, disk, the state directory, the build engine and
Debian's tools. Each finding says how to mend it. Something that is missing ends
the command with 3; a warning does not.

With --device adb:SERIAL it looks at a phone instead: root, what starts sovereignd
there at boot, the hypervisor and crosvm, faults that its model is known for, room,
memory, battery, and whether sovereignd stays when adb goes. It changes nothing.

That /dev/kvm opens says little, so that a kernel is booted with it: that of the
instance or bundle that is named, else of any bundle it finds here.`,
		Example: `  sovereign-build doctor
  sovereign-build doctor dist/sql-amd64 --only run --json
  sovereign-build doctor --device adb:R58M12ABCDE`,
		Args: optional("NAME or BUNDLE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if only != "" {
				if err := oneOf("--only", only, doctor.ForRun, doctor.ForBuild); err != nil {
					return err
				}
			}
			if s.device != "" {
				return s.phoneDoctor(cmd.Context(), args)
			}
			o, err := s.doctorOptions(cmd.Context(), args)
			if err != nil {
				return err
			}
			o.Engine = engine
			found, err := doctor.Examine(cmd.Context(), o)
			if err != nil {
				return err
			}
			return s.writeFindings(pick(found, only))
		},
	}
	f := cmd.Flags()
	f.StringVar(&only, "only", "", "check for one purpose: run or build")
	f.StringVar(&engine, "engine", "", "`address` of a BuildKit elsewhere: none is needed here")
	f.StringVar(&s.device, "device", "", "look at a phone, adb:SERIAL, instead of this machine")
	// The error is that of a flag which is not there.
	_ = cmd.RegisterFlagCompletionFunc("device", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return s.deviceNames(), cobra.ShellCompDirectiveNoFileComp
	})
	return exits(cmd, fault.Environment, fault.Device)
}

// phoneDoctor is doctor for a phone.
func (s *session) phoneDoctor(ctx context.Context, args []string) error {
	d, err := device.Parse(s.device)
	if err != nil {
		return err
	}
	if _, phone := d.Serial(); !phone {
		return fault.Errorf(fault.Usage, "doctor looks at this machine and at phones, and %s is neither", d).
			Hintf("see what another computer lacks: sovereign-build device status %s", d)
	}
	if len(args) > 0 {
		return fault.Errorf(fault.Usage, "no NAME or BUNDLE is for a phone")
	}
	facts, err := device.Look(ctx, d)
	if err != nil {
		return err
	}
	var status *runtime.PhoneStatus
	if facts.Digest != "" && facts.Phone.Root != device.NoRoot {
		h, err := s.host()
		if err != nil {
			return err
		}
		info, err := h.Info(ctx)
		if err != nil {
			return err
		}
		status = info.Phone
	}
	return s.writeFindings(doctor.Phone(facts, status))
}

func (s *session) doctorOptions(ctx context.Context, args []string) (o doctor.Options, err error) {
	o.Report = s.printer().note
	if o.StateDir, err = runtime.DefaultStateDir(); err != nil {
		return o, err
	}
	if o.CacheDir = s.cacheDir; o.CacheDir == "" {
		if o.CacheDir, err = build.DefaultCacheDir(); err != nil {
			return o, err
		}
	}
	if len(args) == 1 {
		o.Bundle, err = s.bundleOf(ctx, args[0])
		return o, err
	}
	// Any bundle for this CPU will do, and none is no error.
	here, err := filepath.Glob(filepath.Join("dist", "*-"+goruntime.GOARCH, bundle.ManifestFile))
	if err == nil && len(here) > 0 {
		o.Bundle = filepath.Dir(here[0])
	}
	return o, err
}

// bundleOf is the bundle of a machine here, or as run finds it.
func (s *session) bundleOf(ctx context.Context, name string) (string, error) {
	if filepath.Base(name) == name {
		here, err := s.open(device.Device{})
		if err == nil {
			status, statusErr := here.host.Machine(name).Status(ctx)
			if err = here.close(statusErr); err == nil {
				return status.Bundle.Path, nil
			}
		}
		// What is wrong with machines here is what doctor is to find out.
		if ctx.Err() != nil {
			return "", err
		}
	}
	return bundleFor(name, func() (string, error) { return goruntime.GOARCH, nil })
}

// pick keeps what is for one purpose; all for "".
func pick(found []doctor.Finding, only string) []doctor.Finding {
	picked := []doctor.Finding{}
	for _, f := range found {
		if only == "" || f.For == only {
			picked = append(picked, f)
		}
	}
	return picked
}

// writeFindings ends with 3 when something is missing.
func (s *session) writeFindings(found []doctor.Finding) error {
	missing := 0
	for _, f := range found {
		if f.Level == doctor.Missing {
			missing++
		}
	}
	result := map[string]any{"findings": found, "healthy": missing == 0}
	err := s.printer().result(result, func(out io.Writer) error {
		w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
		for _, f := range found {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", f.For, f.Check, f.Level, oneLine(f.Text))
			if f.Mend != "" {
				fmt.Fprintf(w, "\t\t\tto mend: %s\n", oneLine(f.Mend))
			}
		}
		fmt.Fprintln(w)
		if missing == 0 {
			fmt.Fprintln(w, "nothing that is needed is missing")
		} else {
			fmt.Fprintf(w, "%d needed things are missing\n", missing)
		}
		return w.Flush()
	})
	if err == nil && missing > 0 {
		return told{int(fault.Environment)}
	}
	return err
}
