package cli

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/build/cve"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

func (s *session) auditCVECommand() *cobra.Command {
	var database, statements, vex string
	var all bool
	cmd := &cobra.Command{
		Use:   "cve BUNDLE --database FILE",
		Short: "Compare a bundle with a database of known holes",
		Long: `Cve compares the versions of a bundle's sources, Go modules and packages with a
database: an export of OSV (a zip, a directory or a JSON file) or the JSON file of
Debian's security tracker. It uses no network: fetch the database yourself.

Packages are made of upstream's own bytes. What Debian fixed by a patch is open
here until upstream's next version, and is listed as that. A file of statements
says which symbol of the kernel a hole needs; where the bundle's .config does not
have it, it is not affected. --vex writes all of it as OpenVEX.

It exits 6 when something is affected.`,
		Example: `  sovereign-build audit cve dist/sql-amd64 --database debian.json
  sovereign-build audit cve dist/sql-amd64 --database all.zip --statements holes.json --vex sql.vex.json`,
		Args: operands("BUNDLE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if database == "" {
				return fault.Errorf(fault.Usage, "--database is missing").Hintf("give an export of OSV, or the JSON file of Debian's security tracker")
			}
			dir, err := bundleFor(args[0], func() (string, error) { return s.arch(cmd.Context()) })
			if err != nil {
				return err
			}
			if err := bundle.Verify(cmd.Context(), dir); err != nil {
				return err
			}
			report, err := cve.Run(cmd.Context(), dir, database, statements)
			if err != nil {
				return err
			}
			if vex != "" {
				text, err := report.VEX(time.Now())
				if err != nil {
					return err
				}
				if err := atomicfile.Write(vex, text, 0o644); err != nil {
					return err
				}
			}
			if err := s.printer().result(report, func(w io.Writer) error { return writeCVEs(w, report, all) }); err != nil {
				return err
			}
			for _, f := range report.Findings {
				if f.Status == cve.Affected {
					return told{int(fault.Verification)}
				}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&database, "database", "", "`FILE` or directory with the export")
	f.StringVar(&statements, "statements", "", "`FILE` of what is known better (docs/releases.md)")
	f.StringVar(&vex, "vex", "", "`FILE` that gets the findings as OpenVEX")
	f.BoolVar(&all, "all", false, "list what is fixed as well")
	return exits(cmd, fault.Environment, fault.Verification)
}

func writeCVEs(w io.Writer, r *cve.Report, all bool) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	counts := map[cve.Status]int{}
	for _, f := range r.Findings {
		counts[f.Status]++
		if f.Status != cve.Fixed || all {
			fmt.Fprintf(t, "%s\t%s\t%s %s\t%s\n", f.Status, oneLine(f.ID), oneLine(f.Component), oneLine(f.Version), oneLine(f.Why))
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%d components compared: %d affected, %d not looked at by anybody yet, %d not affected, %d fixed\n",
		r.Compared, counts[cve.Affected], counts[cve.Unknown], counts[cve.NotAffected], counts[cve.Fixed])
	return err
}
