package runtime

import (
	"context"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// State is what an instance's machine does.
type State string

// States of an instance.
const (
	Running State = "running"
	// Paused: the hypervisor holds the CPUs still; Status.Message says why.
	Paused State = "paused"
	// Stopped: it was stopped in order, or never ran.
	Stopped State = "stopped"
	// Exited: it ended by itself, by a kernel panic or a power cut.
	Exited State = "exited"
)

// Status is an instance as seen now. Its JSON is part of what scripts rely on.
type Status struct {
	Name    string    `json:"name"`
	State   State     `json:"state"`
	Message string    `json:"message,omitempty"`
	Bundle  BundleRef `json:"bundle"`
	Ports   []Port    `json:"ports"`
	Machine MachineID `json:"machine"`
	PID     int       `json:"pid,omitempty"`
	// Guest is what the agent says; nil when it was not asked or did not
	// answer, and then GuestError says why.
	Guest      *agent.Status `json:"guest,omitempty"`
	GuestError string        `json:"guest_error,omitempty"`
}

// statusLimit bounds how long a guest may take to answer for its status.
const statusLimit = 5 * time.Second

// Status looks at the machine and asks the guest, for at most 5 s.
func (i *Instance) Status(ctx context.Context) (Status, error) {
	s, err := i.hostStatus(ctx)
	if err != nil || s.State != Running {
		return s, err
	}
	limit, cancel := context.WithTimeout(ctx, statusLimit)
	defer cancel()
	guest, err := i.askStatus(limit)
	if ctx.Err() != nil {
		return s, context.Cause(ctx)
	}
	s.Guest = guest
	if err != nil {
		s.GuestError = err.Error()
	}
	return s, nil
}

func (i *Instance) askStatus(ctx context.Context) (*agent.Status, error) {
	c, err := i.session(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Status(ctx)
}

// hostStatus is the status without the guest's own words.
func (i *Instance) hostStatus(ctx context.Context) (Status, error) {
	s := Status{Name: i.Name(), State: Stopped, Bundle: i.rec.Bundle, Ports: i.Ports(), Machine: i.rec.Machine}
	alive, err := i.running(ctx)
	if err != nil {
		return s, err
	}
	if !alive {
		if i.rec.Process != nil {
			s.State, s.Message = Exited, i.console()
		}
		return s, nil
	}
	s.State, s.PID = Running, i.proc.PID
	limit, cancel := context.WithTimeout(ctx, statusLimit)
	defer cancel()
	hv, err := i.r.hv.Status(limit, i.dir)
	switch {
	case ctx.Err() != nil:
		return s, context.Cause(ctx)
	case err != nil:
		s.Message = "the hypervisor does not answer: " + err.Error()
	case hv.State == "io-error":
		s.State = Paused
		s.Message = "a disk could not be written, most likely because the file system of " + i.dir + " is full: make room, then stop and start it"
	case !hv.Running:
		s.State, s.Message = Paused, "the hypervisor says "+hv.State
	}
	return s, nil
}

// mustRun is an error when the machine does not run.
func (i *Instance) mustRun(ctx context.Context) error {
	alive, err := i.running(ctx)
	if err != nil || alive {
		return err
	}
	return fault.Errorf(fault.Device, "%s is not running", i.Name()).
		Hintf("start it: sovereign-build run %s", i.rec.Bundle.Path)
}
