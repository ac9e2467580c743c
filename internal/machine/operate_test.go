package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/internal/machine/machinetest"
	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// operatorWord makes the test binary a program that works on an instance and
// kills itself after the Nth thing it did: operatorWord STATE N VERB [BUNDLE].
const operatorWord = "sovereign-operator"

func operate(args []string) {
	n, err := strconv.Atoi(args[1])
	if err == nil {
		err = operateOn(args[0], n, args[2], args[3])
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

func operateOn(state string, n int, verb, dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	r, err := Open(state, WithHypervisor(newFakeHV("good")))
	if err != nil {
		return err
	}
	done := 0
	r.did = func(what string) {
		if done++; done == n {
			fmt.Print(what)
			if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
				panic(err)
			}
			select {}
		}
	}
	switch verb {
	case "install":
		_, err = r.Install(ctx, dir, "", UpOptions{}, nil)
	case "replace":
		_, err = r.Install(ctx, dir, "", UpOptions{Replace: true}, nil)
	case "update":
		_, err = r.Update(ctx, "sql", dir, 10*time.Minute, nil)
	case "rollback":
		_, err = r.Rollback(ctx, "sql", 10*time.Minute)
	case "update-kept":
		_, err = r.UpdateFrom(ctx, "sql", Source{Dir: dir, KeepData: true}, 10*time.Minute, nil)
	case "rollback-data":
		_, err = r.Rollback(ctx, "sql", 10*time.Minute, runtime.WithData)
	case "in-place":
		err = restoreInPlace(ctx, r)
	case "as":
		return restoreAs(ctx, r, dir)
	case "down":
		var i *Instance
		if i, err = r.Instance(ctx, "sql"); err == nil {
			_, err = i.Stop(ctx, 0)
		}
		return err
	}
	if err != nil {
		return err
	}
	return settle(ctx, r)
}

func newFakeHV(mode string) machinetest.HV { return machinetest.New(mode) }

// settle does what a keeper does, until the instance is as wanted.
func settle(ctx context.Context, r *Runtime) error {
	for {
		i, err := r.Instance(ctx, "sql")
		if err != nil {
			return err
		}
		seen := Seen{Process: i.proc}
		if i.proc != (vm.Process{}) {
			limit, cancel := context.WithTimeout(ctx, time.Second)
			seen.Guest, err = i.askStatus(limit)
			cancel()
			if err != nil && ctx.Err() != nil {
				return err
			}
			if Healthy(seen.Guest) {
				seen.Healthy = soak
			}
		}
		step, err := r.Step(ctx, "sql", seen)
		if err != nil {
			return err
		}
		if step.Did != "" {
			continue
		}
		if i, err = r.load("sql"); err != nil {
			return err
		}
		gaveUp := step.Process == nil && !allows(i.rec.Policy, i.rec.Ends.InARow)
		ready := step.Process != nil && Healthy(seen.Guest)
		if i.rec.Trial == nil && (i.rec.Wanted != Up || ready || gaveUp) {
			return nil
		}
		if err := pause.For(ctx, 5*time.Millisecond); err != nil {
			return errors.Join(err, fmt.Errorf("not settled: %+v", i.rec))
		}
	}
}

// killed runs an operator and returns what it was killed after, "" when it
// came to its end.
func (f *fixture) killed(t *testing.T, n int, verb, dir string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := exec.Command(self, operatorWord, f.state, strconv.Itoa(n), verb, dir)
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	if err == nil {
		return ""
	}
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() || status.Signal() != syscall.SIGKILL {
		t.Fatalf("operator: %v: %s", err, out.String())
	}
	return out.String()
}

// dataMark is written to the data disk, and must be there for ever.
const dataMark = "rows that somebody holds dear"

// mark puts the mark on a data disk that the instance will take up.
func (f *fixture) mark(t *testing.T) os.FileInfo {
	t.Helper()
	dir := filepath.Join(f.state, "instances", "sql")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, dataFile)
	if err := os.WriteFile(path, []byte(dataMark), 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// intact checks what must hold at every moment: the data disk is untouched,
// no second machine was on it, and the active slot can be booted.
func (f *fixture) intact(t *testing.T, disk os.FileInfo) {
	t.Helper()
	dir := filepath.Join(f.state, "instances", "sql")
	text, err := os.ReadFile(filepath.Join(dir, dataFile))
	info, statErr := os.Stat(filepath.Join(dir, dataFile))
	if err != nil || statErr != nil || string(text) != dataMark || !os.SameFile(info, disk) || !info.ModTime().Equal(disk.ModTime()) {
		t.Errorf("the data disk: %.60q, %v, %v", text, info, errors.Join(err, statErr))
	}
	if _, err := os.Stat(filepath.Join(dir, machinetest.TwoMachines)); err == nil {
		t.Error("a second machine was started on the data disk")
	}
	i, err := f.load("sql")
	if errors.Is(err, os.ErrNotExist) {
		return // nothing was installed yet
	}
	if err != nil {
		t.Error(err)
		return
	}
	for name, s := range i.rec.Slots {
		if err := bundle.Verify(t.Context(), i.slotDir(name)); err != nil {
			t.Error(err)
		}
		if _, err := loadSlot(i.slotDir(name), s.Digest); err != nil {
			t.Error(err)
		}
	}
}

// TestKilledAtEveryStep kills whoever works on an instance after each thing
// that is done, and lets another go on.
func TestKilledAtEveryStep(t *testing.T) {
	tests := []struct {
		name, verb, cmdline string
		before              string // another verb that comes first
		want                string // the root of what runs in the end
		committed           bool
	}{
		{name: "install", verb: "install", want: "one"},
		{name: "good update", verb: "update", cmdline: "fake=quick", before: "install", want: "two", committed: true},
		{name: "update that panics", verb: "update", cmdline: "fake=panics", before: "install", want: "one"},
		{name: "update that fails", verb: "update", cmdline: "fake=fails", before: "install", want: "one"},
		{name: "update that does not start", verb: "update", cmdline: "fake=dead", before: "install", want: "one"},
		{name: "rollback", verb: "rollback", before: "update", cmdline: "fake=quick", want: "one", committed: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for n, last := 1, false; !last; n++ {
				f := setup(t, "good")
				writeFakeBundle(t, f.bundle, "one", "fake=quick")
				second := f.bundle + "-2"
				writeFakeBundle(t, second, "two", tt.cmdline)
				disk := f.mark(t)
				dir := f.bundle
				if tt.before != "" {
					f.prepare(t, tt.before, second)
					dir = second
				}
				at := f.killed(t, n, tt.verb, dir)
				last = at == ""
				t.Logf("%d: %s", n, at)
				f.intact(t, disk)
				f.afterKill(t, tt.verb, dir, at, tt.want, tt.committed)
				f.intact(t, disk)
				if t.Failed() {
					t.Fatalf("killed after step %d, %q", n, at)
				}
				f.cutAll(t)
			}
		})
	}
}

// prepare installs the first bundle, and the second as an update.
func (f *fixture) prepare(t *testing.T, verb, second string) {
	t.Helper()
	_, err := f.Install(t.Context(), f.bundle, "", UpOptions{}, nil)
	if err == nil {
		err = settle(t.Context(), f.Runtime)
	}
	if err == nil && verb == "update" {
		if _, err = f.Update(t.Context(), "sql", second, 10*time.Minute, nil); err == nil {
			err = settle(t.Context(), f.Runtime)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// afterKill settles by another Runtime and looks at the result.
func (f *fixture) afterKill(t *testing.T, verb, dir, at, want string, committed bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	f.open(t)
	_, err := f.load("sql")
	if errors.Is(err, os.ErrNotExist) {
		if _, err := f.Install(ctx, dir, "", UpOptions{}, nil); err != nil {
			t.Fatal(err)
		}
	} else if err != nil {
		t.Fatal(err)
	}
	if err := settle(ctx, f.Runtime); err != nil {
		t.Fatal(err)
	}
	i, err := f.load("sql")
	if err != nil {
		t.Fatal(err)
	}
	if i.rec.Outcome == nil && verb != "install" {
		// It was killed before it wrote down what was to be tried; the
		// machine is as it was, and the same command again does it.
		if i.rec.Active != "a" || i.rec.Trial != nil {
			t.Errorf("record %+v", i.rec.installed)
		}
		if verb == "update" {
			if _, err := f.Update(ctx, "sql", dir, 10*time.Minute, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := settle(ctx, f.Runtime); err != nil {
			t.Fatal(err)
		}
		if i, err = f.load("sql"); err != nil {
			t.Fatal(err)
		}
	}
	f.settledAs(t, i, want, verb, committed)
	if left, err := filepath.Glob(filepath.Join(i.dir, slotsDir, copying+"*")); err != nil || len(left) > 0 && at == "" {
		t.Errorf("left: %v, %v", left, err)
	}
}

// settledAs checks which bundle runs and what the record says of the trial.
func (f *fixture) settledAs(t *testing.T, i *Instance, want, verb string, committed bool) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(i.slotDir(i.rec.Active), "root.img"))
	if err != nil || string(text) != want+"root" {
		t.Errorf("slot %s holds %q, %v; want %q", i.rec.Active, text, err, want)
	}
	if i.rec.Slot != i.rec.Active || i.rec.Process == nil || i.rec.Trial != nil {
		t.Errorf("record %+v", i.rec)
	}
	if verb == "install" {
		return
	}
	o := i.rec.Outcome
	if o == nil || o.Kind != verb || o.Committed != committed || (o.Why == "") != committed || o.From == o.To {
		t.Errorf("outcome %+v", o)
	}
	if committed != (i.rec.Previous != "") {
		t.Errorf("previous slot %q", i.rec.Previous)
	}
}

// cutAll ends the fixture's machine.
func (f *fixture) cutAll(t *testing.T) {
	t.Helper()
	i, err := f.Instance(t.Context(), "sql")
	if err != nil {
		t.Fatal(err)
	}
	if i.proc == (vm.Process{}) {
		return
	}
	if err := i.cutPower(t.Context(), i.proc); err != nil {
		t.Error(err)
	}
}
