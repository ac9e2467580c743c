package machine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/internal/machine/machinetest"
)

// A machine whose guest says nothing, and that is in the mode.
func silent(t *testing.T, mode string) (*fixture, *Instance) {
	t.Helper()
	f := setup(t, mode)
	if _, err := f.Install(t.Context(), f.bundle, "", UpOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	if step := f.step(t, Seen{}); !strings.HasPrefix(step.Did, "started") {
		t.Fatalf("did %q", step.Did)
	}
	i, err := f.Instance(t.Context(), "sql")
	if err != nil {
		t.Fatal(err)
	}
	return f, i
}

func (f *fixture) step(t *testing.T, seen Seen) Step {
	t.Helper()
	step, err := f.Step(t.Context(), "sql", seen)
	if err != nil {
		t.Fatal(err)
	}
	return step
}

func TestFullHost(t *testing.T) {
	f, i := silent(t, "")
	full := filepath.Join(i.dir, machinetest.FullFile)
	if err := os.WriteFile(full, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := i.Status(t.Context())
	if err != nil || s.State != Paused || !strings.Contains(s.Message, "goes on by itself when 64 MiB are free") {
		t.Errorf("%+v, %v", s, err)
	}
	// A guest that answers is not looked at.
	if step := f.step(t, Seen{Process: i.proc, Silent: silentMoment - 1}); step.Did != "" {
		t.Errorf("did %q", step.Did)
	}
	if step := f.step(t, Seen{Process: i.proc, Silent: time.Hour}); !strings.Contains(step.Did, "room for its disk again") {
		t.Errorf("did %q", step.Did)
	}
	if _, err := os.Stat(full); err == nil {
		t.Error("it is still held")
	}

	// Whoever ends such a machine wants it to hear.
	if err := os.WriteFile(full, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if res, err := i.Stop(t.Context(), 0); err != nil || res.Forced {
		t.Errorf("%+v, %v", res, err)
	}
	if _, err := os.Stat(full); err == nil {
		t.Error("it was ended while held")
	}
}

func TestHungGuest(t *testing.T) {
	f, i := silent(t, "mute")
	before := i.proc
	seen := Seen{Process: before, Silent: hungAfter}
	if step := f.step(t, seen); !strings.HasPrefix(step.Did, "its power was cut: the guest hangs") || step.Process != nil {
		t.Errorf("%+v", step)
	}
	if alive, err := before.Alive(); err != nil || alive {
		t.Errorf("alive %v, %v", alive, err)
	}
	// What was known of the old process says nothing about the next one.
	step := f.step(t, seen)
	if !strings.HasPrefix(step.Did, "started") || step.Process == nil || *step.Process == before {
		t.Errorf("%+v", step)
	}
	if step := f.step(t, seen); step.Did != "" {
		t.Errorf("did %q", step.Did)
	}
	now, err := f.Instance(t.Context(), "sql")
	if err != nil || now.rec.Ends.InARow != 1 {
		t.Errorf("%+v, %v", now.rec.Ends, err)
	}
}
