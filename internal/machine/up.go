package machine

import (
	"context"
	"maps"
	"path/filepath"
	"time"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// apply changes the record as wanting it up does.
func (in *installed) apply(o UpOptions) {
	if in.Policy == (Policy{}) {
		in.Policy = DefaultPolicy()
	}
	if o.Replace {
		// With these options, and no older ones.
		in.Options = Options{Accel: in.Options.Accel, Outbound: in.Options.Outbound, Bounce: in.Options.Bounce}
	}
	if o.Restart != "" {
		in.Policy.Restart = o.Restart
	}
	if o.Limit != nil {
		in.Policy.Limit = *o.Limit
	}
	if o.MemoryMiB != 0 {
		in.Options.MemoryMiB = o.MemoryMiB
	}
	if o.CPUs != 0 {
		in.Options.CPUs = o.CPUs
	}
	if len(o.Ports) > 0 && in.Options.Ports == nil {
		in.Options.Ports = map[int]int{}
	}
	maps.Copy(in.Options.Ports, o.Ports)
	if o.Accel != "" {
		in.Options.Accel = o.Accel
	}
	if o.Outbound != nil {
		in.Options.Outbound = *o.Outbound
	}
	if o.Activate {
		in.Options.Isolated = false
	}
	if o.Bounce != nil {
		in.Options.Bounce = *o.Bounce
	}
	if o.Protected != nil {
		in.Options.Protected = *o.Protected
	}
	if o.Thin != nil {
		in.Options.Thin = *o.Thin
	}
}

func checkOptions(o UpOptions, name string, m *bundle.Manifest) error {
	switch {
	case o.Restart != "" && o.Restart != RestartAlways && o.Restart != RestartNever:
		return fault.Errorf(fault.Usage, "restart policy %q is neither always nor never", o.Restart)
	case o.Limit != nil && (*o.Limit < 0 || *o.Limit > 1000000):
		return fault.Errorf(fault.Usage, "a limit of %d restarts is not from 0 to 1000000", *o.Limit)
	}
	return checkStart(o, name, m)
}

// Up writes down that an instance is wanted up, for Step to make it true. An instance that is not installed yet is, from its bundle: copied into
// a slot, so that nothing that happens to the bundle's directory reaches it.
// Ends in a row are forgotten.
func (r *Runtime) Up(ctx context.Context, name string, o UpOptions, report Report) (*Instance, error) {
	i, err := r.Instance(ctx, name)
	if err != nil {
		return nil, err
	}
	if i.rec.Active == "" {
		return r.Install(ctx, i.rec.Bundle.Path, name, o, report)
	}
	unlock, err := r.lock(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if i, err = r.load(name); err != nil {
		return nil, err
	}
	return i, i.up(ctx, o)
}

// Install copies the bundle in dir into a slot of a new instance, or of one
// that only ever ran from a bundle's directory, and writes down that it is
// wanted up. An empty name is the manifest's. One that is installed already
// stays as it is when the bundle is the same, and is an error (fault.Usage)
// when it is another: that is an Update, or takes UpOptions.Replace.
func (r *Runtime) Install(ctx context.Context, dir, name string, o UpOptions, report Report) (*Instance, error) {
	return r.InstallFrom(ctx, Source{Dir: dir}, name, o, report)
}

// InstallFrom is Install of a bundle that came from somewhere else.
func (r *Runtime) InstallFrom(ctx context.Context, from Source, name string, o UpOptions, report Report) (*Instance, error) {
	dir, m, digest, err := readBundle(from.Dir)
	if err != nil {
		return nil, err
	}
	from.Dir = dir
	if name == "" {
		name = m.Name
	}
	if err := checkOptions(o, name, m); err != nil {
		return nil, err
	}
	unlockCopy, err := r.lock(ctx, name+".copy")
	if err != nil {
		return nil, err
	}
	defer unlockCopy()
	i, err := r.instance(name)
	if err != nil {
		return nil, err
	}
	have, err := i.installable(ctx, digest, o)
	if err != nil {
		return nil, err
	}
	// What is here already was let in; one from before there were keys was not.
	enters := func() bool { return !have || i.rec.Release == nil && m.Key() != "" }
	if enters() {
		if _, err := i.admit(from, digest, o.AllowRollback); err != nil {
			return nil, err
		}
	}
	copied := ""
	if !have {
		tell(report, PhaseInstall, "installing "+from.from())
		if copied, err = i.copyBundle(ctx, from, m); err != nil {
			return nil, err
		}
	}
	unlock, err := r.lock(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if i, err = r.instance(name); err != nil {
		return nil, err
	}
	if have, err = i.installable(ctx, digest, o); err != nil {
		return nil, err
	}
	var signed admission
	if enters() {
		if signed, err = i.admit(from, digest, o.AllowRollback); err != nil {
			return nil, err
		}
		if signed.trust != nil {
			i.rec.Release = signed.trust
		}
	}
	if have {
		return i, i.up(ctx, o)
	}
	if copied == "" {
		return nil, fault.Errorf(fault.Usage, "%s was given another bundle meanwhile", name).Hintf("try again")
	}
	slot, err := i.freeSlot()
	if err != nil {
		return nil, err
	}
	if err := i.putSlot(copied, slot); err != nil {
		return nil, err
	}
	if i.rec.Slots == nil {
		i.rec.Slots = map[SlotName]Slot{}
	}
	i.rec.Slots[slot] = signed.slot(newSlot(digest, from.from()))
	i.rec.Previous, i.rec.Active = i.rec.Active, slot
	i.manifest = m
	if i.proc == (vm.Process{}) {
		i.rec.Bundle = BundleRef{Path: i.slotDir(slot), Digest: digest}
	} // else it runs from a directory with the same content
	maps.DeleteFunc(i.rec.Options.Ports, func(guest, _ int) bool { _, ok := m.Port(guest); return !ok })
	return i, i.up(ctx, o)
}

// freeSlot is a slot that nothing leads to. Where there is an active one it is
// the other, which the record forgets first.
func (i *Instance) freeSlot() (SlotName, error) {
	if i.rec.Active == "" {
		return "a", nil
	}
	slot := otherSlot(i.rec.Active)
	i.rec.Previous, i.rec.Trial, i.rec.Kept = "", nil, nil
	delete(i.rec.Slots, slot)
	if err := i.saveRecord(); err != nil {
		return slot, err
	}
	return slot, i.dropKept()
}

// installable says whether the bundle can become what the instance runs; have
// is true where it is already.
func (i *Instance) installable(ctx context.Context, digest string, o UpOptions) (have bool, err error) {
	var alive bool
	if i.proc, alive, err = i.running(ctx); err != nil {
		return false, err
	}
	active, installed := i.rec.Slots[i.rec.Active]
	switch {
	case installed && active.Digest == digest:
		return true, nil
	case alive && i.rec.Bundle.Digest != digest:
		return false, fault.Errorf(fault.Usage, "%s runs already, with the bundle %.19s… of %s", i.Name(), i.rec.Bundle.Digest, i.rec.Bundle.Path).
			Hintf("change it with sovereign-build update %s BUNDLE, or stop it first: sovereign-build down %[1]s", i.Name())
	case installed && !o.Replace:
		return false, fault.Errorf(fault.Usage, "%s is installed already, with the bundle %.19s… of %s", i.Name(), active.Digest, active.Source).
			Hintf("change it with sovereign-build update %s BUNDLE", i.Name())
	case installed && i.rec.Wanted == Up:
		return false, fault.Errorf(fault.Usage, "%s is wanted up, with the bundle %.19s… of %s", i.Name(), active.Digest, active.Source).
			Hintf("take it down first: sovereign-build down %s", i.Name())
	case installed && !untried(i.rec.Trial):
		return false, i.settled()
	}
	return false, nil
}

// up is the write that makes an instance wanted. The caller has the lock.
func (i *Instance) up(ctx context.Context, o UpOptions) error {
	if err := checkOptions(o, i.Name(), i.manifest); err != nil {
		return err
	}
	process, alive, err := i.running(ctx)
	if err != nil {
		return err
	}
	i.proc = process
	if alive && i.rec.Slot == "" && i.rec.Bundle.Digest != i.rec.Slots[i.rec.Active].Digest {
		return fault.Errorf(fault.Usage, "%s runs from %s, which is not the bundle that is installed", i.Name(), i.rec.Bundle.Path).
			Hintf("stop it first: sovereign-build stop %s", i.Name())
	}
	if alive && i.rec.Slot == "" {
		i.rec.Slot = i.rec.Active
	}
	if alive && o.Replace {
		for guest, host := range o.Ports {
			if now, ok := i.HostPort(guest); ok && host != 0 && now != host {
				return fault.Errorf(fault.Usage, "%s runs already, with port %d at %d, not %d", i.Name(), guest, now, host).
					Hintf("take it down first: sovereign-build down %s", i.Name())
			}
		}
	}
	if alive && o.Activate && i.rec.Options.Isolated {
		return fault.Errorf(fault.Usage, "%s runs isolated", i.Name()).
			Hintf("take it down first: sovereign-build down %s", i.Name())
	}
	if alive && o.NewData {
		return fault.Errorf(fault.Usage, "%s runs, with the data disk that it has", i.Name()).
			Hintf("take it down first: sovereign-build down %s", i.Name())
	}
	if err := i.removeLitter(); err != nil {
		return err
	}
	i.rec.apply(o)
	i.rec.NewData = i.rec.NewData || o.NewData
	if !alive && i.rec.Process != nil && i.rec.Trial == nil {
		// It ended, which nobody has noted yet: before this, not after it.
		i.rec.Process = nil
	}
	i.rec.Wanted = Up
	i.rec.fresh()
	return i.save()
}

// readBundle reads a bundle's manifest and names both it and its directory.
func readBundle(dir string) (abs string, m *bundle.Manifest, digest string, err error) {
	if abs, err = filepath.Abs(dir); err != nil {
		return "", nil, "", fault.Wrap(fault.Environment, err)
	}
	if m, err = bundle.Load(abs); err != nil {
		return "", nil, "", err
	}
	digest, err = bundle.Digest(abs)
	return abs, m, digest, err
}

// Restart stops a machine in order that is wanted up, so that it is started
// again at once. grace is as in Stop. Ends in a row are forgotten.
func (i *Instance) Restart(ctx context.Context, grace time.Duration) (StopResult, error) {
	return i.halted(ctx, func(now *Instance) error {
		switch {
		case now.rec.Wanted != Up:
			return fault.Errorf(fault.Usage, "%s is not wanted up", i.Name()).
				Hintf("start it with sovereign-build up %s", i.Name())
		case now.rec.Active == "" || now.rec.Process != nil && now.rec.Slot == "":
			return fault.Errorf(fault.Usage, "an older version started %s from %s, and it would not be the same again", i.Name(), now.rec.Bundle.Path).
				Hintf("install that first: sovereign-build up %s", i.Name())
		}
		return nil
	}, grace)
}

// Halt stops the machine in order and leaves it wanted up: what its keeper does
// that is itself about to end with its host. grace is as in Stop.
func (i *Instance) Halt(ctx context.Context, grace time.Duration) (StopResult, error) {
	return i.halted(ctx, func(*Instance) error { return nil }, grace)
}
