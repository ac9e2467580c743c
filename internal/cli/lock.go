package cli

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/source"
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

Newer versions of a source are looked for in its Debian suite, and in SUITE-updates
and SUITE-security where this machine's apt has such archives. A version that is
listed and whose file the archive does not have is named, and the entry stays as
it is: that is no error. Nothing is ever updated to something older.

--outdated lists the newer versions there are, within the series and beyond it,
and whether they can be had, and changes nothing. Finding some is no error: the
exit status is 0.

Packages of the recipe's own apk repositories are locked by the first build that
needs them; --update packages lets go of them.

Several processes may lock and build at once: each keeps what the others have
locked, and two that lock one input otherwise end with an error that names it.`,
		Example: `  sovereign-build lock recipes/sql
  sovereign-build lock --outdated recipes/sql
  sovereign-build lock --update zlib recipes/sql
  sovereign-build lock --update packages recipes/alpine
  sovereign-build lock --check recipes/sql`,
		Args: operands("RECIPE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Recipe, r.CacheDir, r.Progress = args[0], s.cacheDir, s.Stderr
			switch {
			case r.Check && len(r.Update) > 0:
				return fault.Errorf(fault.Usage, "--check and --update exclude each other")
			case r.Outdated && (r.Check || len(r.Update) > 0):
				return fault.Errorf(fault.Usage, "--outdated excludes --check and --update")
			}
			if r.Outdated {
				result, err := s.Builder.Outdated(cmd.Context(), r)
				if err != nil {
					return err
				}
				return s.printer().result(result, func(w io.Writer) error { return writeOutdated(w, result) })
			}
			result, err := s.Builder.Lock(cmd.Context(), r)
			if err != nil {
				return err
			}
			return s.printer().result(result, func(w io.Writer) error { return writeLock(w, result, r.Check) })
		},
	}
	cmd.Flags().StringArrayVarP(&r.Update, "update", "u", nil, "`NAME` of an input to look for a newer version of; may be given more than once")
	cmd.Flags().BoolVar(&r.Check, "check", false, "compare the lock with the recipe, write nothing; exit 2 if it is stale")
	cmd.Flags().BoolVar(&r.Outdated, "outdated", false, "list the newer versions there are, write nothing")
	// The error is that of a flag which is not there.
	_ = cmd.RegisterFlagCompletionFunc("update", completeInputs)
	return exits(cmd, fault.Environment, fault.Source, fault.Verification)
}

// completeInputs completes the names of what the recipe's lock pins, where the
// recipe is given already.
func completeInputs(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	names := []string{lock.GoName, lock.PackagesName, lock.ToolchainName}
	if len(args) > 0 {
		// Without a lock there is nothing to complete; the command will say so.
		if l, err := lock.Load(filepath.Join(args[0], lock.FileName)); err == nil {
			for _, s := range l.Sources {
				names = append(names, s.Name)
			}
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func writeLock(w io.Writer, r *LockResult, check bool) error {
	var b strings.Builder
	for _, c := range r.Changes {
		b.WriteString(c + "\n")
	}
	for _, n := range r.Notes {
		b.WriteString("note: " + n + "\n")
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

func writeOutdated(w io.Writer, r *OutdatedResult) error {
	for _, o := range r.Outdated {
		fmt.Fprintf(w, "%s %s\n", o.Name, o.Locked)
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, offer := range o.Newer {
			writeOffer(t, offer, "")
		}
		if o.BeyondSeries != nil {
			writeOffer(t, *o.BeyondSeries, " (not in the declared series)")
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note: %s\n", n)
	}
	var err error
	if len(r.Outdated) == 0 {
		_, err = fmt.Fprintf(w, "%s: nothing newer is listed for its %d inputs\n", r.Lock, r.Inputs)
	} else {
		_, err = fmt.Fprintf(w, "%s: newer versions are listed for %d of its %d inputs; lock --update NAME takes one\n", r.Lock, len(r.Outdated), r.Inputs)
	}
	return err
}

func writeOffer(w io.Writer, o source.Offer, remark string) {
	if o.Why != "" {
		remark += ": " + o.Why
	}
	if len(o.Packages) > 0 {
		remark += ": " + strings.Join(o.Packages, ", ")
	}
	fmt.Fprintf(w, "  %s\t%s%s\n", o.Version, o.Where, remark)
}
