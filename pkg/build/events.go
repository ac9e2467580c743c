package build

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/pkg/build/cache"
	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/source"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/build/sums"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/kernel"
)

// An Event says what a [Builder] is doing. The types with an unexported method
// event are all there are: a switch over them can be complete. String is the
// event in one line for people.
//
// A step goes by its name without versions: "port zlib amd64". One that is
// needed is [StepCached], [StepFetched] or [StepMissed]; a missed one is [StepStarted]
// and ends as [StepDone], unless it was only planned or something failed, which
// is the call's error.
type Event interface {
	fmt.Stringer
	event()
}

// Events of steps.
type (
	// StepCached: what the step makes is in the store already.
	StepCached struct{ Step string }

	// StepMissed: it is not there, and Reason says why: what changed since the
	// step's last run, or that there was none.
	StepMissed struct{ Step, Reason string }

	// StepFetched: another machine has made it, and what it made is in the store
	// now. It takes the place of StepMissed.
	StepFetched struct {
		Step  string
		Cache string        // the place
		Key   signature.Key // which signed it
		Size  int64         // bytes of all outputs
	}

	// StepShared: what it made was put into a cache for others.
	StepShared struct {
		Step  string
		Cache string
		Size  int64 // bytes of all outputs
	}

	// CacheTrouble: something of a cache was refused, or the cache is not asked
	// any more; each is told once.
	CacheTrouble struct{ cache.Trouble }

	// StepStarted: its inputs are fetched and it runs.
	StepStarted struct{ Step string }

	// StepLog is a piece of what a step's script prints, not always whole lines.
	// Data is valid until the call returns.
	StepLog struct {
		Step string
		Data []byte
	}

	// StepDone: what it made is in the store.
	StepDone struct {
		Step string
		Took time.Duration
	}

	// PartFailed: the kernel or a port could not be made. What runs beside it is
	// finished and kept before the error is returned.
	PartFailed struct {
		Part string
		Err  error
	}

	// EngineStatus is what the engine says of its steps in its own terms, for
	// displays that know them. Only the engine a Builder makes itself does.
	EngineStatus struct{ engine.Status }
)

// Events of inputs.
type (
	// Fetching: so many bytes of an input have come.
	Fetching struct {
		Name   string // a source, "toolchain", "go", "go modules", "packages"
		Mirror string // as the lock has it; a file's name for the toolchain
		Done   int64  // bytes
		Total  int64  // bytes, 0 where it is not known
	}

	// Fetched: an input is in the store.
	Fetched struct {
		Name string
		Size int64 // bytes
	}

	// FetchRetried: a mirror failed, and another try follows.
	FetchRetried struct{ Name, Reason string }

	// ToolchainNeeded: a step runs, and the toolchain image is made if need be.
	ToolchainNeeded struct {
		Packages int
		Suite    string
	}

	// ToolchainDiffers: of the locked packages this machine made another image
	// than the lock names.
	ToolchainDiffers struct{ Made, Locked store.Digest }

	// FragmentOverridden: a kernel fragment changes what an earlier one says.
	FragmentOverridden struct{ kernel.Override }

	// KconfigRead: a kernel's Kconfig files are read to explain a lost symbol,
	// which takes most of a minute and is done once.
	KconfigRead struct{}
)

// Events of the lock, which is in [Builder.Lock] and not saved.
type (
	// PackagesLocked: the recipe's packages have been chosen from its
	// repositories.
	PackagesLocked struct {
		Packages     int
		Arch         string // apk's name
		Repositories []string
	}

	// InputRelocked: an input that every mirror says it does not have has been
	// locked anew.
	InputRelocked struct{ source.Change }

	// LicensesLeftOut: a source could not be had, and so no licence texts lie
	// beside the bundle.
	LicensesLeftOut struct{ Err error }

	// LockRemark is something people should know of what was locked: a package
	// that became older, a version that is listed and cannot be had.
	LockRemark struct{ Text string }
)

// Events of what is written.
type (
	// Waiting: another build writes to this directory, and this one waits for it.
	Waiting struct{ Dir string }

	// Writing: the bundle is being written to this directory.
	Writing struct{ Dir string }

	// SumsSkipped: this build is not compared with the recipe's sums, because
	// these inputs had to be locked anew.
	SumsSkipped struct {
		Path   string
		Inputs []string
	}

	// SumsLacking: the recipe's sums have nothing for the architecture.
	SumsLacking struct{ Path, Arch string }

	// SumsDiffer: outputs are not what the recipe's sums say.
	SumsDiffer struct {
		Path  string
		First sums.Difference
		Count int
	}
)

func (StepCached) event()         {}
func (StepMissed) event()         {}
func (StepFetched) event()        {}
func (StepShared) event()         {}
func (CacheTrouble) event()       {}
func (StepStarted) event()        {}
func (StepLog) event()            {}
func (StepDone) event()           {}
func (PartFailed) event()         {}
func (EngineStatus) event()       {}
func (Fetching) event()           {}
func (Fetched) event()            {}
func (FetchRetried) event()       {}
func (ToolchainNeeded) event()    {}
func (ToolchainDiffers) event()   {}
func (FragmentOverridden) event() {}
func (KconfigRead) event()        {}
func (PackagesLocked) event()     {}
func (InputRelocked) event()      {}
func (LockRemark) event()         {}
func (LicensesLeftOut) event()    {}
func (Waiting) event()            {}
func (Writing) event()            {}
func (SumsSkipped) event()        {}
func (SumsLacking) event()        {}
func (SumsDiffer) event()         {}

func (e StepCached) String() string { return e.Step + ": from the cache" }
func (e StepMissed) String() string { return e.Step + ": " + e.Reason }
func (e StepFetched) String() string {
	return fmt.Sprintf("%s: %s from %s", e.Step, mebibytes(e.Size), e.Cache)
}
func (e StepShared) String() string {
	return fmt.Sprintf("%s: put into %s, %s", e.Step, e.Cache, mebibytes(e.Size))
}

func (e CacheTrouble) String() string {
	if e.Step == "" {
		return fmt.Sprintf("cache %s is not used any more: %s", e.Place, e.Reason)
	}
	return fmt.Sprintf("cache %s: %s is not taken: %s", e.Place, e.Step, e.Reason)
}
func (e StepStarted) String() string { return e.Step + ": started" }
func (e StepLog) String() string     { return e.Step + ": " + strings.TrimRight(string(e.Data), "\r\n") }
func (e StepDone) String() string {
	return fmt.Sprintf("%s: done in %.1f s", e.Step, e.Took.Seconds())
}

func (e PartFailed) String() string {
	return fmt.Sprintf("%s failed, what runs is finished and kept: %v", e.Part, e.Err)
}
func (e EngineStatus) String() string { return e.Step + ": the engine is at work" }

// Percent is how much of the input has come, from 0 to 100; -1 where its size
// is not known.
func (e Fetching) Percent() int {
	if e.Total <= 0 {
		return -1
	}
	return int(min(100, e.Done*100/e.Total))
}

func (e Fetching) String() string {
	return fmt.Sprintf("%s: %s of %s from %s", e.Name, mebibytes(e.Done), mebibytes(e.Total), e.Mirror)
}
func (e Fetched) String() string      { return fmt.Sprintf("%s: fetched %s", e.Name, mebibytes(e.Size)) }
func (e FetchRetried) String() string { return e.Name + ": " + e.Reason }
func (e ToolchainNeeded) String() string {
	return fmt.Sprintf("toolchain: %d packages of %s", e.Packages, e.Suite)
}

func (e ToolchainDiffers) String() string {
	return fmt.Sprintf("toolchain: the image made here is %s, the lock has %s; the packages in it are the locked ones", e.Made, e.Locked)
}
func (e FragmentOverridden) String() string { return "kernel: " + e.Override.String() }
func (KconfigRead) String() string {
	return "reading the Kconfig files of the kernel's source, which is done once"
}

func (e PackagesLocked) String() string {
	return fmt.Sprintf("locked %d packages for %s from %s", e.Packages, e.Arch, strings.Join(e.Repositories, ", "))
}

func (e InputRelocked) String() string {
	return fmt.Sprintf("%s is gone from every mirror; locked anew: %s", e.Name, e.Change)
}
func (e LockRemark) String() string { return e.Text }
func (e LicensesLeftOut) String() string {
	return "the bundle goes without the texts of licences, which are in its sources: " + e.Err.Error()
}
func (e Waiting) String() string { return "waiting for another build that writes to " + e.Dir }
func (e Writing) String() string { return "writing " + e.Dir }
func (e SumsSkipped) String() string {
	return fmt.Sprintf("%s is not compared: %s had to be locked anew", e.Path, strings.Join(e.Inputs, ", "))
}

func (e SumsLacking) String() string {
	return fmt.Sprintf("%s has nothing for %s to compare with", e.Path, e.Arch)
}

func (e SumsDiffer) String() string {
	more := ""
	if e.Count > 1 {
		more = fmt.Sprintf(" (the first of %d)", e.Count)
	}
	return fmt.Sprintf("%s: %s%s", e.Path, e.First, more)
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// tell passes an event on.
func (b *Builder) tell(e Event) {
	if b.opts.events == nil {
		return
	}
	b.telling.Lock()
	defer b.telling.Unlock()
	b.opts.events(e)
}

// complain tells of a failure at once when other work goes on to its end.
func (b *Builder) complain(what string, err error) {
	if err != nil && !errors.Is(err, errPlanned) && !errors.Is(err, context.Canceled) {
		b.tell(PartFailed{what, err})
	}
}

// stepLog makes events of what a step prints.
type stepLog struct {
	b    *Builder
	step string
}

func (l stepLog) Write(p []byte) (int, error) {
	l.b.tell(StepLog{l.step, p})
	return len(p), nil
}
