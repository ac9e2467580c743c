package runtime

import (
	"context"
	"sync"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// fakeMemory is what the fake machines' balloons leave, by directory; without
// an entry it is fakeSize.
type fakeMemory struct {
	mu   sync.Mutex
	left map[string]int64
}

const fakeSize = 512 << 20

var fakeBalloons = fakeMemory{left: map[string]int64{}}

func (fakeHV) Balloon(_ context.Context, dir string, size int64) error {
	fakeBalloons.mu.Lock()
	defer fakeBalloons.mu.Unlock()
	fakeBalloons.left[dir] = size
	return nil
}

func (fakeHV) Memory(_ context.Context, dir string) (int64, error) {
	fakeBalloons.mu.Lock()
	defer fakeBalloons.mu.Unlock()
	if size, ok := fakeBalloons.left[dir]; ok {
		return size, nil
	}
	return fakeSize, nil
}

func (fakeHV) GrowDisk(_ context.Context, _, serial string, _ int64) error {
	if serial != "data" {
		return fault.Errorf(fault.Device, "no disk %q", serial)
	}
	return nil
}
