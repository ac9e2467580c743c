package machine

import (
	"context"
	"time"

	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

const (
	// minMemory is the least that a balloon may leave: the kernel and a
	// service, with nothing to spare.
	minMemory = 64 << 20
	// balloonLimit is how long a guest has to give memory back. What it has
	// not found by then it may still give later.
	balloonLimit = 10 * time.Second
)

// Memory asks the hypervisor.
func (i *Instance) Memory(ctx context.Context) (Memory, error) {
	if err := i.mustRun(ctx); err != nil {
		return Memory{}, err
	}
	b, err := able[vm.Ballooner](i, "tell or change the memory of a running machine")
	if err != nil {
		return Memory{}, err
	}
	now, err := b.Memory(ctx, i.dir)
	return Memory{Now: now, Max: int64(i.rec.Machine.MemoryMiB) << 20}, err
}

// Balloon has the guest give memory back until it has size bytes, or take
// again what it gave: from 64 MiB to what it was started with. It waits for
// the guest for at most 10 s, and returns what it has then: a guest that needs
// its memory keeps it.
func (i *Instance) Balloon(ctx context.Context, size int64) (Memory, error) {
	m, err := i.Memory(ctx)
	if err != nil {
		return m, err
	}
	if size < minMemory || size > m.Max {
		return m, fault.Errorf(fault.Usage, "%d MiB is not from %d MiB to the %d MiB that %s was started with", size>>20, minMemory>>20, m.Max>>20, i.Name()).
			Hintf("for more, stop it and start it with more")
	}
	b, err := able[vm.Ballooner](i, "change the memory of a running machine")
	if err != nil {
		return m, err
	}
	if err := b.Balloon(ctx, i.dir, size); err != nil {
		return m, err
	}
	for end := time.Now().Add(balloonLimit); ; {
		if m, err = i.Memory(ctx); err != nil || m.Now == size || time.Now().After(end) {
			return m, err
		}
		if err := pause.For(ctx, lockPoll); err != nil {
			return m, err
		}
	}
}
