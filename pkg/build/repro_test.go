package build

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// TestReproSteps has a step that came out the same, one that did not, and one
// whose notes alone differ.
func TestReproSteps(t *testing.T) {
	b := newTestBuilder(t)
	again := func(name string) bool { return doneAgain(name, nil) }
	blank, err := b.store.Forgetful(filepath.Join(t.TempDir(), "memory"), again)
	if err != nil {
		t.Fatal(err)
	}
	put := func(text string) store.Digest {
		d, _, err := b.store.Put(t.Context(), strings.NewReader(text), "")
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for name, outputs := range map[string][2]string{
		"kernel amd64":    {"Linux, built today", "Linux, built then"},
		"port zlib amd64": {"same", "same"},
		"go toolchain":    {"fetched", "fetched otherwise"},
	} {
		for i, st := range []*store.Store{b.store, blank} {
			out := outputsOf(put(outputs[i]), put([2]string{"old words", "new words"}[i]))
			if err := st.PutAction(store.Key([]byte(name)), store.Action{Name: name, Outputs: out}); err != nil {
				t.Fatal(err)
			}
		}
	}
	steps, err := reproSteps(t.Context(), b.store, blank, again)
	if err != nil {
		t.Fatal(err)
	}
	if len(steps) != 2 || steps[0].Name != "kernel amd64" || steps[0].Same || steps[1].Name != "port zlib amd64" || !steps[1].Same {
		t.Fatalf("%+v", steps)
	}
	out := steps[0].Outputs
	if len(out) != 1 || len(out[0].Changes) != 1 || out[0].Changes[0].Path != "bzImage" || out[0].Changes[0].Bytes.Offset != int64(len("Linux, built t")) {
		t.Errorf("%+v", out)
	}

	// A stand-in for diffoscope: it ends with 1 for a difference, with more
	// when it fails.
	bin, dir := t.TempDir(), t.TempDir()
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	for code, want := range map[string]bool{"1": true, "2": false} {
		script := "#!/bin/sh\n[ \"$1\" = --text ] && cmp \"$3\" \"$4\" >\"$2\"\nexit " + code + "\n"
		if err := os.WriteFile(filepath.Join(bin, "diffoscope"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := diffoscope(t.Context(), dir, b.store, steps); (err == nil) != want {
			t.Errorf("diffoscope ends with %s: %v", code, err)
		}
	}
	report, err := os.ReadFile(filepath.Join(dir, "kernel-amd64-bzImage.diffoscope.txt"))
	if err != nil || !strings.Contains(string(report), "differ") {
		t.Errorf("%q, %v", report, err)
	}
}

func outputsOf(image, metas store.Digest) map[string]store.Digest {
	return map[string]store.Digest{"bzImage": image, metasOutput: metas}
}

// What a step of the second build left stays where its log is: the error names
// that. Nothing else that goes wrong leaves anything.
func TestReproKeepsTheLog(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		kept int
	}{
		{"a step that fails", fault.Errorf(fault.Step, "%w", &engine.StepError{Name: "lib 1.0-r1", ExitCode: 1}), 1},
		{"an engine that is gone", fault.Errorf(fault.Environment, "the engine is gone"), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			built := false
			w.step = func(_ context.Context, name string) error {
				switch {
				case name != "lib 1.0-r1":
					return nil
				case !built:
					built = true
					return nil
				}
				return c.err
			}
			if _, err := w.open().Repro(t.Context()); !errors.Is(err, c.err) {
				t.Fatalf("got %v", err)
			}
			left, err := os.ReadDir(filepath.Join(w.cache, "repro"))
			if err != nil {
				t.Fatal(err)
			}
			if len(left) != c.kept {
				t.Errorf("left: %v", left)
			}
		})
	}
}
