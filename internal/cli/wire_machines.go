package cli

import (
	"context"
	"errors"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	runtime "github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// watchEvery is how often a machine in the foreground is asked how it is.
const watchEvery = time.Second

// machines is pkg/runtime as the commands see it.
type machines struct{}

func (machines) instance(ctx context.Context, name string) (*runtime.Instance, error) {
	r, err := runtime.Open("")
	if err != nil {
		return nil, err
	}
	return r.Instance(ctx, name)
}

func (machines) Start(ctx context.Context, q RunRequest, report func(string)) (*Machine, error) {
	r, err := runtime.Open("")
	if err != nil {
		return nil, err
	}
	told := progress(report)
	i, err := r.Start(ctx, q.Bundle, runtime.StartOptions{
		MemoryMiB: q.MemoryMiB, CPUs: q.CPUs, Ports: q.Ports, Accel: q.Accel, Outbound: q.Outbound, Bounce: q.Bounce, NewData: q.NewData, Report: told,
	})
	if err != nil {
		return nil, err
	}
	limit, cancel := context.WithTimeout(ctx, q.Timeout)
	defer cancel()
	if err := i.WaitReady(limit, told); err != nil {
		if ctx.Err() == nil {
			// A machine that is late may still be of use to whoever looks for
			// the reason, so it is left as it is.
			return nil, err
		}
		_, stopErr := i.Stop(context.WithoutCancel(ctx), stopTime)
		return nil, errors.Join(err, stopErr)
	}
	m := &Machine{Name: i.Name(), Ports: hostPorts(i.Ports()), Accel: i.Machine().Accel}
	if s, err := i.Status(ctx); err == nil && s.Guest != nil {
		m.BootMS = s.Guest.BootMS
	}
	return m, nil
}

func hostPorts(ports []runtime.Port) map[string]int {
	m := make(map[string]int, len(ports))
	for _, p := range ports {
		m[strconv.Itoa(p.Guest)] = p.Host
	}
	return m
}

func (m machines) Watch(ctx context.Context, name string, report func(string)) error {
	i, err := m.instance(ctx, name)
	if err != nil {
		return err
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	last, warned := map[string]agent.Service{}, false
	for first := true; ; first = false {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		s, err := i.Status(ctx)
		if err != nil {
			return err
		}
		if err := i.BoundConsole(); err != nil && !warned {
			report("the console's log: " + err.Error())
			warned = true
		}
		switch {
		case s.State == runtime.Stopped:
			report(name + " was stopped")
			return nil
		case s.State == runtime.Exited:
			// Another program may have stopped it in order meanwhile, and
			// this instance's record is older than that.
			return m.ended(ctx, name, s.Message, report)
		case s.Guest == nil:
			continue
		}
		for _, service := range s.Guest.Services {
			old := last[service.Name]
			if changed := old.State != service.State || old.Healthy != service.Healthy || old.Restarts != service.Restarts; changed && !first {
				report(serviceLine(service))
			}
			last[service.Name] = service
		}
	}
}

// ended tells an orderly end from a crash.
func (m machines) ended(ctx context.Context, name, message string, report func(string)) error {
	i, err := m.instance(ctx, name)
	if err != nil {
		return err
	}
	if s, err := i.Status(ctx); err == nil && s.State == runtime.Stopped {
		report(name + " was stopped")
		return nil
	}
	return fault.Errorf(fault.Device, "the machine of %s has ended by itself: %s", name, message).
		Hintf("read %s", i.ConsoleFile())
}

func serviceLine(s agent.Service) string {
	line := s.Name + ": " + string(s.State)
	if s.Healthy {
		line += ", healthy"
	}
	if s.Restarts > 0 {
		line += ", " + strconv.Itoa(s.Restarts) + " restarts"
	}
	if s.Message != "" {
		line += " (" + s.Message + ")"
	}
	return line
}

func (m machines) Stop(ctx context.Context, name string, grace time.Duration) (*StopResult, error) {
	i, err := m.instance(ctx, name)
	if err != nil {
		return nil, err
	}
	s, err := i.Stop(ctx, grace)
	if err != nil {
		return nil, err
	}
	return &StopResult{Name: name, WasRunning: s.WasRunning, Forced: s.Forced, Why: s.Why, Seconds: s.Seconds}, nil
}

func (m machines) URL(ctx context.Context, name string, port int) (string, error) {
	i, err := m.instance(ctx, name)
	if err != nil {
		return "", err
	}
	return i.URL(ctx, port)
}

func (m machines) Status(ctx context.Context, name string) ([]MachineStatus, error) {
	r, err := runtime.Open("")
	if err != nil {
		return nil, err
	}
	names, all := []string{name}, name == ""
	if all {
		if names, err = r.Names(); err != nil {
			return nil, err
		}
	}
	// At a time: a guest that does not answer costs seconds.
	out := make([]MachineStatus, len(names))
	group, ctx := errgroup.WithContext(ctx)
	for n, name := range names {
		group.Go(func() error {
			s, err := status(ctx, r, name)
			if err != nil && all && ctx.Err() == nil {
				// It must not hide the others.
				s, err = runtime.Status{Name: name, State: runtime.Unreadable, Message: err.Error()}, nil
			}
			out[n] = machineStatus(s)
			return err
		})
	}
	return out, group.Wait()
}

func status(ctx context.Context, r *runtime.Runtime, name string) (runtime.Status, error) {
	i, err := r.Instance(ctx, name)
	if err != nil {
		return runtime.Status{}, err
	}
	return i.Status(ctx)
}

func machineStatus(s runtime.Status) MachineStatus {
	m := MachineStatus{Name: s.Name, State: string(s.State), Message: s.Message, Ports: hostPorts(s.Ports), Supervision: s.Supervision}
	if s.Guest == nil {
		if m.Message == "" {
			m.Message = s.GuestError
		}
		return m
	}
	m.State = string(s.Guest.State)
	if m.Message == "" {
		m.Message = s.Guest.Message
	}
	return m.guest(s.Guest)
}
