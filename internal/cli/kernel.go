package cli

import (
	"cmp"
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/kernel"
)

func (s *session) kernelCommand() *cobra.Command {
	cmd := parent(&cobra.Command{
		Use:     "kernel",
		Short:   "Check, compare and explain kernel configurations",
		Long:    `Kernel looks at .config files and fragments, of this project's kernels or any other.`,
		Example: `  sovereign-build kernel check dist/sql-amd64/kernel.config`,
	})
	cmd.AddCommand(s.kernelCheckCommand(), s.kernelDiffCommand(), s.kernelExplainCommand())
	return exits(cmd)
}

func (s *session) kernelCheckCommand() *cobra.Command {
	var sets []string
	cmd := &cobra.Command{
		Use:   "check CONFIG",
		Short: "Hold a .config against requirement sets",
		Long: `Check holds a kernel configuration (a .config, or one compressed with gzip, xz
or zstd, such as /proc/config.gz) against requirement sets and names each symbol
that is not as required, with the reason it is required. Without --require it
takes all sets.`,
		Example: `  sovereign-build kernel check dist/sql-amd64/kernel.config
  sovereign-build kernel check /proc/config.gz --require virtio`,
		Args: operands("CONFIG"),
		RunE: func(cmd *cobra.Command, args []string) error {
			config, err := s.readConfig(args[0])
			if err != nil {
				return err
			}
			if len(sets) == 0 {
				if sets, err = kernel.RequirementSets(); err != nil {
					return err
				}
			}
			report, err := kernel.Check(config, sets...)
			if err != nil {
				return err
			}
			return s.writeReport(report, args[0])
		},
	}
	cmd.Flags().StringSliceVar(&sets, "require", nil, "`names` of requirement sets, separated by commas (default: all)")
	return exits(cmd, fault.Verification)
}

// writeReport prints a report, and ends with 6 if requirements are not met.
// Under --json that is still one object: the report's fields, and those of an
// error.
func (s *session) writeReport(r *kernel.Report, name string) error {
	if r.OK {
		return s.printer().result(r, r.WriteText)
	}
	unmet := fault.Errorf(fault.Verification, "%s does not meet its kernel requirements", name).
		Hintf("add the symbols to a kernel fragment of the recipe")
	result := struct {
		*kernel.Report
		failure
	}{r, newFailure(fault.Verification, int(fault.Verification), unmet)}
	if err := s.printer().result(result, r.WriteText); err != nil {
		return err
	}
	if s.json {
		return told{int(fault.Verification)}
	}
	return unmet
}

func (s *session) kernelDiffCommand() *cobra.Command {
	var source, arch string
	cmd := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Show what differs between two .config files",
		Long: `Diff compares two kernel configurations symbol by symbol, grouped by menu. A
symbol that is "n", "is not set" or absent is off in either way. The menus are
those of the headings in the files, or with --source those of the kernel's own
Kconfig files, which fragments have none of.`,
		Example: `  sovereign-build kernel diff dist/sql-amd64/kernel.config /boot/config-6.12
  sovereign-build kernel diff old.config new.config --source linux-6.12.tar.xz`,
		Args: operands("OLD", "NEW"),
		RunE: func(cmd *cobra.Command, args []string) error {
			before, err := s.readConfig(args[0])
			if err != nil {
				return err
			}
			after, err := s.readConfig(args[1])
			if err != nil {
				return err
			}
			groups := kernel.Diff(before, after)
			if source != "" {
				a, err := kernel.ArchOf(cmp.Or(arch, after.Arch(), before.Arch(), runtime.GOARCH))
				if err != nil {
					return err
				}
				tree, err := s.kconfig(cmd.Context(), source, a)
				if err != nil {
					return err
				}
				groups = kernel.DiffBy(before, after, kernel.KconfigMenus(tree))
			}
			result := map[string]any{"old": args[0], "new": args[1], "groups": groups}
			return s.printer().result(result, func(w io.Writer) error { return kernel.WriteDiff(w, groups) })
		},
	}
	sourceFlags(cmd, &source, &arch)
	return exits(cmd, fault.Environment, fault.Source)
}

// maxWarnings is how many lines of a file are named that Kconfig warns about.
const maxWarnings = 10

func (s *session) readConfig(path string) (*kernel.Config, error) {
	c, err := kernel.ReadConfig(path)
	if err != nil {
		return nil, fault.Wrap(fault.Usage, err)
	}
	s.noteWarnings(c)
	return c, nil
}

func (s *session) noteWarnings(c *kernel.Config) {
	for i, w := range c.Warnings {
		if i == maxWarnings {
			s.printer().note(fmt.Sprintf("%s: %d more lines like these", c.File, len(c.Warnings)-i))
			return
		}
		s.printer().note("warning: " + w.String())
	}
}
