package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sovereign-build/sovereign/internal/terminal"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

// watched is what is known of machines, from sovereignd's events.
type watched struct {
	mu       sync.Mutex
	machines map[string]runtime.Status
	changed  chan struct{}
}

func (v *watched) take(e runtime.Event) error {
	v.mu.Lock()
	switch {
	case e.Phase == runtime.PhaseRemoved:
		delete(v.machines, e.Machine)
	case e.Status != nil:
		v.machines[e.Status.Name] = *e.Status
	default:
		v.mu.Unlock()
		return nil
	}
	v.mu.Unlock()
	select {
	case v.changed <- struct{}{}:
	default:
	}
	return nil
}

// all is sorted by name.
func (v *watched) all() []runtime.Status {
	v.mu.Lock()
	defer v.mu.Unlock()
	var all []runtime.Status
	for _, name := range slices.Sorted(maps.Keys(v.machines)) {
		all = append(all, v.machines[name])
	}
	return all
}

// errWatched ends a watch that has nothing more to tell.
var errWatched = errors.New("the machine is removed")

// watchStatus prints what is different from before, as sovereignd tells it, and
// the loads at every interval. It ends without an error when ctx does.
func (s *session) watchStatus(ctx context.Context, name string, interval time.Duration) error {
	h, err := s.host()
	if err != nil {
		return err
	}
	first, err := s.status(ctx, name) // an unknown name is an error
	if err != nil {
		return err
	}
	v := &watched{machines: map[string]runtime.Status{}, changed: make(chan struct{}, 1)}
	group, watching := errgroup.WithContext(ctx)
	group.Go(func() error {
		if name == "" {
			return h.Watch(watching, v.take)
		}
		if err := h.Machine(name).Watch(watching, v.take); err != nil {
			return err
		}
		return errWatched
	})
	group.Go(func() error { return s.show(watching, h, v, first, interval) })
	err = group.Wait()
	if ctx.Err() != nil || errors.Is(err, errWatched) {
		return nil
	}
	return err
}

// show draws what is known until ctx ends.
func (s *session) show(ctx context.Context, h *runtime.Host, v *watched, machines []MachineStatus, interval time.Duration) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	_, screen := terminal.Of(s.Stdout)
	screen = screen && !s.json
	loads := map[string]*meters{}
	last := ""
	for {
		now, err := json.Marshal(stable(machines))
		if err != nil {
			return err
		}
		if string(now) != last {
			last = string(now)
			if err := s.redraw(machines, screen); err != nil {
				return err
			}
		}
		measure := false
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-v.changed:
		case <-tick.C:
			measure = true
		}
		known := v.all()
		if known == nil && measure {
			continue // nothing was heard yet
		}
		before := machines
		machines = []MachineStatus{}
		for _, status := range known {
			m := machineStatus(status)
			machines = append(machines, m)
		}
		if measure {
			measureAll(ctx, h, known, machines, loads)
		} else {
			keepLoads(before, machines)
		}
	}
}

// measureAll asks the guests of machines that run.
func measureAll(ctx context.Context, h *runtime.Host, known []runtime.Status, machines []MachineStatus, loads map[string]*meters) {
	var all sync.WaitGroup
	for i, status := range known {
		if status.PID == 0 || status.Guest == nil {
			delete(loads, status.Name)
			continue
		}
		meter := loads[status.Name]
		if meter == nil || meter.pid != status.PID {
			meter = &meters{pid: status.PID}
			loads[status.Name] = meter
		}
		all.Go(func() {
			limited, cancel := context.WithTimeout(ctx, measureLimit)
			defer cancel()
			meter.measure(ctx, limited, h.Machine(status.Name), &machines[i])
		})
	}
	all.Wait()
}

// measureLimit is how long a guest may take to say what it does.
const measureLimit = 5 * time.Second

// keepLoads has machines that are told of between two measurements keep what was
// measured.
func keepLoads(before, machines []MachineStatus) {
	old := map[string]MachineStatus{}
	for _, m := range before {
		old[m.Name] = m
	}
	for i := range machines {
		m := &machines[i]
		if len(m.Services) > 0 {
			m.Load = old[m.Name].Load
		}
		for j := range m.Services {
			for _, v := range old[m.Name].Services {
				if v.Name == m.Services[j].Name && m.Services[j].State == v.State {
					m.Services[j].Load = v.Load
				}
			}
		}
	}
}

// redraw writes the table in one go, over the last one on a screen.
func (s *session) redraw(machines []MachineStatus, screen bool) error {
	var b bytes.Buffer
	if screen {
		b.WriteString("\x1b[H\x1b[J") // home, and clear to the end
	}
	p := printer(textPrinter{out: &b, err: s.Stderr})
	if s.json {
		p = jsonPrinter{out: &b, err: s.Stderr}
	}
	if err := s.writeMachines(p, machines); err != nil {
		return err
	}
	if !screen && !s.json {
		b.WriteString("\n")
	}
	_, err := s.Stdout.Write(b.Bytes())
	return fault.Wrap(fault.Environment, err)
}

// stable leaves out what changes all the time: free bytes on a disk count by
// the 16 MiB.
func stable(machines []MachineStatus) []MachineStatus {
	out := make([]MachineStatus, len(machines))
	for i, m := range machines {
		if m.Data != nil {
			d := *m.Data
			d.Free &^= 16<<20 - 1
			m.Data = &d
		}
		m.Load = m.Load.rounded()
		m.Services = slices.Clone(m.Services)
		for j := range m.Services {
			m.Services[j].Load = m.Services[j].Load.rounded()
		}
		out[i] = m
	}
	return out
}
