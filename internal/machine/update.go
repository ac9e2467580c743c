package machine

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

// Update copies the bundle in dir into the slot that is not active and writes
// down that it is to be tried: sovereignd restarts the machine into it, and
// commits it when its services become healthy within limit (0:
// runtime.DefaultTrialLimit, at most a day) and stay so for half a minute, or else goes
// back. An optional service counts if it is healthy now. An instance that is
// wanted down is tried when it is wanted up again. changed is false when the
// active slot has that very bundle, undamaged; a damaged one is repaired by the
// same bundle in the other slot.
//
// The former bundle of the slot is gone from here on, and with it the copy of the
// data disk that was kept for it. The data disk is not looked at, but with
// Source.KeepData: then a copy of it is kept before the trial, which the machine
// goes back to if that fails.
func (r *Runtime) Update(ctx context.Context, name, dir string, limit time.Duration, report Report) (changed bool, err error) {
	return r.UpdateFrom(ctx, name, Source{Dir: dir}, limit, report)
}

// UpdateFrom is Update to a bundle that came from somewhere else.
func (r *Runtime) UpdateFrom(ctx context.Context, name string, from Source, limit time.Duration, report Report) (changed bool, err error) {
	limit, err = trialLimit(limit)
	if err != nil {
		return false, err
	}
	dir, m, digest, err := readBundle(from.Dir)
	if err != nil {
		return false, err
	}
	from.Dir = dir
	unlockCopy, err := r.lock(ctx, name+".copy")
	if err != nil {
		return false, err
	}
	defer unlockCopy()
	i, err := r.Instance(ctx, name)
	if err != nil {
		return false, err
	}
	if err := i.updatable(m); err != nil {
		return false, err
	}
	if i.rec.Slots[i.rec.Active].Digest == digest && i.rec.Trial == nil {
		damage := i.verifySlot(ctx, i.rec.Active)
		if damage == nil {
			return false, nil
		}
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		tell(report, PhaseInstall, fmt.Sprintf("the bundle in slot %s is damaged: %v", i.rec.Active, damage))
	}
	if _, err := i.admit(from, digest, from.AllowRollback); err != nil {
		return false, err
	}
	if from.KeepData {
		if err := i.roomToKeep(); err != nil {
			return false, err
		}
	}
	tell(report, PhaseInstall, "installing "+from.from())
	copied, err := i.copyBundle(ctx, from, m)
	if err != nil {
		return false, err
	}
	optional := i.healthyOptional(ctx)

	unlock, err := r.lock(ctx, name)
	if err != nil {
		return false, err
	}
	defer unlock()
	if i, err = r.load(name); err != nil {
		return false, err
	}
	if err := i.updatable(m); err != nil {
		return false, err
	}
	signed, err := i.admit(from, digest, from.AllowRollback)
	if err != nil {
		return false, err
	}
	if err := i.removeLitter(); err != nil {
		return false, err
	}
	slot := otherSlot(i.rec.Active)
	// From here on nothing leads to the slot, and it can be replaced.
	i.rec.Previous, i.rec.Trial, i.rec.Kept = "", nil, nil
	delete(i.rec.Slots, slot)
	if err := i.saveRecord(); err != nil {
		return false, err
	}
	if err := i.dropKept(); err != nil {
		return false, err
	}
	if err := i.putSlot(copied, slot); err != nil {
		return false, err
	}
	i.rec.Slots[slot] = signed.slot(newSlot(digest, from.from()))
	if signed.trust != nil {
		i.rec.Release = signed.trust
	}
	i.rec.Trial = &Trial{Kind: "update", Slot: slot, Limit: Duration(limit), Steady: Duration(r.soak), Optional: optional}
	if from.KeepData {
		i.rec.Trial.Data = DataKeep
	}
	i.rec.Waiting = nil
	return true, i.saveRecord()
}

// Rollback writes down that the bundle before the last update is to be tried,
// in the same way. What was written down and is not tried yet, as the instance is
// not wanted up, is taken back instead: cancelled is true then, and the active
// bundle stays.
//
// The one before may be older than the newest that was here, and then is what a
// machine whose bundles are signed refuses without runtime.AllowRollback. With
// runtime.WithData the data disk goes back too, to the copy that was kept before
// the update; the present one stays beside it.
func (r *Runtime) Rollback(ctx context.Context, name string, limit time.Duration, options ...runtime.UpdateOption) (cancelled bool, err error) {
	limit, err = trialLimit(limit)
	if err != nil {
		return false, err
	}
	i, err := r.Instance(ctx, name)
	if err != nil {
		return false, err
	}
	optional := i.healthyOptional(ctx)
	unlock, err := r.lock(ctx, name)
	if err != nil {
		return false, err
	}
	defer unlock()
	if i, err = r.load(name); err != nil {
		return false, err
	}
	if t := i.rec.Trial; untried(t) && i.rec.Wanted != Up {
		i.rec.Trial = nil
		if t.Kind == "update" {
			// The next update replaces the slot that nothing leads to.
			delete(i.rec.Slots, t.Slot)
			i.rec.Kept = nil
		}
		if err := i.saveRecord(); err != nil {
			return true, err
		}
		if t.Kind == "update" {
			err = i.dropKept()
		}
		return true, err
	}
	if err := i.settled(); err != nil {
		return false, err
	}
	if i.rec.Previous == "" {
		return false, fault.Errorf(fault.Usage, "%s has no bundle to go back to", name).
			Hintf("give one: sovereign-build update %s BUNDLE", name)
	}
	if err := i.verifySlot(ctx, i.rec.Previous); err != nil {
		return false, err
	}
	withData := slices.Contains(options, runtime.WithData)
	if withData {
		if err := i.keptFor(i.rec.Slots[i.rec.Previous].Digest); err != nil {
			return false, err
		}
	}
	if err := i.rec.goBack(i.rec.Slots[i.rec.Previous], slices.Contains(options, runtime.AllowRollback)); err != nil {
		return false, err
	}
	i.rec.Trial = &Trial{Kind: "rollback", Slot: i.rec.Previous, Limit: Duration(limit), Steady: Duration(r.soak), Optional: optional}
	if withData {
		i.rec.Trial.Data = DataBack
	}
	i.rec.Waiting = nil
	return false, i.saveRecord()
}

func trialLimit(limit time.Duration) (time.Duration, error) {
	if limit == 0 {
		return runtime.DefaultTrialLimit, nil
	}
	if limit < time.Millisecond || limit > 24*time.Hour {
		return 0, fault.Errorf(fault.Usage, "a limit of %v is not from 1 ms to a day", limit)
	}
	return limit.Round(time.Millisecond), nil
}

// updatable says whether a bundle may take the active one's place.
func (i *Instance) updatable(m *bundle.Manifest) error {
	if i.rec.Active == "" {
		return fault.Errorf(fault.Usage, "%s is not installed", i.Name()).
			Hintf("install it with sovereign-build up %s", i.Name())
	}
	// Its own copy of the manifest, as the slot may be what is to be repaired.
	active := i.manifest
	if m.Name != active.Name || m.Arch != active.Arch {
		return fault.Errorf(fault.Usage, "%s is a %s for %s, and the bundle is a %s for %s", i.Name(), active.Name, active.Arch, m.Name, m.Arch).
			Hintf("give a bundle of the same recipe and architecture")
	}
	for guest := range i.rec.Options.Ports {
		if _, ok := m.Port(guest); !ok {
			return fault.Errorf(fault.Usage, "port %d of %s was asked for and is not in the new bundle", guest, i.Name()).
				Hintf("remove it, which keeps its data, and install the bundle anew: sovereign-build remove %s", i.Name())
		}
	}
	// One that was not started yet may be replaced.
	if t := i.rec.Trial; untried(t) && t.Kind == "update" {
		return nil
	}
	return i.settled()
}

// untried says whether there is one that nothing was done for yet.
func untried(t *Trial) bool { return t != nil && t.Attempt == 0 && t.Why == "" && t.Data != DataGone }

// settled says whether no trial is under way.
func (i *Instance) settled() error {
	if t := i.rec.Trial; t != nil {
		return fault.Errorf(fault.Usage, "the %s of %s is not over yet", t.Kind, i.Name()).
			Hintf("see sovereign-build status %s; one that is wanted down goes on at sovereign-build up %s, and is given up by sovereign-build rollback %s while it was not tried", i.Name(), i.Name(), i.Name())
	}
	return nil
}
