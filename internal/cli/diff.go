package cli

import (
	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/build/compare"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

func (s *session) diffCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diff BUNDLE BUNDLE",
		Short: "Show what differs between two bundles",
		Long: `Diff compares two bundles: kernel symbols, packages and their versions, the
files of the root file system and the initramfs (mode, owner, size, digest and
the first byte that differs), and the manifest. Nothing is mounted.

It exits 0 when the bundles are the same and 7 when they differ.`,
		Example: `  sovereign-build diff dist/sql-amd64 /backup/sql-amd64
  sovereign-build diff --json old new | jq .packages`,
		Args: operands("BUNDLE", "BUNDLE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			report, err := compare.Bundles(cmd.Context(), args[0], args[1], "")
			if err != nil {
				return err
			}
			if err := s.printer().result(report, report.WriteText); err != nil || report.Equal {
				return err
			}
			return told{int(fault.Differ)}
		},
	}
	return exits(cmd, fault.Verification, fault.Differ)
}
