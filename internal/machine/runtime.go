package machine

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/avf"
	"github.com/sovereign-build/sovereign/pkg/runtime/crosvm"
	"github.com/sovereign-build/sovereign/pkg/runtime/qemu"
	"github.com/sovereign-build/sovereign/pkg/runtime/usernet"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// Runtime is the instances of one state directory.
type Runtime struct {
	dir   string
	hv    vm.Hypervisor
	keeps atomic.Bool // this program is the state directory's sovereignd
	// network is of the machines that steps were taken for.
	network network
	// did is told of every change that is on the disk or done to a machine,
	// so that tests can cut the power there.
	did func(what string)
	// report is told of the starts that steps make.
	report func(name string, e Event)
	// soak is that of trials; tests have a shorter one.
	soak time.Duration
}

// An Option changes how Open sets a Runtime up.
type Option func(*Runtime)

// WithHypervisor replaces QEMU by another driver.
func WithHypervisor(hv vm.Hypervisor) Option {
	return func(r *Runtime) { r.hv = hv }
}

// WithCrosvm replaces QEMU by crosvm, which keeps what it finds out in the state
// directory.
func WithCrosvm(o crosvm.Options) Option {
	return func(r *Runtime) {
		o.Cache = filepath.Join(r.dir, "cache")
		r.hv = crosvm.New(o)
	}
}

// WithAVF replaces QEMU by the program vm of Android's own service, by its path,
// whose guests are reached by the relays of the state directory.
func WithAVF(program string) Option {
	return func(r *Runtime) { r.hv = avf.New(avf.Options{Program: program, Dial: avf.DialRelays(RelayDir(r.dir))}) }
}

// RelayDir is where the relays of a state directory listen (package avf).
func RelayDir(stateDir string) string { return filepath.Join(stateDir, "relays") }

// WithNetwork changes the host's network of guests, but for its IPv6 prefix.
func WithNetwork(c usernet.Config) Option {
	return func(r *Runtime) { r.network.config = c }
}

// WithReport has the progress of every start told, by whoever makes a step.
func WithReport(report func(name string, e Event)) Option {
	return func(r *Runtime) { r.report = report }
}

// WithSoak changes for how long the services of a trial have to stay healthy.
func WithSoak(d time.Duration) Option { return func(r *Runtime) { r.soak = d } }

// Open opens a state directory, making it when absent. An empty stateDir is
// runtime.DefaultStateDir. Errors are of class fault.Environment.
func Open(stateDir string, opts ...Option) (*Runtime, error) {
	if stateDir == "" {
		var err error
		if stateDir, err = runtime.DefaultStateDir(); err != nil {
			return nil, err
		}
	}
	stateDir, err := filepath.Abs(stateDir)
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	r := &Runtime{dir: stateDir, did: func(string) {}, report: func(string, Event) {}, soak: soak}
	for _, sub := range []string{"instances", "locks", "cache"} {
		if err := os.MkdirAll(filepath.Join(stateDir, sub), 0o700); err != nil {
			return nil, fault.Errorf(fault.Environment, "the state directory: %w", err).
				Hintf("set XDG_STATE_HOME to a directory you may write to")
		}
	}
	r.hv = qemu.New(filepath.Join(stateDir, "cache"))
	r.network.plugs = map[string]*plug{}
	for _, o := range opts {
		o(r)
	}
	return r, nil
}

// Dir is the state directory.
func (r *Runtime) Dir() string { return r.dir }

var nameForm = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)

func (r *Runtime) instanceDir(name string) string { return filepath.Join(r.dir, "instances", name) }

// Instance returns an instance that was installed before, running or not. An
// unknown name is of class fault.Usage and lists the known ones.
func (r *Runtime) Instance(ctx context.Context, name string) (*Instance, error) {
	if !nameForm.MatchString(name) {
		return nil, fault.Errorf(fault.Usage, "%q is not an instance's name", name).
			Hintf("names are lower case letters, digits and dashes")
	}
	i, err := r.load(name)
	if errors.Is(err, fs.ErrNotExist) {
		known, listErr := r.Names()
		e := fault.Errorf(fault.Usage, "there is no instance %q", name)
		if listErr != nil || len(known) == 0 {
			return nil, e.Hintf("start one with sovereign-build run BUNDLE")
		}
		return nil, e.Hintf("choose one of: %s", strings.Join(known, ", "))
	}
	if err != nil {
		return nil, err
	}
	if i.proc, _, err = i.running(ctx); err != nil {
		return nil, err
	}
	return i, nil
}

// Names lists the instances, sorted.
func (r *Runtime) Names() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(r.dir, "instances")) // sorted
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		if !nameForm.MatchString(e.Name()) {
			continue
		}
		// One without a record was removed, and kept its data.
		if _, err := os.Lstat(filepath.Join(r.instanceDir(e.Name()), recordFile)); err == nil {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// List returns the status of every instance, sorted by name, without asking
// the guests. One whose record cannot be read is Unreadable, and hides no other.
func (r *Runtime) List(ctx context.Context) ([]Status, error) {
	names, err := r.Names()
	if err != nil {
		return nil, err
	}
	all := make([]Status, 0, len(names))
	for _, name := range names {
		s, err := r.listed(ctx, name)
		if err != nil && ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			s = Status{Name: name, State: Unreadable, Message: err.Error()}
		}
		all = append(all, s)
	}
	return all, nil
}

func (r *Runtime) listed(ctx context.Context, name string) (Status, error) {
	i, err := r.load(name)
	if err != nil {
		return Status{}, err
	}
	return i.hostStatus(ctx)
}
