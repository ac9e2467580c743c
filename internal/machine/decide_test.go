package machine

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// TestDecide goes through the table in the package comment.
func TestDecide(t *testing.T) {
	here, before := &vm.Process{PID: 7, Start: 8, Boot: "now"}, &vm.Process{PID: 7, Start: 8, Boot: "before"}
	const began = time.Hour // the host's time awake when the machine was started
	ready := &agent.Status{State: agent.StateReady, Services: []agent.Service{{Name: "vpn", Optional: true}}}
	starting := &agent.Status{State: agent.StateStarting, Services: []agent.Service{{Name: "postgresql", State: agent.ServiceStarting}}}
	trial := func(attempt int, why string) *Trial {
		return &Trial{Kind: "update", Slot: "b", Limit: Duration(time.Minute), Steady: Duration(soak), Attempt: attempt, Began: Duration(began), Why: why}
	}
	withData := func(d runtime.TrialData) *Trial { t := trial(0, ""); t.Data = d; return t }
	held := func(t *Trial, optional ...string) *Trial { t.Optional = optional; return t }
	at := func(ago time.Duration) Moment { return Moment{Boot: "now", Awake: Duration(began - ago)} }
	ends := func(n int, ago time.Duration) Ends {
		return Ends{Total: n, InARow: n, Last: &End{At: at(ago), Why: "it was killed"}}
	}
	earlier := Ends{Total: 10, InARow: 10, Last: &End{At: Moment{Boot: "before", Awake: Duration(began)}, Why: "it was killed"}}
	waiting := func(tries int, ago time.Duration) *Waiting {
		return &Waiting{Tries: tries, Last: at(ago), Why: "the port is in use"}
	}
	written := &agent.Status{Continuity: &agent.Continuity{Lineage: "a", Written: true}}
	heldDisk := &agent.Status{Continuity: &agent.Continuity{Lineage: "a", Written: true, Held: true}}
	tests := []struct {
		name      string
		in        installed
		proc      *vm.Process
		swap      *swap
		challenge bool
		w         world
		want      act
		why       string
		wait      time.Duration
	}{
		{name: "an older version's, running", proc: here, w: world{alive: true}, want: actTakeOver, why: "runs"},
		{name: "an older version's, starter was killed", w: world{alive: true}, want: actTakeOver, why: "runs"},
		{name: "an older version's, ended", proc: here, want: actTakeOver, why: "down"},
		{name: "an older version's, with a trial", in: installed{Trial: trial(0, "")}, want: actTakeOver, why: "down"},
		{name: "down, running", in: installed{Wanted: Down}, proc: here, w: world{alive: true}, want: actHalt},
		{name: "a disk was restored, running", swap: &swap{From: "sql@x"}, in: installed{Wanted: Up}, proc: here, w: world{alive: true}, want: actHalt, why: "sql@x"},
		{name: "a disk was restored", swap: &swap{From: "sql@x"}, in: installed{Wanted: Up}, want: actSwap, why: "sql@x"},
		{name: "a disk was restored, down", swap: &swap{From: "sql@x"}, in: installed{Wanted: Down}, want: actSwap, why: "sql@x"},
		{name: "a witness knows more, running", challenge: true, in: installed{Wanted: Up}, proc: here, w: world{alive: true}, want: actHalt, why: "a witness"},
		{name: "a witness knows more", challenge: true, in: installed{Wanted: Up}, want: actChallenge, why: "a witness"},
		{name: "a witness knows more, down", challenge: true, in: installed{Wanted: Down}, want: actChallenge},
		{name: "down", in: installed{Wanted: Down, Trial: trial(0, "")}},
		{name: "up, first start", in: installed{Wanted: Up}, want: actStart},
		{name: "up, starter was killed", in: installed{Wanted: Up, Trial: trial(1, "")}, w: world{alive: true}, want: actAdopt},
		{name: "up, running", in: installed{Wanted: Up}, proc: here, w: world{alive: true}},
		{name: "up, ready after an end", in: installed{Wanted: Up, Ends: ends(1, 0)}, proc: here, w: world{alive: true, healthy: 20 * time.Second}, wait: 40 * time.Second},
		{name: "up, ready for long after an end", in: installed{Wanted: Up, Ends: ends(1, 0)}, proc: here, w: world{alive: true, healthy: time.Minute}, want: actForget},
		{name: "up, silent", in: installed{Wanted: Up}, proc: here, w: world{alive: true, silent: hungAfter - 1}},
		{name: "up, disk is not known yet", in: installed{Wanted: Up}, proc: here, w: world{alive: true, disk: "0a"}, want: actKnowDisk, why: "0a"},
		{name: "up, its disk was written to", in: installed{Wanted: Up}, proc: here, w: world{alive: true, boot: "now", guest: written}, want: actRecord},
		{name: "up, its disk was written to, asked in vain", in: installed{Wanted: Up}, proc: here, w: world{alive: true, boot: "now", guest: written, unrecorded: true}},
		{name: "up, its disk is held", in: installed{Wanted: Up}, proc: here, w: world{alive: true, boot: "now", guest: heldDisk}},
		{name: "down, its disk was written to", in: installed{Wanted: Down}, proc: here, w: world{alive: true, boot: "now", guest: written}, want: actHalt},
		{name: "up, hangs", in: installed{Wanted: Up}, proc: here, w: world{alive: true, silent: hungAfter}, want: actCut, why: "not answered for 5m0s"},
		{name: "up, hangs while booting an update", in: installed{Wanted: Up, Slot: "b", Trial: trial(1, "")}, proc: here, w: world{alive: true, awake: began + time.Second, silent: hungAfter}, wait: 59 * time.Second},
		{name: "up, paused by somebody", in: installed{Wanted: Up}, proc: here, w: world{alive: true, silent: time.Hour, held: true}},
		{name: "up, held for a full file system", in: installed{Wanted: Up}, proc: here, w: world{alive: true, silent: time.Hour, full: true, room: resumeRoom - 1}},
		{name: "up, held, room again", in: installed{Wanted: Up}, proc: here, w: world{alive: true, silent: time.Second, full: true, room: resumeRoom}, want: actResume},
		{name: "never, hangs", in: installed{Wanted: Up, Policy: Policy{Restart: RestartNever}}, proc: here, w: world{alive: true, silent: hungAfter}},
		{name: "up, ended", in: installed{Wanted: Up}, proc: here, w: world{end: "Kernel panic"}, want: actNoteEnd, why: "Kernel panic"},
		{name: "up, host restarted", in: installed{Wanted: Up}, proc: before, w: world{end: "the host was started anew"}, want: actNoteEnd},
		{name: "up, first end", in: installed{Wanted: Up, Ends: ends(1, 0)}, want: actStart},
		{name: "up, second end", in: installed{Wanted: Up, Ends: ends(2, 400*time.Millisecond)}, wait: 600 * time.Millisecond},
		{name: "up, pause over", in: installed{Wanted: Up, Ends: ends(9, time.Minute)}, want: actStart},
		{name: "up, an end that is still to come", in: installed{Wanted: Up, Ends: ends(4, -time.Second)}, want: actStart},
		{name: "up, given up", in: installed{Wanted: Up, Ends: ends(10, time.Hour)}},
		{name: "up, given up before the host was restarted", in: installed{Wanted: Up, Ends: earlier}, want: actForget, why: "anew"},
		{name: "up, given up by an older version", in: installed{Wanted: Up, Ends: Ends{Total: 10, InARow: 10, Last: &End{}}}, want: actForget},
		{name: "never, ended before the host was restarted", in: installed{Wanted: Up, Policy: Policy{Restart: RestartNever}, Ends: earlier}},
		{name: "up, kept from starting", in: installed{Wanted: Up, Waiting: waiting(3, time.Second)}, wait: 3 * time.Second},
		{name: "up, kept from starting, pause over", in: installed{Wanted: Up, Waiting: waiting(3, 4*time.Second)}, want: actStart},
		{name: "up, kept from starting for long", in: installed{Wanted: Up, Waiting: waiting(100000, 59*time.Second)}, wait: time.Second},
		{name: "up, kept from starting, host restarted", in: installed{Wanted: Up, Waiting: &Waiting{Tries: 9, Last: Moment{Boot: "before", Awake: Duration(began)}}}, want: actStart},
		{name: "never, kept from starting", in: installed{Wanted: Up, Policy: Policy{Restart: RestartNever}, Waiting: waiting(3, time.Hour)}, want: actStart},
		{name: "up, no limit", in: installed{Wanted: Up, Ends: ends(1000, time.Hour), Policy: Policy{Restart: RestartAlways}}, want: actStart},
		{name: "never, first start", in: installed{Wanted: Up, Policy: Policy{Restart: RestartNever}}, want: actStart},
		{name: "never, ended", in: installed{Wanted: Up, Policy: Policy{Restart: RestartNever}, Ends: ends(1, time.Hour)}},

		{name: "trial, old one runs", in: installed{Wanted: Up, Slot: "a", Trial: trial(0, "")}, proc: here, w: world{alive: true, guest: ready, healthy: time.Hour}, want: actHalt},
		{name: "trial, old one ended", in: installed{Wanted: Up, Slot: "a", Trial: trial(0, "")}, proc: here, want: actNoteEnd},
		{name: "trial begins", in: installed{Wanted: Up, Slot: "a", Trial: trial(0, "")}, want: actStart},
		{name: "trial begins, data is kept first", in: installed{Wanted: Up, Slot: "a", Trial: withData(DataKeep)}, want: actKeep},
		{name: "trial begins, data is kept", in: installed{Wanted: Up, Slot: "a", Trial: withData(DataKept)}, want: actStart},
		{name: "trial begins, data goes back first", in: installed{Wanted: Up, Slot: "a", Trial: withData(DataBack)}, want: actBack},
		{name: "trial begins, data went back", in: installed{Wanted: Up, Slot: "a", Trial: withData(DataGone)}, want: actStart},
		{name: "trial with data, old one runs", in: installed{Wanted: Up, Slot: "a", Trial: withData(DataKeep)}, proc: here, w: world{alive: true}, want: actHalt},
		{name: "trial of one that had given up", in: installed{Wanted: Up, Slot: "a", Trial: trial(0, ""), Ends: ends(10, 0)}, want: actStart},
		{name: "trial boots", in: installed{Wanted: Up, Slot: "b", Trial: trial(1, "")}, proc: here, w: world{alive: true, awake: began + 20*time.Second}, wait: 40 * time.Second},
		{name: "trial is starting", in: installed{Wanted: Up, Slot: "b", Trial: trial(1, "")}, proc: here, w: world{alive: true, awake: began + 59*time.Second, guest: starting}, wait: time.Second},
		{name: "trial is healthy", in: installed{Wanted: Up, Slot: "b", Trial: trial(1, "")}, proc: here, w: world{alive: true, awake: began + time.Second, guest: ready, healthy: 10 * time.Second}, wait: 20 * time.Second},
		{name: "trial is healthy at the last moment", in: installed{Wanted: Up, Slot: "b", Trial: trial(1, "")}, proc: here, w: world{alive: true, awake: began + time.Hour, guest: ready, healthy: 1}, wait: soak - 1},
		{name: "trial is healthy and does not answer for a moment", in: installed{Wanted: Up, Slot: "b", Trial: held(trial(1, ""), "vpn")}, proc: here, w: world{alive: true, awake: began + time.Hour, healthy: 10 * time.Second, services: map[string]time.Duration{"vpn": 10 * time.Second}, silent: 59 * time.Second}, wait: 20 * time.Second},
		{name: "trial was healthy and does not answer", in: installed{Wanted: Up, Slot: "b", Trial: trial(1, "")}, proc: here, w: world{alive: true, awake: began + time.Minute, healthy: soak, silent: time.Minute}, want: actFail, why: "does not answer"},
		{name: "trial was healthy and is not", in: installed{Wanted: Up, Slot: "b", Trial: trial(1, "")}, proc: here, w: world{alive: true, awake: began + time.Minute, guest: starting}, want: actFail},
		{name: "trial stays healthy", in: installed{Wanted: Up, Slot: "b", Trial: trial(1, "")}, proc: here, w: world{alive: true, awake: began + time.Hour, guest: ready, healthy: soak}, want: actCommit},
		{name: "trial lacks what was healthy before", in: installed{Wanted: Up, Slot: "b", Trial: held(trial(1, ""), "vpn")}, proc: here, w: world{alive: true, awake: began + time.Minute, guest: ready, healthy: time.Hour}, want: actFail, why: "vpn"},
		{name: "trial has what was healthy before", in: installed{Wanted: Up, Slot: "b", Trial: held(trial(1, ""), "vpn")}, proc: here, w: world{alive: true, guest: ready, healthy: time.Hour, services: map[string]time.Duration{"vpn": 10 * time.Second}}, wait: 20 * time.Second},
		{name: "trial is without an optional service", in: installed{Wanted: Up, Slot: "b", Trial: held(trial(1, ""), "mail")}, proc: here, w: world{alive: true, guest: ready, healthy: time.Hour}, want: actCommit},
		{name: "trial is held for a full file system", in: installed{Wanted: Up, Slot: "b", Trial: trial(1, "")}, proc: here, w: world{alive: true, awake: began + time.Hour, silent: time.Hour, full: true}},
		{name: "trial was paused by somebody", in: installed{Wanted: Up, Slot: "b", Trial: trial(1, "")}, proc: here, w: world{alive: true, awake: began + time.Hour, silent: time.Hour, held: true}},
		{name: "trial is kept from starting", in: installed{Wanted: Up, Slot: "a", Trial: trial(0, ""), Waiting: waiting(5, 0)}, wait: 16 * time.Second},
		{name: "trial was kept from starting for its limit", in: installed{Wanted: Up, Slot: "a", Trial: trial(0, ""), Waiting: waiting(6, 0)}, want: actFail, why: "the port is in use"},
		{name: "trial is late", in: installed{Wanted: Up, Slot: "b", Trial: trial(1, "")}, proc: here, w: world{alive: true, awake: began + time.Minute, guest: starting}, want: actFail, why: "not healthy within 1m0s: it is starting; postgresql: starting"},
		{name: "trial is mute", in: installed{Wanted: Up, Slot: "b", Trial: trial(1, "")}, proc: here, w: world{alive: true, awake: began + time.Minute}, want: actFail, why: "its agent does not answer"},
		{name: "trial says it failed", in: installed{Wanted: Up, Slot: "b", Trial: trial(1, "")}, proc: here, w: world{alive: true, guest: &agent.Status{State: agent.StateFailed, Message: "no disk"}}, want: actFail, why: "no disk"},
		{name: "trial ended", in: installed{Wanted: Up, Slot: "b", Trial: trial(1, "")}, proc: here, w: world{end: "Kernel panic"}, want: actFail, why: "it ended before it was healthy: Kernel panic"},
		{name: "trial, host restarted", in: installed{Wanted: Up, Slot: "b", Trial: trial(1, "")}, proc: before, want: actNoteEnd},
		{name: "trial, second attempt", in: installed{Wanted: Up, Slot: "b", Trial: trial(1, "")}, want: actStart},
		{name: "trial, no attempt left", in: installed{Wanted: Up, Slot: "b", Trial: trial(3, "")}, want: actFail, why: "3 times"},
		{name: "failed, still runs", in: installed{Wanted: Up, Slot: "b", Trial: trial(1, "late")}, proc: here, w: world{alive: true, guest: ready, healthy: time.Hour}, want: actHalt},
		{name: "failed, gone", in: installed{Wanted: Up, Slot: "b", Trial: trial(1, "late")}, proc: here, want: actReturn, why: "late"},
		{name: "failed, never started", in: installed{Wanted: Up, Slot: "a", Trial: trial(1, "does not start")}, want: actReturn},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.in.Active, tt.w.boot = "a", "now"
			if tt.w.awake == 0 {
				tt.w.awake = began
			}
			if tt.in.Policy == (Policy{}) {
				tt.in.Policy = DefaultPolicy()
			}
			rec := record{Process: tt.proc, installed: tt.in, Swap: tt.swap}
			if tt.challenge {
				rec.Challenge = &Witnessed{By: "a witness"}
			}
			d := decide(&rec, tt.w)
			if d.act != tt.want || !strings.Contains(d.why, tt.why) || d.wait != tt.wait {
				t.Errorf("got %+v, want %d %q %v", d, tt.want, tt.why, tt.wait)
			}
			if d.act != actNothing && (d.why == "") != (d.act == actNoteEnd && tt.w.end == "") {
				t.Errorf("act %d without a reason", d.act)
			}
		})
	}
}

// A machine that ends again and again is started again, whatever becomes of
// the host's clock meanwhile: no jump of it makes a pause longer, nor does the
// host's sleep, and what is kept of a former boot holds nothing up.
func TestDecideOverTime(t *testing.T) {
	for name, jump := range map[string]func(h *host){
		"nothing":          func(*host) {},
		"set back an hour": func(h *host) { h.clock = h.clock.Add(-time.Hour) },
		"reset to 1970":    func(h *host) { h.clock = time.Unix(0, 0) },
		"set ahead a year": func(h *host) { h.clock = h.clock.AddDate(1, 0, 0) },
		"asleep for a day": func(h *host) { h.clock = h.clock.Add(24 * time.Hour) },
		"booted anew":      func(h *host) { h.boot, h.awake = h.boot+"'", time.Second },
	} {
		for at := range 20 {
			h := host{clock: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), boot: "b", awake: time.Hour,
				rec: record{installed: installed{Wanted: Up, Active: "a", Policy: Policy{Restart: RestartAlways}}}}
			for n := range 20 {
				if n == at {
					jump(&h)
				}
				if down := h.restart(); down > pauseAfter(n) {
					t.Errorf("%s before end %d: down for %v after end %d", name, at, down, n)
				}
				if n == at {
					jump(&h)
				}
				h.end()
			}
		}
	}
}

// host is what a keeper has to do with, in a test's time.
type host struct {
	clock time.Time
	boot  string
	awake time.Duration
	rec   record
}

func (h *host) world() world { return world{boot: h.boot, awake: h.awake, end: "it ended"} }

func (h *host) pass(d time.Duration) { h.clock, h.awake = h.clock.Add(d), h.awake+d }

// restart looks until the machine is started, and returns for how long it was
// down.
func (h *host) restart() (down time.Duration) {
	for range 1000 {
		switch d := decide(&h.rec, h.world()); d.act {
		case actStart:
			return down
		case actForget:
			h.rec.Ends.InARow = 0
		default:
			h.pass(max(d.wait, time.Millisecond))
			down += d.wait
		}
	}
	return 1 << 62
}

// end has the machine run for a second and end.
func (h *host) end() {
	h.pass(time.Second)
	noteEnd(&h.rec.Ends, End{Time: h.clock, At: h.world().moment(), Why: "it ended"})
}

func TestPauseAfter(t *testing.T) {
	var got []time.Duration
	for n := range 10 {
		got = append(got, pauseAfter(n)/time.Second)
	}
	if want := []time.Duration{0, 0, 1, 2, 4, 8, 16, 32, 60, 60}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if pauseAfter(1<<30) != maxPause {
		t.Error("a large count overflows")
	}
}

func TestDueRecord(t *testing.T) {
	guest := &agent.Status{Continuity: &agent.Continuity{Lineage: "a", Written: true}}
	const awake = time.Hour
	last := func(boot string, ago time.Duration) *Witnessed {
		return &Witnessed{At: Moment{Boot: boot, Awake: Duration(awake - ago)}}
	}
	for name, c := range map[string]struct {
		last *Witnessed
		want bool
	}{
		"the first word":     {nil, true},
		"of another boot":    {last("before", time.Second), true},
		"a moment ago":       {last("now", time.Second), false},
		"a minute ago":       {last("now", recordEvery), true},
		"that is to come":    {last("now", -time.Second), true},
		"just below that":    {last("now", recordEvery-1), false},
		"of long before now": {last("now", awake), true},
	} {
		if got := dueRecord(&record{Continuity: c.last}, world{guest: guest, boot: "now", awake: awake}); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	// A disk that is ahead of what is remembered, though nothing was written.
	resting := &agent.Status{Continuity: &agent.Continuity{Lineage: "a", Epoch: 7}}
	for epoch, want := range map[uint64]bool{6: true, 7: false, 8: false} {
		w := last("now", time.Second)
		w.Lineage, w.Epoch = "a", epoch
		if got := dueRecord(&record{Continuity: w}, world{guest: resting, boot: "now", awake: awake}); got != want {
			t.Errorf("epoch 7 where %d is remembered: %v", epoch, got)
		}
	}
}
