package machine

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// runByOldVersion leaves a machine that runs from its bundle's directory and a
// record of schema 3 in which nothing is wanted of it.
func (f *fixture) runByOldVersion(t *testing.T) *Instance {
	t.Helper()
	i := f.start(t, UpOptions{})
	f.makeOld(t, i.rec, func(record map[string]any) {})
	i, err := f.Instance(t.Context(), "sql")
	if err != nil {
		t.Fatal(err)
	}
	if i.rec.Wanted != notAdopted || i.rec.Active != "" || !i.Runs() {
		t.Fatalf("record %+v", i.rec)
	}
	return i
}

// makeOld writes a record as a version before schema 4 had it of a machine that
// was started from a bundle's directory.
func (f *fixture) makeOld(t *testing.T, rec record, change func(record map[string]any)) {
	t.Helper()
	rec.Bundle.Path = f.bundle
	rec.installed = installed{}
	text, err := json.Marshal(rec)
	if err != nil {
		t.Fatal(err)
	}
	var old map[string]any
	if err := json.Unmarshal(text, &old); err != nil {
		t.Fatal(err)
	}
	old["schema"] = 3
	change(old)
	if text, err = json.Marshal(old); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(f.instanceDir("sql"), recordFile), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// kill ends the machine's process behind everybody's back.
func (i *Instance) kill(t *testing.T) {
	t.Helper()
	if err := errors.Join(i.proc.Signal(unix.SIGKILL), i.proc.Wait(t.Context())); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) loaded(t *testing.T) *Instance {
	t.Helper()
	i, err := f.Instance(t.Context(), "sql")
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// A machine that an older version started and that runs is wanted up, and is
// not started again when it ends; what is left is taken up by the next up.
func TestTakeOver(t *testing.T) {
	f := setup(t, "quick")
	i := f.runByOldVersion(t)
	process := i.proc
	if s, err := i.Status(t.Context()); err != nil || s.State != Running || s.Supervision != nil {
		t.Errorf("before: %+v, %v", s, err)
	}
	if step := f.step(t, Seen{}); !strings.Contains(step.Did, "taken over from an older version") || step.Wanted != Up || step.Process == nil || *step.Process != process {
		t.Errorf("%+v", step)
	}
	if step := f.step(t, Seen{}); step.Did != "" {
		t.Errorf("did %q", step.Did)
	}
	i = f.loaded(t)
	if i.proc != process || i.rec.Policy.Restart != RestartNever || i.rec.Active != "" {
		t.Errorf("record %+v", i.rec)
	}
	if _, err := i.Restart(t.Context(), 0); fault.ClassOf(err) != fault.Usage || !strings.Contains(fault.HintOf(err), "up sql") {
		t.Errorf("restart of what is not installed: %v", err)
	}
	if _, err := f.Update(t.Context(), "sql", f.bundle, 0, nil); fault.ClassOf(err) != fault.Usage {
		t.Errorf("update of what is not installed: %v", err)
	}
	i.kill(t)
	if step := f.step(t, Seen{}); !strings.HasPrefix(step.Did, "ended") || step.Wanted != Down || step.Process != nil {
		t.Errorf("%+v", step)
	}
	if step := f.step(t, Seen{}); step.Did != "" {
		t.Errorf("did %q", step.Did)
	}

	// The bundle's directory is copied when it is wanted up again.
	before, err := os.Stat(i.dataPath())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Up(t.Context(), "sql", UpOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	i, err = f.Settle(t.Context(), "sql")
	if err != nil || i.rec.Active != "a" || i.rec.Slot != "a" || i.rec.Bundle.Path != i.slotDir("a") {
		t.Errorf("%+v, %v", i, err)
	}
	if now, err := os.Stat(i.dataPath()); err != nil || !os.SameFile(before, now) {
		t.Errorf("another data disk: %v", err)
	}
}

// The starter was killed before it wrote down the process.
func TestTakeOverOfAnUnrecordedMachine(t *testing.T) {
	f := setup(t, "quick")
	i := f.runByOldVersion(t)
	f.makeOld(t, i.rec, func(record map[string]any) { delete(record, "process") })
	if step := f.step(t, Seen{}); step.Process == nil || *step.Process != i.proc || step.Wanted != Up {
		t.Errorf("%+v", step)
	}
	if got := f.loaded(t); got.rec.Process == nil || *got.rec.Process != i.proc {
		t.Errorf("record %+v", got.rec)
	}
}

// One that does not run is down, whether it was stopped or had ended.
func TestTakeOverOfWhatIsDown(t *testing.T) {
	for _, stopped := range []bool{true, false} {
		f := setup(t, "quick")
		i := f.runByOldVersion(t)
		i.kill(t)
		if stopped {
			f.makeOld(t, i.rec, func(record map[string]any) { delete(record, "process") })
		}
		if step := f.step(t, Seen{}); step.Wanted != Down || step.Process != nil {
			t.Errorf("%+v", step)
		}
		want := Exited
		if stopped {
			want = Stopped
		}
		if s, err := f.loaded(t).Status(t.Context()); err != nil || s.State != want || *f.hv.starts != 1 {
			t.Errorf("%+v, %v, %d starts", s, err, *f.hv.starts)
		}
	}
}

// Up, down and another version's sovereignd may all come before it was taken
// over.
func TestCommandsBeforeTakeOver(t *testing.T) {
	t.Run("up", func(t *testing.T) {
		f := setup(t, "quick")
		process := f.runByOldVersion(t).proc
		if _, err := f.Up(t.Context(), "sql", UpOptions{Restart: RestartAlways}, nil); err != nil {
			t.Fatal(err)
		}
		i, err := f.Settle(t.Context(), "sql")
		if err != nil || i.proc != process || i.rec.Slot != "a" || i.rec.Policy.Restart != RestartAlways {
			t.Errorf("%+v, %v", i.rec, err)
		}
		if _, err := i.Restart(t.Context(), 0); err != nil {
			t.Error(err)
		}
		if i, err = f.Settle(t.Context(), "sql"); err != nil || i.proc == process || i.rec.Bundle.Path != i.slotDir("a") {
			t.Errorf("%+v, %v", i.rec, err)
		}
	})
	t.Run("down", func(t *testing.T) {
		f := setup(t, "quick")
		i := f.runByOldVersion(t)
		if res, err := i.Stop(t.Context(), 0); err != nil || !res.WasRunning || res.Forced {
			t.Errorf("%+v, %v", res, err)
		}
		if step := f.step(t, Seen{}); step.Did != "" || step.Wanted != Down {
			t.Errorf("%+v", step)
		}
	})
	t.Run("halt", func(t *testing.T) {
		f := setup(t, "quick")
		i := f.runByOldVersion(t)
		f.step(t, Seen{})
		if res, err := i.Halt(t.Context(), 0); err != nil || !res.WasRunning {
			t.Errorf("%+v, %v", res, err)
		}
		if step := f.step(t, Seen{}); step.Did != "" || step.Wanted != Down {
			t.Errorf("there is nothing to start it from: %+v", step)
		}
	})
	t.Run("run of another bundle", func(t *testing.T) {
		f := setup(t, "quick")
		f.runByOldVersion(t)
		writeBundle(t, f.bundle+"-2", "two")
		if _, err := f.Start(t.Context(), f.bundle+"-2", UpOptions{}); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "runs already") {
			t.Errorf("got %v", err)
		}
	})
}

// A bundle that is gone is said to be, and nothing is lost by it.
func TestUpOfAVanishedBundle(t *testing.T) {
	f := setup(t, "quick")
	i := f.runByOldVersion(t)
	if err := os.Rename(f.bundle, f.bundle+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Up(t.Context(), "sql", UpOptions{}, nil); err == nil || !strings.Contains(err.Error(), f.bundle) {
		t.Errorf("got %v", err)
	}
	if now := f.loaded(t); now.proc != i.proc {
		t.Errorf("process %+v", now.proc)
	}
	if err := os.Rename(f.bundle+".away", f.bundle); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Up(t.Context(), "sql", UpOptions{}, nil); err != nil {
		t.Error(err)
	}
}

// An installed machine that was down and run from another directory goes on
// from its slot.
func TestTakeOverOfWhatIsInstalled(t *testing.T) {
	f := setup(t, "quick")
	i := f.start(t, UpOptions{})
	slots := i.rec.installed
	writeBundle(t, f.bundle, "two")
	f.makeOld(t, i.rec, func(record map[string]any) {
		record["slots"], record["active"], record["policy"] = slots.Slots, slots.Active, DefaultPolicy()
		record["bundle"] = BundleRef{Path: f.bundle, Digest: "sha256:two"}
	})
	if step := f.step(t, Seen{}); step.Wanted != Up || step.Process == nil {
		t.Errorf("%+v", step)
	}
	if _, err := f.loaded(t).Restart(t.Context(), 0); fault.ClassOf(err) != fault.Usage {
		t.Errorf("restart into another bundle: %v", err)
	}
	if _, err := f.Up(t.Context(), "sql", UpOptions{}, nil); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "not the bundle that is installed") {
		t.Errorf("up: %v", err)
	}
	f.stopped(t)
	if _, err := f.Up(t.Context(), "sql", UpOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	if i, err := f.Settle(t.Context(), "sql"); err != nil || i.rec.Slot != "a" || i.rec.Bundle.Path != i.slotDir("a") {
		t.Errorf("%+v, %v", i.rec, err)
	}
}

// Run puts a bundle in the place of another one that is down, and keeps that to
// go back to.
func TestReplace(t *testing.T) {
	f := setup(t, "quick")
	i := f.start(t, UpOptions{Ports: map[int]int{9187: 0}})
	second := f.bundle + "-2"
	writeBundle(t, second, "two")
	if _, err := f.Start(t.Context(), second, UpOptions{}); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "runs already") {
		t.Errorf("while it runs: %v", err)
	}
	i.kill(t)
	if _, err := f.Start(t.Context(), second, UpOptions{}); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "wanted up") {
		t.Errorf("while it is wanted up: %v", err)
	}
	f.stopped(t)
	if _, err := f.Install(t.Context(), second, "", UpOptions{}, nil); fault.ClassOf(err) != fault.Usage || !strings.Contains(fault.HintOf(err), "update") {
		t.Errorf("without Replace: %v", err)
	}
	i, err := f.Start(t.Context(), second, UpOptions{})
	if err != nil || i.rec.Active != "b" || i.rec.Previous != "a" || i.rec.Slot != "b" {
		t.Fatalf("%+v, %v", i.rec, err)
	}
	if text, err := os.ReadFile(filepath.Join(i.rec.Bundle.Path, "root.img")); err != nil || string(text) != "tworoot" {
		t.Errorf("%q, %v", text, err)
	}
	if cancelled, err := f.Rollback(t.Context(), "sql", 0); err != nil || cancelled {
		t.Errorf("rollback: %v, %v", cancelled, err)
	}
	if i := f.loaded(t); !untried(i.rec.Trial) || i.rec.Trial.Slot != "a" {
		t.Errorf("trial %+v", i.rec.Trial)
	}
	f.stopped(t)
	// What was not tried yet is of no account.
	if i, err = f.Start(t.Context(), f.bundle, UpOptions{}); err != nil || i.rec.Active != "a" || i.rec.Trial != nil {
		t.Errorf("%+v, %v", i.rec, err)
	}
}

// TestReplaceKilledAtEveryStep kills run after each thing that is done: there is
// a bundle that boots at every moment, and the same command again is enough.
func TestReplaceKilledAtEveryStep(t *testing.T) {
	for n, last := 1, false; !last; n++ {
		f := setup(t, "good")
		writeFakeBundle(t, f.bundle, "one", "fake=quick")
		second := f.bundle + "-2"
		writeFakeBundle(t, second, "two", "fake=quick")
		disk := f.mark(t)
		f.start(t, UpOptions{})
		f.stopped(t)
		at := f.killed(t, n, "replace", second)
		last = at == ""
		t.Logf("%d: %s", n, at)
		f.intact(t, disk)
		f.open(t)
		if i := f.loaded(t); i.rec.Wanted == Down {
			// Nobody need know of the attempt.
			if err := f.verifyActive(t, i, "one"); err != nil {
				t.Error(err)
			}
			if _, err := f.Install(t.Context(), second, "", UpOptions{Replace: true}, nil); err != nil {
				t.Fatal(err)
			}
		}
		i, err := f.Settle(t.Context(), "sql")
		if err != nil {
			t.Fatal(err)
		}
		if err := f.verifyActive(t, i, "two"); err != nil || i.rec.Process == nil || i.rec.Slot != i.rec.Active {
			t.Errorf("%+v, %v", i.rec, err)
		}
		f.intact(t, disk)
		if t.Failed() {
			t.Fatalf("killed after step %d, %q", n, at)
		}
		if i.proc != (vm.Process{}) {
			i.kill(t)
		}
	}
}

func (f *fixture) verifyActive(t *testing.T, i *Instance, root string) error {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(i.slotDir(i.rec.Active), "root.img"))
	if err == nil && string(text) != root+"root" {
		t.Errorf("slot %s holds %q, want %q", i.rec.Active, text, root)
	}
	return errors.Join(err, i.verifySlot(t.Context(), i.rec.Active))
}
