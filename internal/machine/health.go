package machine

import (
	"context"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// Healthy is the guest's; see agent.Status.
func Healthy(s *agent.Status) bool { return s.Healthy() }

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
