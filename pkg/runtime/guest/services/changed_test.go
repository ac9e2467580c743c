package services

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// Who looks only when he is told sees every state that lasts.
func TestChangedIsTold(t *testing.T) {
	file := filepath.Join(t.TempDir(), "code")
	set := func(code string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(code), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	set("1")
	changed := make(chan struct{}, 1)
	tell := func(o *Options) {
		o.Changed = func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}
	r := startWith(t, "", tell, svc("db", forever, health("echo says $(cat "+file+"); exit $(cat "+file+")", 1)))
	limit := time.After(time.Minute)
	until := func(what string, ok func(agent.Service, agent.State) bool) agent.Service {
		t.Helper()
		for {
			state, _ := r.State()
			if s := r.Services()[0]; ok(s, state) {
				return s
			}
			select {
			case <-changed:
			case <-limit:
				t.Fatalf("nobody told of %s: %+v", what, r.Services())
			}
		}
	}
	ready := func(_ agent.Service, state agent.State) bool { return state == agent.StateReady }
	until("a rejecting service", func(s agent.Service, _ agent.State) bool { return s.Message == "says 1" })
	set("0")
	first := until("a ready one", ready)
	set("1")
	until("a degraded one", func(_ agent.Service, state agent.State) bool { return state == agent.StateDegraded })
	set("0")
	until("one that is ready again", ready)
	set("2")
	until("another start", func(s agent.Service, _ agent.State) bool { return s.Restarts > 0 })
	set("0")
	if s := until("the new one ready", ready); s.PID == first.PID {
		t.Errorf("%+v", s)
	}
	if err := r.Restart(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	until("the one that was asked for", func(s agent.Service, state agent.State) bool { return s.Restarts > 1 && state == agent.StateReady })
}
