package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/build/compare"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

func (s *session) reproCommand() *cobra.Command {
	r := BuildRequest{}
	var only []string
	cmd := &cobra.Command{
		Use:   "repro RECIPE",
		Short: "Build a recipe twice and compare",
		Long: `Repro builds a recipe's bundle, from the cache where it can, and then a second
time with everything done anew and under other conditions: another cache,
engine and toolchain image, working directory, order of files, umask, locale,
time zone, user, number of jobs and, where libfaketime is installed, clock. It
compares what every step made, and the bundles.

What differs is named down to the file and the byte, the second bundle is kept,
and diffoscope, where it is installed, adds its reports. The second build takes
as long as a first one does, and up to 4 GiB of memory for the kernel's tree.

With --cache the first build takes what the cache has, and the second takes
nothing from it: so what its owner has signed is checked by own work.

It exits 0 when everything is the same and 7 when something differs.`,
		Example: `  sovereign-build repro recipes/sql
  sovereign-build repro recipes/sql --arch arm64 --only kernel
  sovereign-build repro recipes/sql --only "port zlib" --only root --json`,
		Args: operands("RECIPE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Recipe = args[0]
			r, err := s.checkBuild(r)
			if err != nil {
				return err
			}
			result, err := s.Builder.Repro(cmd.Context(), r, only)
			if err != nil {
				return err
			}
			if err := s.printer().result(result, func(w io.Writer) error { return writeRepro(w, result) }); err != nil || result.Same {
				return err
			}
			return told{int(fault.Differ)}
		},
	}
	r.addFlags(cmd)
	cmd.Flags().StringArrayVar(&only, "only", nil, "`STEP` to do again instead of all: kernel, root, port, \"port NAME\"; may be given more than once")
	return exits(cmd, fault.Environment, fault.Source, fault.Step, fault.Verification, fault.Differ)
}

func writeRepro(w io.Writer, r *ReproResult) error {
	var b strings.Builder
	b.WriteString("the second build was different in:\n")
	for _, c := range r.Conditions {
		fmt.Fprintf(&b, "  %-30s %s; %s\n", c.Name, c.First, c.Second)
	}
	differ := 0
	for _, step := range slices.Concat(r.Steps, r.Descriptions) {
		from := ""
		if step.Signer != "" {
			from = ": what was taken from a cache, signed by " + string(step.Signer)
		}
		if step.Same {
			fmt.Fprintf(&b, "same    %s%s\n", step.Name, from)
			continue
		}
		differ++
		fmt.Fprintf(&b, "DIFFERS %s%s\n", step.Name, from)
		for _, out := range step.Outputs {
			fmt.Fprintf(&b, "    %s\n", out.Name)
			compare.WriteChanges(&b, out.Changes)
		}
	}
	if r.Difference != nil {
		if err := r.Difference.WriteText(&b); err != nil {
			return err
		}
	}
	if r.Same {
		fmt.Fprintf(&b, "the bundles are the same: %s, %d steps done twice, the second time in %.0f s\n", r.First, len(r.Steps), r.Seconds)
	} else {
		fmt.Fprintf(&b, "%d of %d steps differ; the first bundle is %s, the second %s; kept in %s\n", differ, len(r.Steps), r.First, r.Second, r.Kept)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
