package torture

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/qemu"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// seam is where the faults get between internal/machine and QEMU: it changes
// QEMU's command line on the way and remembers the process, and nothing in
// internal/machine knows. A disk that loses data or a clock that is wrong is not
// something a product should be able to ask for.
type seam struct {
	*qemu.Driver

	mu      sync.Mutex
	changes map[string]change     // by instance directory
	procs   map[string]vm.Process // likewise
}

// change makes another command line of QEMU's.
type change func(args []string) ([]string, error)

func newSeam(cacheDir string) *seam {
	s := &seam{changes: map[string]change{}, procs: map[string]vm.Process{}}
	s.Driver = qemu.New(cacheDir, qemu.WithArguments(func(m vm.Machine, args []string) ([]string, error) {
		if change := s.get(m.Dir); change != nil {
			return change(args)
		}
		return args, nil
	}))
	return s
}

func (s *seam) set(dir string, c change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes[dir] = c
}

func (s *seam) get(dir string) change {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changes[dir]
}

func (s *seam) process(dir string) (vm.Process, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.procs[dir]
	return p, ok
}

// Start is the driver's.
func (s *seam) Start(ctx context.Context, m vm.Machine, plan vm.Plan) (vm.Process, error) {
	p, err := s.Driver.Start(ctx, m, plan)
	if err == nil {
		s.mu.Lock()
		s.procs[m.Dir] = p
		s.mu.Unlock()
	}
	return p, err
}

// nbdSocket lies in the instance's directory, where QEMU runs.
const nbdSocket = "nbd.sock"

// overNBD puts the server of package nbd in the place of the one image that the
// machine writes to and that outlives it: the disk of snapshots, which does not,
// has no flushes.
func overNBD(args []string) ([]string, error) {
	out := make([]string, len(args))
	copy(out, args)
	found := 0
	for i := 1; i < len(out); i++ {
		options := strings.Split(out[i], ",")
		if out[i-1] != "-blockdev" || options[0] != "driver=file" || slices.Contains(options, "read-only=on") || slices.Contains(options, "cache.no-flush=on") {
			continue
		}
		found++
		for _, o := range options {
			if strings.HasPrefix(o, "node-name=") {
				out[i] = "driver=nbd," + o + ",server.type=unix,server.path=" + nbdSocket +
					",cache.direct=off,cache.no-flush=off"
			}
		}
	}
	if found != 1 {
		return nil, fault.Errorf(fault.Internal, "torture: QEMU's command line has %d disks that are written to, want 1", found)
	}
	return out, nil
}
