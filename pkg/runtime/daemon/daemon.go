// Package daemon is sovereignd: it keeps the machines of a state directory as
// they are wanted, and answers for them.
//
// What is wanted comes in over a unix socket in the state directory, by package
// control's protocol (docs/protocol.md); running machines, answers, events and
// streams into guests go out. Whoever connects has to be the user that
// sovereignd runs as, or root: the socket is for this user alone, and the kernel
// says who is at its other end. There is no other way in: a device is reached by
// what its owner has for that, ssh or a shell, running "sovereignd connect"
// there.
//
// All that is wanted stands in the machines' records, which package
// internal/machine writes before a request is answered, and nothing is decided
// but by its Step from what is on the disk. So sovereignd can be killed at any
// moment: the machines run on, and the next one adopts them.
//
// A program that is to keep its machines itself calls Start and gives its
// directory to runtime.Local; nobody then needs the program sovereignd. When it
// ends, its machines do (Options.StopMachines), or run on for the next one.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	goruntime "runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/sovereign-build/sovereign/internal/backups"
	"github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/internal/sovereignd"
	"github.com/sovereign-build/sovereign/internal/witnesses"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/control"
	"github.com/sovereign-build/sovereign/pkg/runtime/usernet"
)

const (
	// lookEvery is how often it is looked for machines that are new although
	// nobody has told of them.
	lookEvery = 5 * time.Minute
	// idleFor is how long nothing must have been wanted up, and nobody
	// connected, before a sovereignd that was told to ends.
	idleFor = 3 * time.Second
)

// Options change how Run behaves.
type Options struct {
	// StateDir is where the machines are; "" is runtime.DefaultStateDir.
	StateDir string
	// Version is the program's, for messages; "" is that of its main module.
	Version string
	// Network is that of the machines; the zero value lets them to none of this
	// host's own addresses.
	Network usernet.Config
	// BackupProgram is sovereign-backup's path; "" is the one beside this
	// program, or in PATH. It is needed only where something is backed up,
	// checked or restored.
	BackupProgram string
	// Report takes what is done, for people; the machine is "" where it is
	// about sovereignd itself. It is called from several goroutines, and may be
	// nil.
	Report func(machine, text string)
	// Ready is called once, when it can be spoken to; it may be nil.
	Ready func()
	// StopMachines shuts the machines down in order when ctx ends. Without it
	// they go on, for the next sovereignd.
	StopMachines bool
	// ExitWhenIdle ends Run when nothing has been wanted up, and nobody
	// connected, for a few seconds.
	ExitWhenIdle bool
	// Guard is for a host that is not always fit for machines; it may be nil.
	Guard Guard
}

// A Guard says when machines may run on a host that is not always fit for them:
// a phone, which boots, runs out of battery and is shut down. Its methods are
// called from several goroutines.
type Guard interface {
	// Hold is why machines may not run now, "" where they may. Those that run
	// are then shut down in order, and started again when it has passed.
	Hold() string
	// Changed is sent to when Hold may say something else.
	Changed() <-chan struct{}
	// Wanted is told whether any machine is wanted up and may run, or is on its
	// way down.
	Wanted(up bool)
	// Status is what there is to say.
	Status() *runtime.PhoneStatus
	// SetFloor and SetPhantom change its settings.
	SetFloor(runtime.PhoneFloor) error
	SetPhantom(ctx context.Context, off bool) error
	// Run looks after the host until ctx ends. machines are the processes that
	// run machines; stop ends Run of this package, as the host shuts down.
	Run(ctx context.Context, machines func() []int, stop func(why string))
}

// Run keeps machines and answers for them until ctx ends, which is no error.
// Another sovereignd of the same directory is one (fault.Usage), and so is a
// directory in which others may write (fault.Environment), or that is removed.
func Run(ctx context.Context, o Options) error {
	r, err := machine.Open(o.StateDir, machine.WithNetwork(o.Network))
	if err != nil {
		return err
	}
	return RunMachines(ctx, r, o)
}

// Start is Run in the background, for a program that keeps its machines itself.
// It returns when runtime.Local can connect; wait returns what Run did, when ctx
// has ended.
func Start(ctx context.Context, o Options) (wait func() error, err error) {
	listening, ended, ready := make(chan struct{}), make(chan error, 1), o.Ready
	o.Ready = func() {
		if ready != nil {
			ready()
		}
		close(listening)
	}
	go func() { ended <- Run(ctx, o) }()
	select {
	case <-listening:
		return sync.OnceValue(func() error { return <-ended }), nil
	case err := <-ended:
		if err == nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
}

// RunMachines is Run for what machine.Open gave, in this module's tests with a
// hypervisor of their own.
func RunMachines(ctx context.Context, r *machine.Runtime, o Options) error {
	if err := sovereignd.CheckStateDir(r.Dir()); err != nil {
		return err
	}
	if o.Report == nil {
		o.Report = func(string, string) {}
	}
	if info, ok := debug.ReadBuildInfo(); ok && o.Version == "" {
		o.Version = info.Main.Version
	}
	l, err := r.Keep(ctx)
	if err != nil {
		return err
	}
	d := &daemon{
		r: r, o: o, keepers: map[string]*keeper{}, broken: map[string]string{}, poked: make(chan struct{}, 1),
		changing: map[string]bool{}, followed: make(chan struct{}), hub: hub{readers: map[*reader]struct{}{}},
	}
	d.hello = control.NewHello(o.Version, control.CanChunks, canBackup, canWitness)
	if d.blobs, err = control.NewBlobs(filepath.Join(r.Dir(), blobsDir), r.FindBlob); err == nil {
		d.blobs.Seeds = r.Seeds
		err = d.sweep()
	}
	if err != nil {
		return errors.Join(err, l.Close())
	}
	r.OnReport(func(name string, e runtime.Event) {
		e.Machine = name
		d.hub.tell(0, e)
	})
	d.report("", "keeps the machines of "+r.Dir())
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	work, cancel := context.WithCancel(ctx)
	d.work, d.stopWork = context.WithCancel(work)
	if err := d.newBackups(work); err != nil {
		cancel()
		return errors.Join(err, l.Close(), r.Close())
	}
	d.newWitnesses()
	var serving sync.WaitGroup
	serving.Go(func() { d.accept(work, l, &serving) })
	serving.Go(func() { d.backups.Run(work) })
	serving.Go(func() { d.witnesses.Run(work) })
	serving.Go(func() { d.backups.RunLogs(work) })
	if o.Guard != nil {
		serving.Go(func() {
			o.Guard.Run(work, d.processes, func(why string) {
				d.report("", why)
				stop()
			})
		})
	}
	if o.Ready != nil {
		o.Ready()
	}
	err = d.run(work, l)
	cancel()
	for _, k := range d.all() {
		<-k.done
	}
	if ctx.Err() != nil && o.StopMachines {
		err = errors.Join(err, d.stopMachines(context.WithoutCancel(ctx)))
	}
	err = errors.Join(err, l.Close())
	serving.Wait()
	d.closeBackups()
	err = errors.Join(err, r.Close()) // of the machines' network what is here; they run on
	if err == nil {
		d.report("", "ends")
	}
	return err
}

type daemon struct {
	r     *machine.Runtime
	o     Options
	hello control.Hello
	blobs *control.Blobs
	hub   hub
	poked chan struct{}

	work     context.Context // the keepers'
	stopWork func()
	held     string        // why there are no keepers
	followed chan struct{} // closed when held changes

	connections connections
	backups     *backups.Manager
	witnesses   *witnesses.Manager
	talks       sync.WaitGroup // drills' with this sovereignd

	mu       sync.Mutex
	keepers  map[string]*keeper
	changing map[string]bool   // machines whose bundle is being changed
	broken   map[string]string // machines with a record that cannot be read, and why
}

func (d *daemon) report(name, text string) {
	d.o.Report(name, text)
	if name != "" {
		d.hub.tell(0, runtime.Event{Phase: runtime.PhaseKeep, Machine: name, Text: text})
	}
}

// info is what GET /v1/version says.
func (d *daemon) info() runtime.HostInfo {
	i := runtime.HostInfo{
		Version: d.o.Version, Protocol: control.MaxVersion, Can: d.hello.Can,
		Arch: goruntime.GOARCH, StateDir: d.r.Dir(), PID: os.Getpid(), Phone: d.phone(),
	}
	if free, err := d.blobs.Free(); err == nil { // who sends is told so anyway
		i.Free = free
	}
	return i
}

func (d *daemon) keeper(name string) *keeper {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.keepers[name]
}

func (d *daemon) all() []*keeper {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Collect(maps.Values(d.keepers))
}

// look has everybody look at the machines: somebody has changed what is wanted.
func (d *daemon) look() {
	for _, k := range d.all() {
		k.look()
	}
	poke(d.poked)
}

func (d *daemon) run(ctx context.Context, l *machine.Listener) error {
	watch, stop := context.WithCancel(ctx)
	watched := make(chan error, 2)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer stop()
	watching.Go(func() {
		watched <- d.r.WatchRecords(watch, func(name string) {
			if k := d.keeper(name); k != nil {
				k.look()
			} else if name == "" {
				d.look()
			}
			poke(d.poked)
			d.witnesses.Look()
		})
	})
	watching.Go(func() { watched <- l.WaitLost(watch) })
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	busy := time.Now()
	var guard <-chan struct{}
	if d.o.Guard != nil {
		guard = d.o.Guard.Changed()
	}
	for {
		if err := d.follow(ctx); err != nil {
			d.report("", err.Error())
		}
		wanted, err := d.lookForNew()
		if err != nil {
			return err
		}
		if d.o.Guard != nil {
			d.o.Guard.Wanted(wanted && d.holds() == "")
		}
		var idle <-chan time.Time
		if wanted || d.connections.open() > 0 || d.backups.Busy() {
			busy = time.Now()
		} else if d.o.ExitWhenIdle {
			if time.Since(busy) >= idleFor && d.connections.end() {
				d.report("", "nothing is wanted up")
				return nil
			}
			idle = time.After(idleFor - time.Since(busy))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.poked:
		case <-guard:
		case <-tick.C:
		case <-idle:
		case err := <-watched:
			return err // none is that of ctx
		}
	}
}

// lookForNew sees to it that each machine has a keeper, and says whether any is
// wanted up or on its way down.
func (d *daemon) lookForNew() (busy bool, err error) {
	names, err := d.r.Names()
	if err != nil {
		return false, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.keepers, func(_ string, k *keeper) bool { return k.over() })
	for _, name := range names {
		wanted, err := d.r.Wanted(name)
		if err != nil {
			// A record that cannot be read is its owner's to mend; the others
			// go on.
			if d.broken[name] != err.Error() {
				d.broken[name] = err.Error()
				d.o.Report(name, err.Error())
			}
			continue
		}
		delete(d.broken, name)
		if d.held == "" && d.keepers[name] == nil {
			d.keepers[name] = keep(d.work, d, name)
		}
		k := d.keepers[name]
		busy = busy || wanted == machine.Up || k != nil && k.busy.Load()
	}
	return busy, nil
}

// stopMachines shuts down what is wanted up, all at the same time.
func (d *daemon) stopMachines(ctx context.Context) error {
	all := d.all()
	failed := make([]error, len(all))
	var wg sync.WaitGroup
	for n, k := range all {
		wg.Go(func() {
			i, err := d.r.Instance(ctx, k.name)
			if err == nil {
				var res machine.StopResult
				if res, err = i.Halt(ctx, 0); err == nil && res.WasRunning {
					d.report(k.name, fmt.Sprintf("stopped after %.1f s, until the next sovereignd", res.Seconds))
				}
			}
			failed[n] = err
		})
	}
	wg.Wait()
	return errors.Join(failed...)
}
