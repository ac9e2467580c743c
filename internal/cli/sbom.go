package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/build/sbom"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

func (s *session) sbomCommand() *cobra.Command {
	var format, output string
	cmd := &cobra.Command{
		Use:   "sbom BUNDLE",
		Short: "List what is in a bundle",
		Long: `Sbom reads a bundle's image and writes what it holds as a software bill of
materials: each package with its licence, its source and the source's digest, the
Go modules inside its programs, the kernel with its patches and configuration,
each with a package URL and a CPE. A bundle has the same bill on every machine and
at every time; build leaves both formats in the bundle's directory, and verify
compares.`,
		Example: `  sovereign-build sbom dist/sql-amd64 --format spdx > sql.spdx.json
  sovereign-build sbom dist/sql-amd64 --format cyclonedx -o sql.cdx.json`,
		Args: operands("BUNDLE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("--format", format, "spdx", "cyclonedx"); err != nil {
				return err
			}
			dir, err := bundleFor(args[0], func() (string, error) { return s.arch(cmd.Context()) })
			if err != nil {
				return err
			}
			if err := bundle.Verify(cmd.Context(), dir); err != nil {
				return err
			}
			bill, err := sbom.Collect(cmd.Context(), dir)
			if err != nil {
				return err
			}
			text, err := bill.SPDX()
			if format == "cyclonedx" {
				text, err = bill.CycloneDX()
			}
			if err != nil {
				return err
			}
			if output == "" {
				_, err = s.Stdout.Write(text)
				return fault.Wrap(fault.Environment, err)
			}
			if err := atomicfile.Write(output, text, 0o644); err != nil {
				return err
			}
			r := map[string]any{"file": output, "format": format, "components": len(bill.Components)}
			return s.printer().result(r, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "wrote %s, %d components\n", output, len(bill.Components))
				return err
			})
		},
	}
	cmd.Flags().StringVar(&format, "format", "spdx", "`format`: spdx (SPDX 2.3) or cyclonedx (CycloneDX 1.6), both JSON")
	cmd.Flags().StringVarP(&output, "output", "o", "", "`FILE` to write (default: standard output)")
	return exits(cmd, fault.Environment, fault.Verification)
}

// isDir says whether a directory is there.
func isDir(path ...string) bool {
	info, err := os.Stat(filepath.Join(path...))
	return !errors.Is(err, os.ErrNotExist) && err == nil && info.IsDir()
}
