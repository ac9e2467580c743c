package torture

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

func TestOptions(t *testing.T) {
	for _, o := range []Options{{}, {Rounds: -1}, {Rounds: 1, Only: []string{"cuts", "nothing"}}} {
		if _, err := o.check(); fault.ClassOf(err) != fault.Usage {
			t.Errorf("%+v: %v", o, err)
		}
	}
	o := Options{Rounds: 1}
	all, err := o.check()
	if err != nil || slices.ContainsFunc(all, func(f family) bool { return f.demand }) || len(all) < 8 {
		t.Errorf("all: %v, %v", familyNames(all), err)
	}
	o.Only = []string{"bounce", "cuts"}
	if some, err := o.check(); err != nil || strings.Join(familyNames(some), " ") != "cuts bounce" {
		t.Errorf("some: %v, %v", familyNames(some), err)
	}
}

// The same seed plans the same, and every kind of cut meets both kinds of
// disk.
func TestPlans(t *testing.T) {
	draw := func(seed uint64) []cutPlan { return plans(rand.New(rand.NewPCG(seed, 1)), 20) }
	if !slices.Equal(draw(3), draw(3)) || slices.Equal(draw(3), draw(4)) {
		t.Error("the plan does not follow from the seed")
	}
	seen := map[string]int{}
	all := draw(3)
	for _, p := range all {
		seen[rowKey(p.Kind, p.Lossy)]++
		if p.Share < 0 || p.Share >= 1 || p.Work < 200*time.Millisecond || p.Work > 5*time.Second {
			t.Errorf("plan %+v", p)
		}
	}
	for _, kind := range []string{cutFirst, cutLoad, cutRecovery} {
		for _, lossy := range []bool{false, true} {
			if seen[rowKey(kind, lossy)] < 1 {
				t.Errorf("%s, lossy=%t: %d of 20", kind, lossy, seen[rowKey(kind, lossy)])
			}
		}
	}
	if !slices.IsSortedFunc(all, func(a, b cutPlan) int { return a.group() - b.group() }) {
		t.Error("rounds that share a machine do not stand together")
	}
}

func TestOutages(t *testing.T) {
	for seed := range uint64(20) {
		all := outages(rand.New(rand.NewPCG(seed, 2)))
		if len(all) < 20 || len(all) > 200 {
			t.Errorf("seed %d: %d outages in a day", seed, len(all))
		}
		end := time.Duration(0)
		for _, o := range all {
			if o.At < end || o.For < time.Second || o.For > time.Hour || o.At+o.For > simulated {
				t.Fatalf("seed %d: %+v after %v", seed, o, end)
			}
			end = o.At + o.For
		}
	}
}

// What is sent as garbage never is the one request that would stop the guest.
func TestGarbageIsHarmless(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 500 {
		if b := badRequest(rng); bytes.Contains(b, []byte("shutdown")) || len(b) == 0 {
			t.Fatalf("%q", b)
		}
	}
}

func TestOverNBD(t *testing.T) {
	args := []string{
		"-blockdev", "driver=file,node-name=disk0-file,filename=/proc/self/fd/5,read-only=on",
		"-blockdev", "driver=file,node-name=disk1-file,filename=/proc/self/fd/6,aio=threads,discard=unmap",
		"-blockdev", "driver=raw,node-name=disk1,file=disk1-file",
		"-blockdev", "driver=file,node-name=disk2-file,filename=/proc/self/fd/7,aio=threads,cache.direct=off,cache.no-flush=on,discard=unmap",
	}
	got, err := overNBD(args)
	if err != nil {
		t.Fatal(err)
	}
	want := slices.Clone(args)
	want[3] = "driver=nbd,node-name=disk1-file,server.type=unix,server.path=nbd.sock,cache.direct=off,cache.no-flush=off"
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if _, err := overNBD(args[:2]); err == nil {
		t.Error("a disk that is not there was replaced")
	}
}

func TestReport(t *testing.T) {
	r := &Report{Schema: 1, Seed: 7, Rounds: 3, Commit: "abc", Bundle: "sha256:0123456789abcdef", Hypervisor: "QEMU 7.2.22", Accel: "tcg",
		Host: "2 × CPU", Started: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Seconds: 90,
		Results: []Result{
			{Family: "cuts", Fault: "power cut", Times: 3, Heal: heal([]time.Duration{3 * time.Second, time.Second, 2 * time.Second}), Figures: []Figure{figure("in doubt", "%d", 4)}},
			{Family: "kills", Fault: "kill", Times: 1, Problems: []string{"a row lost"}},
			{Family: "kills", Fault: "other", Skipped: "no such service"},
		}}
	if r.Failed() != 1 {
		t.Errorf("failed: %d", r.Failed())
	}
	var text bytes.Buffer
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"power cut  3      0         2.00 s  3.00 s  in doubt 4", "kill: a row lost", "not tried: no such service",
		"Seed 7, 3 rounds, in 1m30s on 2026-01-02: commit abc, bundle sha256:0123456789ab, QEMU 7.2.22 (tcg), 2 × CPU."} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
	md := r.Markdown(Ran{Family: "cuts", Started: r.Started, Seconds: 61})
	if !strings.Contains(md, "| power cut | 3 | 0 | 2.00 s | 3.00 s | in doubt 4 |\n") || !strings.Contains(md, "in 1m1s on 2026-01-02") || strings.Contains(md, "kill") {
		t.Errorf("markdown:\n%s", md)
	}
	var back Report
	var buf bytes.Buffer
	if err := r.WriteJSON(&buf); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(buf.Bytes(), &back); err != nil || back.Results[0].Heal.Worst != 3 {
		t.Errorf("json: %+v, %v", back, err)
	}
	if heal(nil) != nil {
		t.Error("no times have a median")
	}
}

func TestOwnShare(t *testing.T) {
	boot := agent.Boot{Phases: []agent.Phase{{Name: "kernel", EndMS: 900}, {Name: "network", StartMS: 910, EndMS: 1100},
		{Name: "data disk: mount", StartMS: 990, EndMS: 1030}, {Name: "db: setup", StartMS: 1040, EndMS: 1200}, {Name: "db: start", StartMS: 1200}}}
	if own := ownShare(boot, []agent.Service{{Name: "vpn"}, {Name: "db"}}); own != 140*time.Millisecond {
		t.Errorf("%v, not 140ms", own)
	}
}

func TestQuartiles(t *testing.T) {
	if low, median, high := quartiles([]float64{9, 1, 5, 3, 7}); low != 3 || median != 5 || high != 7 {
		t.Errorf("of five: %v %v %v", low, median, high)
	}
	if low, median, high := quartiles([]float64{2, 1}); low != 1.25 || median != 1.5 || high != 1.75 {
		t.Errorf("of two: %v %v %v", low, median, high)
	}
	if low, _, high := quartiles([]float64{4}); low != 4 || high != 4 {
		t.Errorf("of one: %v %v", low, high)
	}
	// Each round against the same round of the base, however fast that was.
	if text := differs([]float64{100, 50, 200}, []float64{90, 40, 200}); text != "-10 %, half within -15 to -5" {
		t.Error(text)
	}
}
