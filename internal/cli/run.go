package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// stopTime is how long a guest has to shut down in order: more than the
// longest stop timeout that shipped recipes have.
const stopTime = 2 * time.Minute

// sizes is what a machine is to be like.
type sizes struct {
	Ports     map[int]int // guest to host; others get a free one
	MemoryMiB int         // 0 is the manifest's
	CPUs      int         // 0 is the manifest's
	Accel     string      // "auto", "kvm" or "tcg"
	Outbound  bool        // the guest may connect to the world
	Bounce    bool        // its transfers go by way of bounce buffers
	NewData   bool        // whatever is there is its data disk, or a blank one
	Timeout   time.Duration
}

type runFlags struct {
	sizes
	protected, thin bool // see crosvmWishes

	detach bool
	ports  []string
	memory string
}

func (s *session) runCommand() *cobra.Command {
	o := runFlags{}
	cmd := &cobra.Command{
		Use:   "run NAME|BUNDLE",
		Short: "Boot a bundle as a virtual machine",
		Long: `Run boots a bundle, under QEMU or on a phone under crosvm, and waits until its services are healthy. A name
means the bundle dist/NAME-ARCH for this machine's architecture; a path means
that bundle, of any architecture QEMU is installed for. Every port of the
bundle is reachable at a loopback port of this machine. What no flag says is as
the bundle has it, whatever an earlier run or up was told.

Without --detach the command stays, reports what changes, and stops the guest
in order at Ctrl-C. The data disk is kept and used again by the next run.`,
		Example: `  sovereign-build run sql
  sovereign-build run dist/sql-arm64 --detach --json
  sovereign-build run sql --port 5432:15432 --memory 1GiB`,
		Args: operands("NAME or BUNDLE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.runRun(cmd.Context(), o, cmd.Flags(), args[0])
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.detach, "detach", "d", false, "return when the services are healthy, leave the machine running")
	o.sizeFlags(f)
	return exits(cmd, fault.Environment, fault.Verification, fault.Device)
}

// sizeFlags are the flags that say what a machine is like.
func (o *runFlags) sizeFlags(f *pflag.FlagSet) {
	f.StringArrayVarP(&o.ports, "port", "p", nil, "loopback port for a port of the guest, as `GUEST:HOST` (default: a free one); may be given more than once")
	f.StringVar(&o.memory, "memory", "", "`size` of the memory, like 1GiB (default: the bundle's)")
	f.IntVar(&o.CPUs, "cpus", 0, "`number` of CPUs (default: the bundle's)")
	f.StringVar(&o.Accel, "accel", "auto", "auto, kvm or tcg; auto takes KVM where a guest really boots with it")
	f.BoolVar(&o.Outbound, "outbound", false, "let the guest connect to the world; without it only forwarded ports pass")
	f.BoolVar(&o.Bounce, "bounce", false, "force the guest's transfers through bounce buffers, as in a protected VM: for measuring, it is slower and protects nothing")
	f.BoolVar(&o.protected, "protected", false, "keep the guest's memory out of its host's reach, where the device's hypervisor can (crosvm): isolated, not attested")
	f.BoolVar(&o.thin, "thin", false, "under crosvm, give the data disk room only as it is written to; the machine is shut down while less than 1 GiB is free")
	f.BoolVar(&o.NewData, "new-data", false, "begin with a new, empty data disk where the machine's own is gone, or go on with another that was put there; nothing is removed")
	f.DurationVar(&o.Timeout, "timeout", 5*time.Minute, "`time` the services have to become healthy")
}

// crosvmWishes are those of the flags that only devices with crosvm know, and
// older ones not at all: what was not asked for is not said.
func (o *runFlags) crosvmWishes(f *pflag.FlagSet, r *runtime.UpOptions) {
	if f.Changed("protected") {
		r.Protected = &o.protected
	}
	if f.Changed("thin") {
		r.Thin = &o.thin
	}
}

func (s *session) runRun(ctx context.Context, o runFlags, f *pflag.FlagSet, name string) error {
	size, err := o.check()
	if err != nil {
		return err
	}
	dir, err := s.findBundle(ctx, name)
	if err != nil {
		return err
	}
	h, err := s.host()
	if err != nil {
		return err
	}
	p := s.printer()
	told := progress(p.note)
	// It is kept running like any other, but for an end that nobody asked for.
	wishes := runtime.UpOptions{
		MemoryMiB: size.MemoryMiB, CPUs: size.CPUs, Ports: size.Ports, Accel: size.Accel,
		Outbound: &size.Outbound, Bounce: &size.Bounce, NewData: size.NewData,
		Restart: runtime.RestartNever, Replace: true,
	}
	o.crosvmWishes(f, &wishes)
	m, err := h.Install(ctx, dir, "", wishes, told)
	if err != nil {
		return err
	}
	status, err := s.waitStarted(ctx, m, size.Timeout, told)
	if err != nil {
		return err
	}
	stop := "Ctrl-C"
	if o.detach {
		stop = s.command("stop " + m.Name())
	}
	if err := s.writeStarted(ctx, m, status, stop); err != nil {
		return err
	}
	if o.detach {
		return nil
	}
	err = watchMachine(ctx, m, p.note)
	if ctx.Err() == nil {
		return err
	}
	// Ctrl-C is the documented way to end a machine in the foreground, so it
	// is no failure; but the stop must not be cancelled with ctx.
	p.note("stopping " + m.Name())
	r, err := m.Down(context.WithoutCancel(ctx), stopTime)
	if err != nil {
		return err
	}
	return clean(s.Stderr, func(w io.Writer) error { return writeStop(w, StopResult{m.Name(), r}) })
}

// waitStarted waits for the services. A machine that is late may still be of
// use to whoever looks for the reason, so that it is left as it is. One that did
// not start is not to start by itself later; and Ctrl-C is another matter.
func (s *session) waitStarted(ctx context.Context, m *runtime.Machine, limit time.Duration, report runtime.Report) (runtime.Status, error) {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	status, err := m.WaitReady(limited, report)
	if err == nil || ctx.Err() == nil && status.PID != 0 {
		return status, err
	}
	_, stopErr := m.Down(context.WithoutCancel(ctx), stopTime)
	if hint := fault.HintOf(err); strings.HasSuffix(hint, goesOn) {
		hint = strings.TrimSuffix(strings.TrimSuffix(hint, goesOn), "; ")
		err = fault.Errorf(fault.ClassOf(err), "%w", err).Hintf("%s", hint)
	}
	return status, errors.Join(err, stopErr)
}

// goesOn is the end of WaitReady's hints that is not true any more for a machine
// that was taken down.
const goesOn = "sovereignd goes on trying"

func (s *session) writeStarted(ctx context.Context, m *runtime.Machine, status runtime.Status, stop string) error {
	result := newMachine(status)
	return s.printer().result(result, func(w io.Writer) error { return s.writeReady(ctx, w, m, result, stop) })
}

// watchMachine reports what changes in a running machine until the machine
// ends, which returns nil when it was stopped in order, or ctx does.
func watchMachine(ctx context.Context, m *runtime.Machine, report func(string)) error {
	var last map[string]agent.Service
	over := errors.New("over")
	err := m.Watch(ctx, func(e runtime.Event) error {
		s := e.Status
		switch {
		case e.Phase == runtime.PhaseRemoved || s != nil && s.State == runtime.Stopped:
			report(m.Name() + " was stopped")
			return over
		case s == nil:
			return nil
		case s.State == runtime.Exited || s.State == runtime.GaveUp:
			return fault.Errorf(fault.Device, "the machine of %s has ended by itself: %s", m.Name(), s.Message).
				Hintf("read %s", path.Join(s.Dir, "console.log"))
		case s.Guest == nil:
			return nil
		}
		now := map[string]agent.Service{}
		for _, service := range s.Guest.Services {
			old, known := last[service.Name]
			if known && (old.State != service.State || old.Healthy != service.Healthy || old.Restarts != service.Restarts) {
				report(service.Line())
			}
			now[service.Name] = service
		}
		last = now
		return nil
	})
	if errors.Is(err, over) {
		return nil
	}
	return err
}

// check checks the flags.
func (o runFlags) check() (sizes, error) {
	r := o.sizes
	if err := oneOf("--accel", r.Accel, "auto", "kvm", "tcg"); err != nil {
		return r, err
	}
	if r.CPUs < 0 || r.CPUs > 64 {
		return r, fault.Errorf(fault.Usage, "--cpus %d is not between 1 and 64", r.CPUs)
	}
	if r.Timeout <= 0 {
		return r, fault.Errorf(fault.Usage, "--timeout %s is not a positive time", r.Timeout)
	}
	if o.memory != "" {
		var size recipe.Size
		if err := size.UnmarshalText([]byte(o.memory)); err != nil {
			return r, fault.Errorf(fault.Usage, "--memory: %w", err)
		}
		if size < 64*recipe.MiB || size%recipe.MiB != 0 {
			return r, fault.Errorf(fault.Usage, "--memory %s is not a whole number of MiB from 64MiB", size)
		}
		r.MemoryMiB = int(size / recipe.MiB)
	}
	r.Ports = map[int]int{}
	for _, p := range o.ports {
		guest, host, err := parsePort(p)
		if err != nil {
			return r, err
		}
		if _, ok := r.Ports[guest]; ok {
			return r, fault.Errorf(fault.Usage, "--port gives the guest's port %d twice", guest)
		}
		r.Ports[guest] = host
	}
	return r, nil
}

func parsePort(s string) (guest, host int, err error) {
	a, b, ok := strings.Cut(s, ":")
	guest, aerr := strconv.Atoi(a)
	host, berr := strconv.Atoi(b)
	if !ok || aerr != nil || berr != nil || guest < 1 || guest > 65535 || host < 1 || host > 65535 {
		return 0, 0, fault.Errorf(fault.Usage, "--port %q is not GUEST:HOST, two ports from 1 to 65535", s).
			Hintf("write for example --port 5432:15432")
	}
	return guest, host, nil
}

// findBundle takes a bundle's directory or the name of a recipe, whose bundle
// is for the device's architecture.
func (s *session) findBundle(ctx context.Context, name string) (string, error) {
	return bundleFor(name, func() (string, error) { return s.arch(ctx) })
}

func bundleFor(name string, arch func() (string, error)) (string, error) {
	if _, err := os.Stat(filepath.Join(name, bundle.ManifestFile)); err == nil {
		return name, nil
	}
	if strings.ContainsRune(name, filepath.Separator) {
		return "", fault.Errorf(fault.Usage, "%s: there is no bundle here", name).
			Hintf("make it with sovereign-build build RECIPE")
	}
	of, err := arch()
	if err != nil {
		return "", err
	}
	dir := filepath.Join("dist", name+"-"+of)
	if _, err := os.Stat(filepath.Join(dir, bundle.ManifestFile)); err != nil {
		return "", fault.Errorf(fault.Usage, "there is no bundle %s", dir).
			Hintf("make it with sovereign-build build recipes/%s", name)
	}
	return dir, nil
}

// arch is the device's architecture.
func (s *session) arch(ctx context.Context) (string, error) {
	d, err := s.theDevice()
	if err != nil || d.Local() {
		return goruntime.GOARCH, err
	}
	h, err := s.host()
	if err != nil {
		return "", err
	}
	info, err := h.Info(ctx)
	return info.Arch, err
}

func (s *session) writeReady(ctx context.Context, w io.Writer, m *runtime.Machine, started *Machine, stop string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s is ready", m.Name())
	for _, guest := range sortedPorts(started.Ports) {
		fmt.Fprintf(&b, ", port %s at 127.0.0.1:%d%s", guest, started.Ports[guest], s.there())
	}
	b.WriteString("\n")
	// The line must not hold the password: terminals are recorded.
	if c, err := m.Credentials(ctx, 0); err == nil && strings.HasPrefix(c.URL, "postgres://") {
		if s.remote() {
			fmt.Fprintf(&b, "connect: %s\n", s.command("psql "+m.Name()))
		} else {
			fmt.Fprintf(&b, "connect: psql \"$(sovereign-build dsn %s)\"\n", m.Name())
		}
	}
	fmt.Fprintf(&b, "stop:    %s\n", stop)
	_, err := io.WriteString(w, b.String())
	return err
}

// sortedPorts are the keys of a machine's ports, by number.
func sortedPorts(ports map[string]int) []string {
	keys := make([]string, 0, len(ports))
	for k := range ports {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
	return keys
}
