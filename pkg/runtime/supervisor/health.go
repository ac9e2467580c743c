package supervisor

import (
	"time"

	runtime "github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// health is for how long a guest and each of its services have been healthy
// without a break, as its answers show: from the first to the last one. A
// service that was started anew between two answers had a break; a time without
// answers, on a busy host, is none.
type health struct {
	last     time.Time // when the last answer came
	since    time.Time // zero: it is not healthy
	services map[string]spell
}

// spell is a time in which one process of a service was healthy.
type spell struct {
	since         time.Time
	pid, restarts int
}

// note takes an answer.
func (h *health) note(s *agent.Status, now time.Time) {
	before := h.services
	h.last, h.services = now, map[string]spell{}
	if !runtime.Healthy(s) {
		h.since = time.Time{}
	} else if h.since.IsZero() {
		h.since = now
	}
	for _, v := range s.Services {
		if !v.Healthy {
			continue
		}
		p, known := before[v.Name]
		if !known || p.pid != v.PID || p.restarts != v.Restarts {
			p = spell{now, v.PID, v.Restarts}
			if !v.Optional && !h.since.IsZero() {
				h.since = now
			}
		}
		h.services[v.Name] = p
	}
}

// spans is for how long the guest, and each service that is healthy, has been.
// What began with the last answer has lasted a moment.
func (h *health) spans() (guest time.Duration, services map[string]time.Duration) {
	services = make(map[string]time.Duration, len(h.services))
	for name, p := range h.services {
		services[name] = max(1, h.last.Sub(p.since))
	}
	if !h.since.IsZero() {
		guest = max(1, h.last.Sub(h.since))
	}
	return guest, services
}
