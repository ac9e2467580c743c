package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/process"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/tail"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// startLimit bounds the start of a machine up to its hypervisor's answer. A
// probe of KVM is in it.
const startLimit = 2 * time.Minute

// Seen is what the caller of Step knows of a guest.
type Seen struct {
	Process vm.Process    // the machine that was asked
	Guest   *agent.Status // its last answer; nil: none
	// Healthy is for how long the guest has been (see Healthy), without a
	// break, and Services for how long each of its services; one that is not
	// healthy is absent.
	Healthy  time.Duration
	Services map[string]time.Duration
	// Silent is for how long it has been asked without an answer.
	Silent time.Duration
}

// silentMoment is the silence after which the hypervisor is asked whether the
// machine runs at all, heldEvery how often then, and hypervisorLimit how long
// that may take.
const (
	silentMoment    = 3 * time.Second
	heldEvery       = time.Second
	hypervisorLimit = 2 * time.Second
)

// Step is what was done.
type Step struct {
	// Did says it, for people; empty when there was nothing to do. Otherwise
	// call Step again at once.
	Did string
	// Wait is the time after which there is something to do although nothing
	// changes; 0: none.
	Wait time.Duration
	// Process runs the machine; nil where nobody does.
	Process *vm.Process
	Wanted  Wanted
	// Quiet: what was done is done all the time, and nobody has to hear of it.
	Quiet bool
}

// Step brings an instance one step nearer to what is wanted of it, under its
// lock; the comment of the package has the table. Every step begins at what is
// on the disk, so that a sovereignd may be killed at any moment, and another
// goes on. An instance that is not there is fs.ErrNotExist.
//
// A start that has begun is not given up when ctx ends; a shutdown goes on in
// the guest.
func (r *Runtime) Step(ctx context.Context, name string, seen Seen) (Step, error) {
	unlock, err := r.lock(ctx, name)
	if err != nil {
		return Step{}, err
	}
	defer unlock()
	i, err := r.load(name)
	if errors.Is(err, fs.ErrNotExist) {
		r.unplug(name)
	}
	if err != nil {
		return Step{}, err
	}
	w, err := i.look(ctx, seen)
	if err != nil {
		return Step{}, err
	}
	if err := i.keepPlugged(w.alive); err != nil {
		return Step{}, err
	}
	d := decide(&i.rec, w)
	did, err := i.do(ctx, d, w)
	if d.act == actRecord && err != nil {
		// That keeps nothing else from being done.
		failed := err
		w.unrecorded = true
		if d = decide(&i.rec, w); d.act == actNothing {
			return i.step(d, "", w), failed
		}
		did, err = i.do(ctx, d, w)
	}
	return i.step(d, did, w), err
}

// step is what came of a decision.
func (i *Instance) step(d decision, did string, w world) Step {
	step := Step{Did: did, Wait: d.wait, Wanted: i.rec.Wanted, Quiet: d.act == actRecord}
	if i.proc != (vm.Process{}) {
		step.Process = &i.proc
		if w.silent >= silentMoment && (step.Wait == 0 || step.Wait > heldEvery) {
			step.Wait = heldEvery // whether it is still held, and for what
		}
		if w.thin && (step.Wait == 0 || step.Wait > reserveEvery) {
			step.Wait = reserveEvery
		}
	}
	return step
}

// look gathers the world, and with it the process.
func (i *Instance) look(ctx context.Context, seen Seen) (world, error) {
	w := world{}
	var err error
	if w.awake, err = awake(); err != nil {
		return w, err
	}
	if w.boot, err = process.Boot(); err != nil {
		return w, err
	}
	if i.proc, w.alive, err = i.running(ctx); err != nil {
		return w, err
	}
	switch {
	case w.alive:
		if seen.Process == i.proc {
			w.guest, w.healthy, w.services, w.silent = seen.Guest, seen.Healthy, seen.Services, seen.Silent
		}
		// The guest has mounted it: before, it may still make another. An image
		// that cannot be read now is for the next start to tell of.
		if w.guest != nil && w.guest.Data != nil {
			w.disk, _ = i.newFileSystem()
		}
		if err := i.lookRoom(&w); err != nil {
			return w, err
		}
		if w.silent >= silentMoment {
			return w, i.lookHeld(ctx, &w)
		}
	case i.rec.Process != nil && i.rec.Process.Boot != w.boot:
		w.end = "the host was started anew"
	case i.rec.Process != nil:
		w.end = i.endReason()
		if t, ok := i.r.hv.(vm.EndTeller); ok {
			if told := t.End(ctx, i.dir, *i.rec.Process); told != "" {
				w.end = told + "; " + w.end
			}
		}
	}
	return w, nil
}

// lookHeld asks the hypervisor why the guest is silent. One that does not
// answer hangs with it, and that is for decide to judge.
func (i *Instance) lookHeld(ctx context.Context, w *world) error {
	limit, cancel := context.WithTimeout(ctx, hypervisorLimit)
	defer cancel()
	if s, err := i.r.hv.State(limit, i.dir); err == nil {
		w.full, w.held = s.Full, s.Held && !s.Full
	}
	if !w.full {
		return nil
	}
	_, room, err := roomAt(i.dataPath())
	w.room = room
	return err
}

// awake is the device's time awake since its boot.
func awake() (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, fault.Wrap(fault.Environment, err)
	}
	return time.Duration(now.Nano()), nil
}

// moment is the world's, as records have it.
func (w world) moment() Moment {
	return Moment{Boot: w.boot, Awake: Duration(w.awake.Truncate(time.Millisecond))}
}

// endReason looks in the console log for why the machine ended.
func (i *Instance) endReason() string {
	lines := strings.Split(tail.Lines(40, i.consoleFiles()...), "\n")
	for _, line := range lines {
		if strings.Contains(line, "Kernel panic") {
			return line
		}
	}
	// An end by the guest's own will is said after its reason.
	last, itself := len(lines)-1, false
	for ; last > 0 && ownEnd(lines[last]); last-- {
		itself = true
	}
	switch {
	case lines[last] == "":
		if log := tail.Lines(1, filepath.Join(i.dir, vm.LogFile)); log != "" {
			return "its process is gone, the guest printed nothing, and the hypervisor's last line is: " + log
		}
		return "its process is gone, and the guest printed nothing"
	case itself:
		return "the guest ended itself; what it said before: " + lines[last]
	}
	return "its process is gone (killed, or it crashed); the console's last line: " + lines[last]
}

// ownEnd says whether a line of the console is of an orderly reboot or end, the
// kernel's or init's.
func ownEnd(line string) bool {
	return strings.Contains(line, "reboot: ") || strings.HasSuffix(line, "] reboot") || strings.HasSuffix(line, "] power off")
}

// do carries a decision out. Each case ends in one write of the record.
func (i *Instance) do(ctx context.Context, d decision, w world) (did string, err error) {
	rec := &i.rec
	now := time.Now().UTC().Truncate(time.Second)
	switch d.act {
	case actNothing:
		return "", nil
	case actAdopt:
		rec.Process = &i.proc
		did = fmt.Sprintf("adopted: process %d, %s", i.proc.PID, d.why)
	case actTakeOver:
		rec.Wanted = Down
		if w.alive {
			rec.Process, rec.Wanted, rec.Policy = &i.proc, Up, Policy{Restart: RestartNever}
		}
		did = "taken over from an older version: " + d.why
	case actStart:
		return i.startSlot(ctx, d.why, now, w.moment())
	case actHalt:
		res, err := i.stop(ctx, DefaultGrace)
		if err != nil {
			return "", err
		}
		rec.Process, i.proc = nil, vm.Process{}
		did = fmt.Sprintf("stopped after %.1f s (%s)", res.Seconds, d.why)
		if res.Forced {
			did += ", its power was cut: " + res.Why
		}
	case actResume:
		if err := i.resume(ctx); err != nil {
			return "", err
		}
		did = "goes on: " + d.why
		if rec.Trial == nil {
			return did, nil
		}
		// What it was held for does not count for its time.
		rec.Trial.Began = w.moment().Awake
	case actCut:
		if err := i.cutPower(ctx, i.proc); err != nil {
			return "", err
		}
		noteEnd(&rec.Ends, End{Time: now, At: w.moment(), Why: d.why})
		rec.Process, i.proc = nil, vm.Process{}
		rec.homeless()
		did = "its power was cut: " + d.why
	case actNoteEnd:
		// Only what ends on a host that goes on counts against it.
		if rec.Process.Boot == w.boot {
			noteEnd(&rec.Ends, End{Time: now, At: w.moment(), Why: d.why})
		}
		rec.Process = nil
		rec.homeless()
		did = "ended: " + d.why
	case actKnowDisk:
		rec.Data.FileSystem = w.disk
		did = d.why
	case actRecord:
		limit, cancel := context.WithTimeout(ctx, recordLimit)
		defer cancel()
		s, err := i.session(limit)
		if err != nil {
			return "", err
		}
		err = i.writeHistoryOn(ctx, s)
		if err = errors.Join(err, s.Close()); err != nil {
			return "", fmt.Errorf("the history of its disk is not written on: %w", err)
		}
		did = fmt.Sprintf("its disk is at epoch %d", rec.Continuity.Epoch)
	case actSwap:
		if err := i.finishSwap(now); err != nil {
			return "", err
		}
		return "its data disk is another: " + d.why, nil
	case actChallenge:
		rec.Continuity, rec.Challenge = rec.Challenge, nil
		did = d.why
	case actKeep:
		return i.keepData(ctx, now)
	case actBack:
		rec.Swap, rec.GivenUp = i.swapKept(now), rec.Continuity
		rec.Trial.Data, rec.Trial.Former = DataGone, rec.Swap.Keep
		did = "its data disk goes back to " + rec.Swap.From
	case actForget:
		rec.Ends.InARow = 0
		did = d.why
	case actCommit:
		t := rec.Trial
		i.outcome(true, "", now)
		if t.Data == DataGone {
			rec.Kept, rec.Outcome.Disk = nil, i.filePath(t.Former)
		}
		former := rec.Active
		rec.Previous, rec.Active, rec.Ends.InARow = former, t.Slot, 0
		if rec.Slots[former].Digest == rec.Slots[t.Slot].Digest {
			// It was damaged, and is nothing to go back to.
			rec.Previous = ""
			delete(rec.Slots, former)
		}
		did = t.Kind + " to slot " + string(t.Slot) + " committed: " + d.why
	case actFail:
		rec.Trial.Why, rec.Waiting = d.why, nil
		did = rec.Trial.Kind + " failed: " + d.why
	case actReturn:
		t := rec.Trial
		i.outcome(false, t.Why, now)
		switch t.Data {
		case DataKept:
			rec.Swap = i.swapKept(now)
			rec.Kept, rec.Outcome.Disk = nil, i.filePath(rec.Swap.Keep)
		case DataGone:
			rec.Swap = i.backFrom(t.Former)
		}
		rec.Process = nil
		if rec.Previous != t.Slot {
			// What failed as an update is no slot to go back to.
			delete(rec.Slots, t.Slot)
		}
		did = "back to slot " + string(rec.Active)
	}
	return did, i.saveRecord()
}

// noteEnd counts an end.
func noteEnd(e *Ends, end End) {
	e.Total++
	e.InARow++
	e.Last = &end
}

// outcome ends the trial.
func (i *Instance) outcome(committed bool, why string, now time.Time) {
	t := i.rec.Trial
	i.rec.Outcome = &Outcome{
		Kind: t.Kind, From: i.rec.Slots[i.rec.Active].Digest, To: i.rec.Slots[t.Slot].Digest,
		Time: now, Committed: committed, Why: why,
	}
	i.rec.Trial = nil
}

// startSlot starts the slot that is to run. What keeps a machine from starting
// is written down, like an end or as what is waited for: the next step decides
// what follows from it.
func (i *Instance) startSlot(ctx context.Context, why string, now time.Time, at Moment) (did string, err error) {
	slot, waiting := i.rec.Active, i.rec.Waiting
	i.rec.Waiting = nil
	if t := i.rec.Trial; t != nil {
		slot = t.Slot
		t.Attempt++
		t.Began = at.Awake
	}
	// Killed half-way it would only have to be started again.
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), startLimit)
	defer cancel()
	err = i.boot(limited, slot)
	if err == nil {
		return fmt.Sprintf("started from slot %s as process %d under %s (%s)", slot, i.proc.PID, i.rec.Machine.Hypervisor, why), nil
	}
	if errors.Is(limited.Err(), context.DeadlineExceeded) {
		err = fault.Errorf(fault.Environment, "this machine did not start it within %v: %w", startLimit, err).
			Hintf("see what keeps this machine busy")
	}
	i.proc, i.rec.Process = vm.Process{}, nil
	switch t := i.rec.Trial; {
	case fault.ClassOf(err) == fault.Environment:
		i.rec.Waiting = waitAgain(waiting, now, at, err)
		if t != nil {
			t.Attempt--
		}
	case t != nil:
		t.Why = "it does not start: " + err.Error()
	default:
		noteEnd(&i.rec.Ends, End{Time: now, At: at, Why: err.Error(), Class: fault.ClassOf(err), Hint: fault.HintOf(err)})
	}
	return "does not start: " + err.Error(), i.saveRecord()
}

// boot starts the machine from a slot.
func (i *Instance) boot(ctx context.Context, slot SlotName) error {
	dir := i.slotDir(slot)
	m, err := loadSlot(dir, i.rec.Slots[slot].Digest)
	if err != nil {
		return i.damaged(slot, err)
	}
	i.manifest, i.rec.Slot = m, slot
	i.rec.Bundle = BundleRef{Path: dir, Digest: i.rec.Slots[slot].Digest}
	return i.damaged(slot, i.start(ctx))
}

// damaged says of an error about the content of a slot what mends it.
func (i *Instance) damaged(slot SlotName, err error) error {
	if err == nil || fault.ClassOf(err) != fault.Verification && fault.ClassOf(err) != fault.Usage {
		return err
	}
	return fault.Errorf(fault.Verification, "the bundle in slot %s is damaged: %w", slot, err).
		Hintf("repair it with the same bundle, or take another: sovereign-build update %s %s", i.Name(), i.rec.Slots[slot].Source)
}

func (i *Instance) filePath(name string) string { return filepath.Join(i.dir, name) }

func (i *Instance) slotDir(s SlotName) string { return filepath.Join(i.dir, slotsDir, string(s)) }

// Wanted is what the record says, without taking the instance's lock. Of one
// that is not there nothing is wanted.
func (r *Runtime) Wanted(name string) (Wanted, error) {
	i, err := r.load(name)
	if errors.Is(err, fs.ErrNotExist) {
		return Down, nil
	}
	if err != nil {
		return Down, err
	}
	return i.rec.Wanted, nil
}

// Settle takes steps until there is nothing to do at once: for who keeps a
// machine of his own, without sovereignd. The error of a machine that is wanted
// up and does not run says why, in the class of what kept it from starting.
func (r *Runtime) Settle(ctx context.Context, name string) (*Instance, error) {
	for {
		step, err := r.Step(ctx, name, Seen{})
		if err != nil {
			return nil, err
		}
		if step.Did != "" {
			continue
		}
		i, err := r.Instance(ctx, name)
		if err != nil || i.rec.Wanted != Up || i.Runs() {
			return i, err
		}
		if i.rec.Process == nil {
			return i, i.keptFrom()
		} // else it has ended just now
	}
}

// keptFrom is the error of a machine that is wanted up and does not run.
func (i *Instance) keptFrom() error {
	class, why, hint := fault.Device, "it is about to start", "read "+i.ConsoleFile()
	switch last := i.rec.Ends.Last; {
	case i.rec.Waiting != nil:
		class, why, hint = fault.Environment, i.rec.Waiting.Why, i.rec.Waiting.Hint
	case last != nil:
		why = last.Why
		if last.Class != 0 {
			class, hint = last.Class, last.Hint
		}
	}
	err := fault.Errorf(class, "%s does not run: %s", i.Name(), why)
	if hint == "" {
		return err
	}
	return err.Hintf("%s", hint)
}
