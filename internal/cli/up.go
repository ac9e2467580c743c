package cli

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

func (s *session) upCommand() *cobra.Command {
	o := runFlags{}
	var restart string
	var limit int
	var activate bool
	var older bool
	cmd := &cobra.Command{
		Use:   "up NAME|BUNDLE",
		Short: "Keep a machine running",
		Long: `Up installs a bundle, by a copy that it checks, and has sovereignd keep its
machine running: started again when it ends by itself, updated by update, taken
down by down. It returns when the services are healthy. Sovereignd is started
where none runs, and ends when nothing is wanted up any more.

A bundle whose manifest names a key has to be signed by it, and from then on the
machine takes nothing else.

A name is that of a machine that is here already, or else the bundle
dist/NAME-ARCH; a path is a bundle. Flags that are not given stay as they were
at the last up; they take effect when the machine is started the next time.`,
		Example: `  sovereign-build up sql
  sovereign-build up dist/sql-amd64 --port 5432:15432 --restart-limit 0 --json`,
		Args: operands("NAME or BUNDLE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			size, err := o.check()
			if err != nil {
				return err
			}
			if err := oneOf("--restart", restart, "", "always", "never"); err != nil {
				return err
			}
			if limit < 0 {
				return fault.Errorf(fault.Usage, "--restart-limit %d is below 0", limit)
			}
			f := cmd.Flags()
			r := o.upOptions(f, size)
			r.Restart, r.Activate = runtime.Restart(restart), activate
			if f.Changed("restart-limit") {
				r.Limit = &limit
			}
			r.AllowRollback = older
			return s.runUp(cmd.Context(), args[0], r, size.Timeout)
		},
	}
	f := cmd.Flags()
	o.sizeFlags(f)
	f.StringVar(&restart, "restart", "", "start a machine that ended by itself again: always or never (default always)")
	f.IntVar(&limit, "restart-limit", 10, "give up after so many ends in a row, each before the services were healthy for a minute; 0: `never`")
	f.BoolVar(&activate, "activate", false, "give a restored machine its network")
	rollbackFlag(cmd, &older)
	return exits(cmd, fault.Environment, fault.Verification, fault.Device)
}

// upOptions are what the flags of sizeFlags say; those that are not given leave
// a machine as it is.
func (o *runFlags) upOptions(f *pflag.FlagSet, size sizes) runtime.UpOptions {
	r := runtime.UpOptions{MemoryMiB: size.MemoryMiB, CPUs: size.CPUs, Ports: size.Ports, NewData: size.NewData}
	if f.Changed("accel") {
		r.Accel = size.Accel
	}
	if f.Changed("outbound") {
		r.Outbound = &size.Outbound
	}
	if f.Changed("bounce") {
		r.Bounce = &size.Bounce
	}
	o.crosvmWishes(f, &r)
	return r
}

func (s *session) runUp(ctx context.Context, target string, o runtime.UpOptions, limit time.Duration) error {
	told := s.told()
	m, err := s.want(ctx, target, o, told)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	status, err := m.WaitReady(limited, told)
	if err != nil {
		return err
	}
	return s.writeStarted(ctx, m, status, s.command("down "+m.Name()))
}

// want writes down that the target is wanted up: a machine, or a bundle.
func (s *session) want(ctx context.Context, target string, o runtime.UpOptions, report runtime.Report) (*runtime.Machine, error) {
	h, err := s.host()
	if err != nil {
		return nil, err
	}
	_, statErr := os.Stat(filepath.Join(target, bundle.ManifestFile))
	if statErr != nil && !strings.ContainsRune(target, filepath.Separator) {
		m := h.Machine(target)
		// There may be none of this name; its manifest tells, and changes nothing.
		_, err := m.Manifest(ctx)
		if err == nil {
			return m, m.Up(ctx, o, report)
		}
		if fault.ClassOf(err) != fault.Usage {
			return nil, err
		}
	}
	dir, err := s.findBundle(ctx, target)
	if err != nil {
		return nil, err
	}
	return h.Install(ctx, dir, "", o, report)
}
