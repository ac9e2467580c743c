package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func (s *session) lockCommand() *cobra.Command {
	r := LockRequest{}
	cmd := &cobra.Command{
		Use:   "lock RECIPE",
		Short: "Pin a recipe's inputs, or look for newer ones",
		Long: `Lock writes sovereign.lock beside the recipe: every source, toolchain package
and Go module by version and digest. What is locked already is kept; --update
looks for a newer version of one input within the series its recipe allows. A
lock that no longer is what the recipe declares is stale: build and --check say
what changed, and lock renews just that.

Packages of the recipe's own apk repositories are locked by the first build that
needs them; --update packages lets go of them.`,
		Example: `  sovereign-build lock recipes/sql
  sovereign-build lock --update zlib recipes/sql
  sovereign-build lock --update packages recipes/alpine
  sovereign-build lock --check recipes/sql`,
		Args: operands("RECIPE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Recipe, r.CacheDir, r.Progress = args[0], s.cacheDir, s.Stderr
			if r.Check && len(r.Update) > 0 {
				return fault.Errorf(fault.Usage, "--check and --update exclude each other")
			}
			result, err := s.Builder.Lock(cmd.Context(), r)
			if err != nil {
				return err
			}
			if err := s.printer().result(result, func(w io.Writer) error { return writeLock(w, result, r.Check) }); err != nil {
				return err
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVarP(&r.Update, "update", "u", nil, "`NAME` of an input to look for a newer version of; may be given more than once")
	cmd.Flags().BoolVar(&r.Check, "check", false, "compare the lock with the recipe, write nothing; exit 2 if it is stale")
	return exits(cmd, fault.Environment, fault.Source, fault.Verification)
}

func writeLock(w io.Writer, r *LockResult, check bool) error {
	var b strings.Builder
	for _, c := range r.Changes {
		b.WriteString(c + "\n")
	}
	switch {
	case check:
		fmt.Fprintf(&b, "%s pins all %d inputs\n", r.Lock, r.Inputs)
	case len(r.Changes) == 0:
		fmt.Fprintf(&b, "%s is unchanged, %d inputs\n", r.Lock, r.Inputs)
	default:
		fmt.Fprintf(&b, "wrote %s, %d inputs\n", r.Lock, r.Inputs)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
