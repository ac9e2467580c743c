package cli

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/build/upkeep"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

func (s *session) storeVerifyCommand() *cobra.Command {
	var repair bool
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Read the whole content store and find what is damaged",
		Long: `Verify reads every blob of the content store, holds it against its digest, and
says of each damaged one what it is. With --repair it is removed, and the next
build fetches or builds it again. Builds may go on meanwhile.

It exits 0 when nothing is damaged or all of it was removed, and 6 otherwise.`,
		Example: `  sovereign-build store verify
  sovereign-build store verify --repair --json`,
		Args: operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			st, _, err := s.openStore()
			if err != nil {
				return err
			}
			meter := s.meter("read")
			v, err := upkeep.Verify(cmd.Context(), st, store.VerifyOptions{Repair: repair, Progress: func(done, of store.Usage) { meter(done.Bytes, of.Bytes) }})
			if err != nil {
				return err
			}
			err = s.printer().result(v, func(w io.Writer) error { return writeVerified(w, v, repair) })
			if err != nil || repair || len(v.Damaged) == 0 {
				return err
			}
			return told{int(fault.Verification)}
		},
	}
	cmd.Flags().BoolVar(&repair, "repair", false, "remove what is damaged")
	return exits(cmd, fault.Environment, fault.Verification)
}

func writeVerified(w io.Writer, v store.Verified, repair bool) error {
	var b strings.Builder
	for _, d := range v.Damaged {
		fmt.Fprintf(&b, "DAMAGED %s, %d bytes: %s\n", d.Path, d.Size, d.Reason)
		for _, use := range d.Uses {
			fmt.Fprintf(&b, "    %s\n", use)
		}
	}
	fmt.Fprintf(&b, "read %d blobs, %s, and %d records of steps: ", v.Blobs, mebibytes(v.Bytes), v.Actions)
	switch {
	case len(v.Damaged) == 0:
		b.WriteString("nothing is damaged\n")
	case repair:
		fmt.Fprintf(&b, "%d damaged and removed; the next build fetches or builds them again\n", len(v.Damaged))
	default:
		fmt.Fprintf(&b, "%d damaged\nhint: run sovereign-build store verify --repair, then the builds again\n", len(v.Damaged))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (s *session) storeCollectCommand() *cobra.Command {
	o := upkeep.Options{OlderThan: upkeep.DefaultAge}
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Remove what no lock, bundle or newest step needs",
		Long: `Gc removes from the content store what nothing names and nobody has used for a
while. It keeps what the locks and bundles of earlier builds name, as long as
those files are there, what the newest run of each step made, and what any
build that is going on uses: it may run at any time.

Old toolchain images, downloads that were broken off, logs, laid-out package
repositories, apt's lists and kept second builds go with it, unless a build is
going on. What is removed is fetched or built again when it is needed. The
build engine bounds its own cache.`,
		Example: `  sovereign-build store gc --dry-run
  sovereign-build store gc --older-than 2d --json`,
		Args: operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			st, cache, err := s.openStore()
			if err != nil {
				return err
			}
			p := s.printer()
			o.Note = func(line string) { p.note("sovereign-build: " + line) }
			said := time.Now()
			o.Progress = func(n, of int) {
				if now := time.Now(); now.Sub(said) >= meterEvery {
					said = now
					p.note(fmt.Sprintf("sovereign-build: looked at %d of %d blobs that nothing names", n, of))
				}
			}
			r, err := upkeep.Collect(cmd.Context(), st, cache, o)
			if err != nil {
				return err
			}
			return p.result(r, func(w io.Writer) error { return writeCollected(w, r) })
		},
	}
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "remove nothing, say what would be")
	cmd.Flags().Var((*age)(&o.OlderThan), "older-than", "remove only what was not used for so long: 14d, 12h, 0")
	return exits(cmd, fault.Environment)
}

func writeCollected(w io.Writer, r upkeep.Result) error {
	var b strings.Builder
	row := func(name string, before, removed int64) {
		fmt.Fprintf(&b, "%-10s %13s before, %13s removed\n", name, mebibytes(before), mebibytes(removed))
	}
	row("store", r.Store.Before.Bytes, r.Store.Removed.Bytes)
	for _, p := range r.Parts {
		row(p.Name, p.Before, p.Removed)
	}
	if r.Busy {
		b.WriteString("a build is going on: only the store was seen to\n")
	}
	verb := "removed"
	if r.DryRun {
		verb = "would remove"
	}
	fmt.Fprintf(&b, "%s %d blobs and %d records of steps; %s before, %s after\n",
		verb, r.Store.Removed.Blobs, r.Store.Actions, mebibytes(r.Before), mebibytes(r.After))
	_, err := io.WriteString(w, b.String())
	return err
}

// age is a flag: a duration, which may be in whole days.
type age time.Duration

// Set implements pflag.Value.
func (a *age) Set(text string) error {
	d, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n uint64
		// 100,000 days are less than the longest duration.
		if n, err = strconv.ParseUint(days, 10, 64); err == nil && n > 100_000 {
			err = strconv.ErrRange
		}
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d < 0 {
		return fmt.Errorf("%q is not an age: write 14d, 12h or 0", text)
	}
	*a = age(d)
	return nil
}

// String implements pflag.Value.
func (a *age) String() string {
	d := time.Duration(*a)
	if day := 24 * time.Hour; d > 0 && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	return d.String()
}

// Type implements pflag.Value.
func (a *age) Type() string { return "AGE" }
