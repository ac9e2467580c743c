// Torture breaks machines of a bundle on purpose and prints what they lost and
// how long they took to be well again. See internal/torture.
//
//	go run ./internal/torture/cmd/torture --bundle dist/sql-amd64 --rounds 20
//
// It is no part of sovereign-build, for nobody who operates a machine has a
// use for it, and not in tools/, whose directories are modules of their own:
// it needs this one's packages.
//
// Exit status: 0 all went well, 1 an internal error, 2 a wrong flag, 3 this
// machine lacks something, 8 a guest did not withstand a fault.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/sovereign-build/sovereign/internal/torture"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	err := run(ctx, os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "torture:", err)
		if hint := fault.HintOf(err); hint != "" {
			fmt.Fprintln(os.Stderr, "hint:", hint)
		}
		os.Exit(int(fault.ClassOf(err)))
	}
}

func run(ctx context.Context, args []string) error {
	var o torture.Options
	fs := flag.NewFlagSet("torture", flag.ContinueOnError)
	fs.StringVar(&o.Bundle, "bundle", "", "`directory` of the bundle to boot")
	fs.IntVar(&o.Rounds, "rounds", 5, "`number` of power cuts; the other faults' numbers follow from it")
	fs.Uint64Var(&o.Seed, "seed", 0, "`number` that all choices come from (0: one from the clock)")
	fs.StringVar(&o.Accel, "accel", "auto", "auto, kvm or tcg")
	fs.StringVar(&o.Programs, "programs", "", "`directory` of sovereignd and sovereign-build, for what needs them")
	fs.StringVar(&o.Scratch, "scratch", "", "`directory` for the machines, kept (default: a temporary one)")
	only := fs.String("only", "", "comma-separated `names` of families to run")
	asJSON := fs.Bool("json", false, "print the report as JSON")
	commit := fs.String("commit", "", "`name` of the commit this was built from, for the report")
	page := fs.String("page", "", "Markdown `file` whose blocks between the markers of the families that ran are replaced")
	fs.Usage = func() {
		fmt.Fprintf(fs.Output(), "Usage: torture --bundle DIRECTORY [--rounds N]\n\n")
		fs.PrintDefaults()
		fmt.Fprintf(fs.Output(), "\nFamilies:\n")
		for _, f := range torture.Families() {
			note := ""
			if f.Demand {
				note = " (only when named)"
			}
			fmt.Fprintf(fs.Output(), "  %-11s%s%s\n", f.Name, f.Summary, note)
		}
	}
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return fault.Wrap(fault.Usage, err)
	}
	if fs.NArg() > 0 || o.Bundle == "" {
		return fault.Errorf(fault.Usage, "want --bundle DIRECTORY and no other words").Hintf("see torture --help")
	}
	if *only != "" {
		o.Only = strings.Split(*only, ",")
	}
	if o.Seed == 0 {
		o.Seed = uint64(time.Now().UnixNano())
	}
	o.Report = func(line string) { fmt.Fprintf(os.Stderr, "%s %s\n", time.Now().Format(time.TimeOnly), line) }
	o.Report(fmt.Sprintf("seed %d", o.Seed))
	rep, err := torture.Run(ctx, o)
	if rep != nil {
		rep.Commit = *commit
		err = errors.Join(err, show(rep, *asJSON, *page))
	}
	if err == nil && rep.Failed() > 0 {
		return fault.Errorf(fault.Device, "%d things that should not have been", rep.Failed())
	}
	return err
}

func show(rep *torture.Report, asJSON bool, page string) error {
	if page != "" {
		if err := updatePage(page, rep); err != nil {
			return err
		}
	}
	if asJSON {
		return rep.WriteJSON(os.Stdout)
	}
	return rep.WriteText(os.Stdout)
}
