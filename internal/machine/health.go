package machine

import (
	"context"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// Healthy says whether a guest does what it is there for: every service that
// is not optional is healthy. What is wrong around it (Status.Troubles: the
// network, the clock) degrades it and does not count. nil is not healthy.
func Healthy(s *agent.Status) bool {
	if s == nil || s.State != agent.StateReady && s.State != agent.StateDegraded {
		return false
	}
	for _, v := range s.Services {
		if !v.Healthy && !v.Optional {
			return false
		}
	}
	return true
}

// healthyOptional asks which optional services are healthy. A machine that does
// not run or answer has none.
func (i *Instance) healthyOptional(ctx context.Context) []string {
	if !i.Runs() {
		return nil
	}
	limit, cancel := context.WithTimeout(ctx, statusLimit)
	defer cancel()
	s, err := i.askStatus(limit)
	if err != nil {
		return nil
	}
	var names []string
	for _, v := range s.Services {
		if v.Optional && v.Healthy {
			names = append(names, v.Name)
		}
	}
	return names
}
