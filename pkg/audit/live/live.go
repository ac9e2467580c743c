// Package live looks at a running machine for package audit: a conversation with
// its host comes in, and facts go out. It looks by programs of the guest, which
// its owner may run there anyway, and changes nothing but where trials were
// asked for.
package live

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sovereign-build/sovereign/pkg/audit"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/kernel"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

const (
	// lookLimit bounds all looking, and probeLimit one probe: a guest that hangs
	// somewhere leaves rows that are not proven, and is no audit that hangs.
	lookLimit  = 45 * time.Second
	probeLimit = 25 * time.Second
	// atOnce is how many programs look at a time; the agent allows eight.
	atOnce = 4
)

// Options of a look.
type Options struct {
	// Here says that the machine's host is this computer, so that its sovereignd
	// can be killed.
	Here bool
	// Disturb tries what disturbs the machine: the data file system is frozen
	// for a moment, each service and PostgreSQL's postmaster are killed, and
	// sovereignd where Here.
	Disturb bool
	// Report takes lines about what is being done.
	Report func(string)
}

// Look looks at a machine that runs. Errors are for one that does not, and for
// ctx; what could not be seen of one that does is a fact.
func Look(ctx context.Context, h *runtime.Host, name string, o Options) (*audit.Facts, error) {
	if o.Report == nil {
		o.Report = func(string) {}
	}
	m := h.Machine(name)
	status, err := m.Status(ctx)
	if err != nil {
		return nil, err
	}
	if status.PID == 0 || status.Guest == nil {
		why := status.GuestError
		if why == "" {
			why = status.Message
		}
		return nil, fault.Errorf(fault.Device, "%s is %s, and its guest does not answer: %s", name, status.State, why).
			Hintf("start the machine, or audit its bundle")
	}
	manifest, err := m.Manifest(ctx)
	if err != nil {
		return nil, err
	}
	f := &audit.Facts{
		Name: name, Arch: manifest.Arch, Bundle: status.Bundle.Digest, Manifest: manifest,
		Machine: &audit.Machine{Hypervisor: status.Machine.Hypervisor, Accel: status.Machine.Accel},
	}
	if v := status.Supervision; v != nil {
		f.Machine.Supervised = v.Supervisor
		f.Machine.Restarts = v.Wanted == runtime.Up && v.Policy.Restart == runtime.RestartAlways && !v.GaveUp
	}
	l := &look{machine: m, facts: f, status: status}
	o.Report("looking at the guest")
	looking, stop := context.WithTimeoutCause(ctx, lookLimit, fmt.Errorf("the audit's %s are over", lookLimit))
	l.everything(looking)
	stop()
	f.Machine.Host = lookAtHost(ctx, h, name)
	if o.Disturb {
		t := &trials{look: l, host: h, here: o.Here, kill: kill, report: o.Report}
		if err := t.all(ctx); err != nil {
			return nil, err
		}
	}
	return f, context.Cause(ctx)
}

// look fills the facts in.
type look struct {
	machine machine
	facts   *audit.Facts
	status  runtime.Status
}

// everything has the probes look, a few at a time, and then those that measure.
// A probe writes nothing but its own fact.
func (l *look) everything(ctx context.Context) {
	l.spec(ctx) // others need it
	f, m := l.facts, l.facts.Machine
	var group errgroup.Group
	group.SetLimit(atOnce)
	for _, probe := range []func(context.Context){
		func(ctx context.Context) { f.Kernel = l.kernel(ctx) },
		func(ctx context.Context) { f.Image.Programs, f.Image.ICUData = l.files(ctx) },
		func(ctx context.Context) { m.Devices = l.devices(ctx) },
		func(ctx context.Context) { m.Nodes = l.words(ctx, "ls", "/dev") },
		func(ctx context.Context) { m.Protocols = l.protocols(ctx) },
		func(ctx context.Context) { m.FileSystems = l.words(ctx, "cat", "/proc/filesystems") },
		func(ctx context.Context) { m.KernelLog = l.kernelLog(ctx) },
		func(ctx context.Context) { m.PoolPeak = l.poolPeak(ctx) },
		func(ctx context.Context) { m.Entropy = l.entropy(ctx) },
		func(ctx context.Context) { m.Services = l.services(ctx) },
		func(ctx context.Context) { m.Listeners = l.listeners(ctx) },
		func(ctx context.Context) {
			m.UnprivilegedFrom = l.number(ctx, "/proc/sys/net/ipv4/ip_unprivileged_port_start")
		},
		func(ctx context.Context) { m.Database = l.database(ctx) },
		func(ctx context.Context) { m.Tailnet = l.tailnet(ctx) },
	} {
		group.Go(func() error {
			ctx, stop := context.WithTimeoutCause(ctx, probeLimit, fmt.Errorf("no answer within %s", probeLimit))
			defer stop()
			probe(ctx)
			return nil
		})
	}
	// Probes have no errors: what they did not see is a fact.
	_ = group.Wait()
	ctx, stop := context.WithTimeoutCause(ctx, probeLimit, fmt.Errorf("no answer within %s", probeLimit))
	defer stop()
	m.Disk = l.disk(ctx)
	m.History = history(&l.status)
}

func (l *look) kernel(ctx context.Context) audit.Known[*kernel.Config] {
	packed, err := l.something(ctx, "cat", "/proc/config.gz")
	if err != nil {
		return audit.Unseen[*kernel.Config]("%v", err)
	}
	return audit.Look(parseConfig(packed))
}

// history is what the guest and its host say of the data disk's.
func history(s *runtime.Status) audit.Known[audit.History] {
	c := s.Guest.Continuity
	if c == nil {
		return audit.Unseen[audit.History]("the guest does not tell of it: its image is too old, or its disk is not there")
	}
	h := audit.History{Lineage: c.Lineage, Epoch: c.Epoch, Start: c.Verdict, Held: c.Held}
	if err := s.Stale(); err != nil {
		h.Why = err.Error()
	}
	if w := s.Continuity; w != nil {
		h.Witness = &audit.Witness{Lineage: w.Lineage, Epoch: w.Epoch, Where: "sovereignd"}
	}
	return audit.Saw(h)
}
