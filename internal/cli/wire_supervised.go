package cli

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	runtime "github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/supervisor"
)

// client opens the state directory and what waits for its supervisor.
func (machines) client(report func(string)) (*supervisor.Client, error) {
	program, err := supervisor.Find()
	if err != nil {
		return nil, err
	}
	r, err := runtime.Open("")
	if err != nil {
		return nil, err
	}
	return &supervisor.Client{Runtime: r, Program: program, Report: func(e runtime.Event) { report(e.Text) }}, nil
}

func (m machines) Up(ctx context.Context, q UpRequest, report func(string)) (*Machine, error) {
	c, err := m.client(report)
	if err != nil {
		return nil, err
	}
	o := runtime.UpOptions{
		MemoryMiB: q.MemoryMiB, CPUs: q.CPUs, Ports: q.Ports, Accel: q.Accel, Outbound: q.Outbound,
		Restart: runtime.Restart(q.Restart), Limit: q.Limit, NewData: q.NewData,
	}
	i, err := m.want(ctx, c, q.Target, o)
	if err != nil {
		return nil, err
	}
	limit, cancel := context.WithTimeout(ctx, q.Timeout)
	defer cancel()
	if i, err = c.WaitReady(limit, i.Name()); err != nil {
		return nil, err
	}
	result := &Machine{Name: i.Name(), Ports: hostPorts(i.Ports()), Accel: i.Machine().Accel}
	if s, err := i.Status(ctx); err == nil && s.Guest != nil {
		result.BootMS = s.Guest.BootMS
	}
	return result, nil
}

// want writes down that the target is wanted up: an instance, or a bundle.
func (machines) want(ctx context.Context, c *supervisor.Client, target string, o runtime.UpOptions) (*runtime.Instance, error) {
	_, statErr := os.Stat(filepath.Join(target, bundle.ManifestFile))
	if statErr != nil && !strings.ContainsRune(target, filepath.Separator) {
		_, err := c.Runtime.Instance(ctx, target)
		if err == nil {
			return c.Runtime.Up(ctx, target, o, c.Report)
		}
		if fault.ClassOf(err) != fault.Usage {
			return nil, err
		}
	}
	dir, err := findBundle(target)
	if err != nil {
		return nil, err
	}
	return c.Runtime.Install(ctx, dir, "", o, c.Report)
}

func (m machines) Restart(ctx context.Context, name string, grace, timeout time.Duration, report func(string)) (*RestartResult, error) {
	begin := time.Now()
	c, err := m.client(report)
	if err != nil {
		return nil, err
	}
	i, err := c.Runtime.Instance(ctx, name)
	if err != nil {
		return nil, err
	}
	s, err := i.Restart(ctx, grace)
	if err != nil {
		return nil, err
	}
	limit, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if i, err = c.WaitReady(limit, name); err != nil {
		return nil, err
	}
	return &RestartResult{
		StopResult: StopResult{Name: name, WasRunning: s.WasRunning, Forced: s.Forced, Why: s.Why, Seconds: s.Seconds},
		Ports:      hostPorts(i.Ports()), ReadySeconds: time.Since(begin).Seconds(),
	}, nil
}

func (m machines) Update(ctx context.Context, name, dir string, limit time.Duration, report func(string)) (*UpdateResult, error) {
	return m.try(ctx, name, "update", report, func(c *supervisor.Client) (string, error) {
		changed, err := c.Runtime.Update(ctx, name, dir, limit, c.Report)
		if !changed {
			return updateUnchanged, err
		}
		return "", err
	})
}

func (m machines) Rollback(ctx context.Context, name string, limit time.Duration, report func(string)) (*UpdateResult, error) {
	return m.try(ctx, name, "rollback", report, func(c *supervisor.Client) (string, error) {
		cancelled, err := c.Runtime.Rollback(ctx, name, limit)
		if cancelled {
			return updateCancelled, err
		}
		return "", err
	})
}

// try begins a trial and waits for its end, unless there is a result already.
func (m machines) try(ctx context.Context, name, kind string, report func(string), begin func(*supervisor.Client) (ended string, err error)) (*UpdateResult, error) {
	started := time.Now()
	c, err := m.client(report)
	if err != nil {
		return nil, err
	}
	result := &UpdateResult{Name: name, Kind: kind}
	ended, err := begin(c)
	if err != nil {
		return nil, err
	}
	i, err := c.Runtime.Instance(ctx, name)
	if err != nil {
		return nil, err
	}
	s, err := i.Supervision(ctx)
	if err != nil {
		return nil, err
	}
	switch {
	case ended != "":
		result.Result = ended
		result.To = s.Slots[s.Active].Digest
		return result, nil
	case s.Wanted != runtime.Up:
		result.Result = updateStaged
		return result, nil
	}
	// The trial has a limit of its own, and so has the supervisor.
	if i, err = c.WaitReady(ctx, name); err != nil {
		return nil, err
	}
	if s, err = i.Supervision(ctx); err != nil {
		return nil, err
	}
	last := s.LastUpdate
	if last == nil {
		return nil, fault.Errorf(fault.Internal, "the %s of %s left no trace", kind, name)
	}
	result.Result, result.Why, result.From, result.To = updateReverted, last.Why, last.From, last.To
	if last.Committed {
		result.Result = updateCommitted
	}
	result.Ports, result.Seconds = hostPorts(i.Ports()), time.Since(started).Seconds()
	return result, nil
}
