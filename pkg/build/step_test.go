package build

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/store"
)

func newTestBuilder(t *testing.T) *Builder {
	t.Helper()
	st, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	o, err := newOptions([]Option{WithCacheDir(t.TempDir())})
	if err != nil {
		t.Fatal(err)
	}
	return &Builder{opts: o, store: st}
}

func TestCachedSaysWhyItMissed(t *testing.T) {
	b := newTestBuilder(t)
	var ran, run, cached int
	do := func(ctx context.Context) (outputs, error) {
		ran++
		d, _, err := b.store.Put(ctx, strings.NewReader("made"), "")
		return outputs{"file": d}, err
	}
	for _, step := range []struct {
		in     inputs
		runs   int
		reason string // of the miss, empty for a hit
	}{
		{inputs{"a": "1", "b": "1"}, 1, "not built before"},
		{inputs{"b": "1", "a": "1"}, 1, ""},
		{inputs{"a": "2", "c": "1"}, 2, "a changed, b removed, c added"},
		{inputs{"a": "1", "b": "1"}, 2, ""},
	} {
		b.begin()
		out, err := b.cached(t.Context(), "a step", step.in, stepCompiled, do)
		if err != nil {
			t.Fatal(err)
		}
		if ran != step.runs {
			t.Errorf("%v: %d runs, want %d", step.in, ran, step.runs)
		}
		if !b.store.Has(out["file"]) {
			t.Errorf("%v: output %s is not in the store", step.in, out["file"])
		}
		run, cached = run+b.result.StepsRun, cached+b.result.StepsCached
		got := strings.Join(b.result.Reasons, "; ")
		if want := step.reason; got != want && got != "a step: "+want {
			t.Errorf("%v: reason %q, want %q", step.in, got, want)
		}
	}
	if run != 2 || cached != 2 {
		t.Errorf("counted %d run and %d cached, want 2 and 2", run, cached)
	}
}

func TestCachedKeepsNothingOfAFailure(t *testing.T) {
	b := newTestBuilder(t)
	boom := errors.New("boom")
	in := inputs{"a": "1"}
	_, err := b.cached(t.Context(), "a step", in, stepCompiled, func(context.Context) (outputs, error) { return nil, boom })
	if !errors.Is(err, boom) {
		t.Fatalf("error %v, want boom", err)
	}
	key, err := in.key()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, err := b.store.Action(key); ok || err != nil {
		t.Errorf("a failed step is in the action cache (%v)", err)
	}
}

func TestPlanRunsNothing(t *testing.T) {
	b := newTestBuilder(t)
	b.planning = true
	_, err := b.cached(t.Context(), "a step", inputs{"a": "1"}, stepCompiled, func(context.Context) (outputs, error) {
		t.Error("a plan ran a step")
		return nil, nil
	})
	if reasons := b.plan.Reasons(); !errors.Is(err, errPlanned) || len(reasons) != 1 {
		t.Errorf("error %v and reasons %v, want a plan's with one", err, reasons)
	}
}
