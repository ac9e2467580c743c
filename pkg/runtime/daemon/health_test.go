package daemon

import (
	"maps"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

func TestHealth(t *testing.T) {
	db := agent.Service{Name: "db", Healthy: true, PID: 7}
	vpn := agent.Service{Name: "vpn", Healthy: true, PID: 8, Optional: true}
	status := func(state agent.State, services ...agent.Service) *agent.Status {
		return &agent.Status{State: state, Services: services}
	}
	with := func(v agent.Service, change func(*agent.Service)) agent.Service { change(&v); return v }
	sick := func(v *agent.Service) { v.Healthy = false }
	anew := func(v *agent.Service) { v.PID++; v.Restarts++ }
	const s = time.Second
	begin := time.Now()
	var h health
	for n, tt := range []struct { // an answer a second
		status   *agent.Status
		guest    time.Duration
		services map[string]time.Duration
	}{
		{status(agent.StateStarting, with(db, sick), vpn), 0, map[string]time.Duration{"vpn": 1}},
		{status(agent.StateReady, db, vpn), 1, map[string]time.Duration{"db": 1, "vpn": s}},
		{status(agent.StateReady, db, with(vpn, sick)), s, map[string]time.Duration{"db": s}},
		// Degraded by its surroundings.
		{status(agent.StateDegraded, db, vpn), 2 * s, map[string]time.Duration{"db": 2 * s, "vpn": 1}},
		{status(agent.StateReady, db, with(vpn, anew)), 3 * s, map[string]time.Duration{"db": 3 * s, "vpn": 1}},
		// It died and came back between two answers.
		{status(agent.StateReady, with(db, anew), vpn), 1, map[string]time.Duration{"db": 1, "vpn": 1}},
		{status(agent.StateReady, with(db, anew), vpn), s, map[string]time.Duration{"db": s, "vpn": s}},
		{status(agent.StateDegraded, with(db, sick), vpn), 0, map[string]time.Duration{"vpn": 2 * s}},
		{status(agent.StateReady), 1, nil}, // no service at all
		{status(agent.StateReady), s, nil},
		{status(agent.StateStopping), 0, nil},
	} {
		h.note(tt.status, begin.Add(time.Duration(n)*s))
		if guest, services := h.spans(); guest != tt.guest || !maps.Equal(services, tt.services) {
			t.Errorf("answer %d: %v %v, want %v %v", n, guest, services, tt.guest, tt.services)
		}
	}
}
