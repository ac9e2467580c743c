package runtime

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// TestDecide goes through the table in the package comment.
func TestDecide(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	here, before := &vm.Process{PID: 7, Start: 8, Boot: "now"}, &vm.Process{PID: 7, Start: 8, Boot: "before"}
	ready := &agent.Status{State: agent.StateReady}
	starting := &agent.Status{State: agent.StateStarting, Services: []agent.Service{{Name: "postgresql", State: agent.ServiceStarting}}}
	trial := func(attempt int, why string) *Trial {
		return &Trial{Kind: "update", Slot: "b", Limit: Duration(time.Minute), Attempt: attempt, Why: why}
	}
	ends := func(n int, ago time.Duration) Ends {
		return Ends{Total: n, InARow: n, Last: &End{Time: now.Add(-ago), Why: "it was killed"}}
	}
	tests := []struct {
		name string
		in   installed
		proc *vm.Process
		w    world
		want act
		why  string
		wait time.Duration
	}{
		{name: "run's, running", in: installed{Wanted: Unsupervised}, proc: here, w: world{alive: true}},
		{name: "run's, with a trial", in: installed{Wanted: Unsupervised, Trial: trial(0, "")}},
		{name: "down, running", in: installed{Wanted: Down}, proc: here, w: world{alive: true}, want: actHalt},
		{name: "down", in: installed{Wanted: Down, Trial: trial(0, "")}},
		{name: "up, first start", in: installed{Wanted: Up}, want: actStart},
		{name: "up, starter was killed", in: installed{Wanted: Up, Trial: trial(1, "")}, w: world{alive: true}, want: actAdopt},
		{name: "up, running", in: installed{Wanted: Up}, proc: here, w: world{alive: true}},
		{name: "up, ready after an end", in: installed{Wanted: Up, Ends: ends(1, 0)}, proc: here, w: world{alive: true, steady: 20 * time.Second}, wait: 40 * time.Second},
		{name: "up, ready for long after an end", in: installed{Wanted: Up, Ends: ends(1, 0)}, proc: here, w: world{alive: true, steady: time.Minute}, want: actSteady},
		{name: "up, silent", in: installed{Wanted: Up}, proc: here, w: world{alive: true, silent: hungAfter - 1}},
		{name: "up, disk is not known yet", in: installed{Wanted: Up}, proc: here, w: world{alive: true, disk: "0a"}, want: actKnowDisk, why: "0a"},
		{name: "up, hangs", in: installed{Wanted: Up}, proc: here, w: world{alive: true, silent: hungAfter}, want: actCut, why: "not answered for 5m0s"},
		{name: "up, hangs while booting an update", in: installed{Wanted: Up, Slot: "b", Trial: trial(1, "")}, proc: here, w: world{alive: true, age: time.Second, silent: hungAfter}, wait: 59 * time.Second},
		{name: "up, paused by somebody", in: installed{Wanted: Up}, proc: here, w: world{alive: true, silent: time.Hour, held: true}},
		{name: "up, held for a full file system", in: installed{Wanted: Up}, proc: here, w: world{alive: true, silent: time.Hour, full: true, room: resumeRoom - 1}},
		{name: "up, held, room again", in: installed{Wanted: Up}, proc: here, w: world{alive: true, silent: time.Second, full: true, room: resumeRoom}, want: actResume},
		{name: "never, hangs", in: installed{Wanted: Up, Policy: Policy{Restart: RestartNever}}, proc: here, w: world{alive: true, silent: hungAfter}},
		{name: "up, ended", in: installed{Wanted: Up}, proc: here, w: world{end: "Kernel panic"}, want: actNoteEnd, why: "Kernel panic"},
		{name: "up, host restarted", in: installed{Wanted: Up}, proc: before, w: world{end: "the host was started anew"}, want: actNoteEnd},
		{name: "up, first end", in: installed{Wanted: Up, Ends: ends(1, 0)}, want: actStart},
		{name: "up, second end", in: installed{Wanted: Up, Ends: ends(2, 400*time.Millisecond)}, wait: 600 * time.Millisecond},
		{name: "up, pause over", in: installed{Wanted: Up, Ends: ends(9, time.Minute)}, want: actStart},
		{name: "up, clock went back", in: installed{Wanted: Up, Ends: ends(4, -time.Hour)}, wait: 4 * time.Second},
		{name: "up, given up", in: installed{Wanted: Up, Ends: ends(10, time.Hour)}},
		{name: "up, no limit", in: installed{Wanted: Up, Ends: ends(1000, time.Hour), Policy: Policy{Restart: RestartAlways}}, want: actStart},
		{name: "never, first start", in: installed{Wanted: Up, Policy: Policy{Restart: RestartNever}}, want: actStart},
		{name: "never, ended", in: installed{Wanted: Up, Policy: Policy{Restart: RestartNever}, Ends: ends(1, time.Hour)}},

		{name: "trial, old one runs", in: installed{Wanted: Up, Slot: "a", Trial: trial(0, "")}, proc: here, w: world{alive: true, guest: ready}, want: actHalt},
		{name: "trial, old one ended", in: installed{Wanted: Up, Slot: "a", Trial: trial(0, "")}, proc: here, want: actNoteEnd},
		{name: "trial begins", in: installed{Wanted: Up, Slot: "a", Trial: trial(0, "")}, want: actStart},
		{name: "trial of one that had given up", in: installed{Wanted: Up, Slot: "a", Trial: trial(0, ""), Ends: ends(10, 0)}, want: actStart},
		{name: "trial boots", in: installed{Wanted: Up, Slot: "b", Trial: trial(1, "")}, proc: here, w: world{alive: true, age: 20 * time.Second}, wait: 40 * time.Second},
		{name: "trial is starting", in: installed{Wanted: Up, Slot: "b", Trial: trial(1, "")}, proc: here, w: world{alive: true, age: 59 * time.Second, guest: starting}, wait: time.Second},
		{name: "trial is ready", in: installed{Wanted: Up, Slot: "b", Trial: trial(1, "")}, proc: here, w: world{alive: true, age: 2 * time.Minute, guest: ready}, want: actCommit},
		{name: "trial is late", in: installed{Wanted: Up, Slot: "b", Trial: trial(1, "")}, proc: here, w: world{alive: true, age: time.Minute, guest: starting}, want: actFail, why: "not healthy within 1m0s: it is starting; postgresql: starting"},
		{name: "trial is mute", in: installed{Wanted: Up, Slot: "b", Trial: trial(1, "")}, proc: here, w: world{alive: true, age: time.Minute}, want: actFail, why: "its agent does not answer"},
		{name: "trial says it failed", in: installed{Wanted: Up, Slot: "b", Trial: trial(1, "")}, proc: here, w: world{alive: true, guest: &agent.Status{State: agent.StateFailed, Message: "no disk"}}, want: actFail, why: "no disk"},
		{name: "trial ended", in: installed{Wanted: Up, Slot: "b", Trial: trial(1, "")}, proc: here, w: world{end: "Kernel panic"}, want: actFail, why: "it ended before it was healthy: Kernel panic"},
		{name: "trial, host restarted", in: installed{Wanted: Up, Slot: "b", Trial: trial(1, "")}, proc: before, want: actNoteEnd},
		{name: "trial, second attempt", in: installed{Wanted: Up, Slot: "b", Trial: trial(1, "")}, want: actStart},
		{name: "trial, no attempt left", in: installed{Wanted: Up, Slot: "b", Trial: trial(3, "")}, want: actFail, why: "3 times"},
		{name: "failed, still runs", in: installed{Wanted: Up, Slot: "b", Trial: trial(1, "late")}, proc: here, w: world{alive: true, guest: ready}, want: actHalt},
		{name: "failed, gone", in: installed{Wanted: Up, Slot: "b", Trial: trial(1, "late")}, proc: here, want: actReturn, why: "late"},
		{name: "failed, never started", in: installed{Wanted: Up, Slot: "a", Trial: trial(1, "does not start")}, want: actReturn},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.in.Active, tt.w.now, tt.w.boot = "a", now, "now"
			if tt.in.Policy == (Policy{}) {
				tt.in.Policy = DefaultPolicy()
			}
			rec := record{Process: tt.proc, installed: tt.in}
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
