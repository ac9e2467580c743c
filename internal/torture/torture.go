package torture

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Options say what to break, and how often.
type Options struct {
	// Bundle is the directory of the bundle to boot.
	Bundle string
	// Scratch takes the machines' state: a short path, for sockets lie in it.
	// Empty makes a temporary directory that is removed unless something
	// failed.
	Scratch string
	// Rounds is the number of power cuts; the other faults' numbers follow
	// from it.
	Rounds int
	Seed   uint64
	// Programs is the directory of sovereignd and sovereign-build. Without it
	// what needs them is left out.
	Programs string
	// Accel is "auto", "kvm" or "tcg".
	Accel string
	// Only names the families to run; empty is all that are not on demand.
	Only []string
	// Report takes lines of progress, one at a time. It may be nil.
	Report func(string)
}

// family is a kind of fault, in a file of its own.
type family struct {
	name    string
	summary string
	// run breaks things and returns a row for each fault. What the guest did
	// wrong stands in the rows; an error is of the experiment.
	run func(ctx context.Context, l *lab) ([]Result, error)
	// demand: only when it is named.
	demand bool
}

// families are in the order they run.
func families() []family {
	return []family{
		{"boot", "time from the kernel's start to the first SELECT", runBoot, false},
		{"cuts", "power cuts in the first boot, under load and in recovery", runCuts, false},
		{"control", "power cuts with a disk that ignores flushes: losses must be seen", runControl, false},
		{"kills", "processes killed in the guest, connections dropped", runKills, false},
		{"supervisor", "sovereignd and its machines killed", runSovereignd, false},
		{"rollback", "older copies of the data disk put back, and power cuts that are none", runRollback, false},
		{"snapshot", "kills in the middle of copies of a machine that runs", runSnapshot, false},
		{"update", "kills in the middle of updates", runUpdate, false},
		{"network", "24 hours of an unsteady network, compressed", runNetwork, false},
		{"full", "a full data disk", runFull, false},
		{"clock", "a clock that is wrong at the start and jumps", runClock, false},
		{"memory", "a query that takes all memory, a balloon that does", runMemory, false},
		{"garbage", "malformed requests and frames to the agent", runGarbage, false},
		{"bounce", "the cost of bounce buffers, with settings that bring it down", runBounce, true},
	}
}

// Family is a kind of fault, for help texts.
type Family struct {
	Name, Summary string
	// Demand: it runs only when it is named.
	Demand bool
}

// Families lists all, in the order they run.
func Families() []Family {
	var all []Family
	for _, f := range families() {
		all = append(all, Family{f.name, f.summary, f.demand})
	}
	return all
}

// Run breaks what o says. The report is whole as far as the experiment came,
// also where an error is returned with it. Faults that the guest did not
// withstand are not errors: see Report.Failed.
func Run(ctx context.Context, o Options) (*Report, error) {
	chosen, err := o.check()
	if err != nil {
		return nil, err
	}
	l, err := newLab(ctx, o)
	if err != nil {
		return nil, err
	}
	rep := l.begin()
	runErr := l.runAll(ctx, chosen, rep)
	rep.Seconds = time.Since(rep.Started).Seconds()
	if o.Scratch == "" && runErr == nil && rep.Failed() == 0 {
		return rep, os.RemoveAll(l.dir)
	}
	l.say("the machines' state is kept in %s", l.dir)
	return rep, runErr
}

func (l *lab) runAll(ctx context.Context, chosen []family, rep *Report) (err error) {
	// No machine may outlive the program.
	defer func() { err = errors.Join(err, l.cutAll(context.WithoutCancel(ctx))) }()
	if err := l.makeTemplate(ctx); err != nil {
		return fmt.Errorf("the first boot, before any fault: %w", err)
	}
	rep.Hypervisor, rep.Accel = l.hypervisor, l.accel
	for _, f := range chosen {
		l.say("== %s: %s", f.name, f.summary)
		ran := Ran{Family: f.name, Started: time.Now().UTC().Truncate(time.Second)}
		begin := time.Now()
		results, err := f.run(ctx, l)
		ran.Seconds = time.Since(begin).Seconds()
		for i := range results {
			results[i].Family = f.name
		}
		rep.Results = append(rep.Results, results...)
		// None may go on taking the cores from the next family.
		if err := errors.Join(err, l.cutAll(context.WithoutCancel(ctx))); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		rep.Ran = append(rep.Ran, ran)
	}
	return nil
}

// check completes the options and chooses the families.
func (o *Options) check() ([]family, error) {
	if o.Rounds < 1 || o.Rounds > 100_000 {
		return nil, fault.Errorf(fault.Usage, "%d rounds are not from 1 to 100000", o.Rounds)
	}
	if o.Report == nil {
		o.Report = func(string) {}
	}
	all := families()
	if len(o.Only) == 0 {
		return slices.DeleteFunc(all, func(f family) bool { return f.demand }), nil
	}
	for _, name := range o.Only {
		if !slices.ContainsFunc(all, func(f family) bool { return f.name == name }) {
			return nil, fault.Errorf(fault.Usage, "there is no family of faults %q", name).
				Hintf("choose of: %s", strings.Join(familyNames(all), ", "))
		}
	}
	return slices.DeleteFunc(all, func(f family) bool { return !slices.Contains(o.Only, f.name) }), nil
}

func familyNames(all []family) []string {
	var names []string
	for _, f := range all {
		names = append(names, f.name)
	}
	return names
}

// random is the choices of one part of the experiment: the same for a seed,
// whatever other parts run.
func (l *lab) random(part string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(part)) //nolint:errcheck // never fails
	return rand.New(rand.NewPCG(l.Seed, h.Sum64()))
}

// between draws a duration, evenly.
func between(rng *rand.Rand, from, to time.Duration) time.Duration {
	if to <= from {
		return from
	}
	return from + time.Duration(rng.Int64N(int64(to-from)))
}
