package initd

import (
	"slices"
	"sync"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// maxPhases bounds what is kept; services have two each.
const maxPhases = 256

// phases records what the boot does when. The zero value is ready to use.
type phases struct {
	mu   sync.Mutex
	list []agent.Phase
}

// begin starts a phase and returns how to end it.
func (p *phases) begin(name string) (end func()) {
	return p.beginAt(name, milliseconds())
}

func (p *phases) beginAt(name string, start float64) (end func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.list) == maxPhases {
		return func() {}
	}
	i := len(p.list)
	p.list = append(p.list, agent.Phase{Name: name, StartMS: start})
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.list[i].EndMS = milliseconds()
	})
}

// boot returns a copy, in the order of the starts.
func (p *phases) boot() agent.Boot {
	p.mu.Lock()
	defer p.mu.Unlock()
	return agent.Boot{Phases: slices.Clone(p.list)}
}

// milliseconds since the kernel's start.
func milliseconds() float64 { return float64(sinceBoot().Microseconds()) / 1000 }
