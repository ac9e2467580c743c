package cli

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func (s *session) upCommand() *cobra.Command {
	o := runFlags{}
	var restart string
	var limit int
	cmd := &cobra.Command{
		Use:   "up NAME|BUNDLE",
		Short: "Keep a machine running",
		Long: `Up installs a bundle, by a copy that it checks, and has sovereignd keep its
machine running: started again when it ends by itself, updated by update, taken
down by down. It returns when the services are healthy. Sovereignd is started
where none runs, and ends when nothing is wanted up any more.

A name is that of a machine that is here already, or else the bundle
dist/NAME-ARCH; a path is a bundle. Flags that are not given stay as they were
at the last up; they take effect when the machine is started the next time.`,
		Example: `  sovereign-build up sql
  sovereign-build up dist/sql-amd64 --port 5432:15432 --restart-limit 0 --json`,
		Args: operands("NAME or BUNDLE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			sizes, err := o.sizes()
			if err != nil {
				return err
			}
			if err := oneOf("--restart", restart, "", "always", "never"); err != nil {
				return err
			}
			if limit < 0 {
				return fault.Errorf(fault.Usage, "--restart-limit %d is below 0", limit)
			}
			r := UpRequest{
				Target: args[0], Ports: sizes.Ports, MemoryMiB: sizes.MemoryMiB, CPUs: sizes.CPUs,
				Restart: restart, NewData: sizes.NewData, Timeout: sizes.Timeout,
			}
			f := cmd.Flags()
			if f.Changed("accel") {
				r.Accel = sizes.Accel
			}
			if f.Changed("outbound") {
				r.Outbound = &sizes.Outbound
			}
			if f.Changed("restart-limit") {
				r.Limit = &limit
			}
			return s.runUp(cmd.Context(), r)
		},
	}
	f := cmd.Flags()
	o.sizeFlags(f)
	f.StringVar(&restart, "restart", "", "start a machine that ended by itself again: always or never (default always)")
	f.IntVar(&limit, "restart-limit", 10, "give up after so many ends in a row, each before the services were healthy for a minute; 0: `never`")
	return exits(cmd, fault.Environment, fault.Verification, fault.Device)
}

func (s *session) runUp(ctx context.Context, r UpRequest) error {
	p := s.printer()
	m, err := s.Runtime.Up(ctx, r, p.note)
	if err != nil {
		return err
	}
	return p.result(m, func(w io.Writer) error { return s.writeReady(ctx, w, m, "sovereign-build down "+m.Name) })
}
