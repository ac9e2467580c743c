package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// statusLimit bounds how long a guest may take to answer for its status.
const statusLimit = 5 * time.Second

// Status looks at the record and the machine as they are now, and asks the
// guest, for at most 5 s. An instance that was removed meanwhile is stopped.
func (i *Instance) Status(ctx context.Context) (Status, error) {
	now, err := i.r.load(i.Name())
	if errors.Is(err, fs.ErrNotExist) {
		return Status{Name: i.Name(), State: Stopped, Bundle: i.rec.Bundle, Ports: i.Ports(), Machine: i.rec.Machine}, nil
	}
	if err != nil {
		return Status{Name: i.Name()}, err
	}
	s, err := now.hostStatus(ctx)
	if err != nil || s.State != Running {
		return s, err
	}
	limit, cancel := context.WithTimeout(ctx, statusLimit)
	defer cancel()
	guest, err := now.askStatus(limit)
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
	s.Continuity = i.rec.Continuity.witnessed()
	s.Isolated = i.rec.Options.Isolated
	process, alive, err := i.running(ctx)
	if err != nil {
		return s, err
	}
	if i.rec.Wanted != notAdopted {
		if s.Supervision, err = i.Supervision(ctx); err != nil {
			return s, err
		}
	}
	if !alive {
		s.State, s.Message = i.stoppedState()
		return s, nil
	}
	s.State, s.PID = Running, process.PID
	limit, cancel := context.WithTimeout(ctx, statusLimit)
	defer cancel()
	hv, err := i.r.hv.State(limit, i.dir)
	switch {
	case ctx.Err() != nil:
		return s, context.Cause(ctx)
	case err != nil:
		s.Message = "the hypervisor does not answer: " + err.Error()
	case hv.Full:
		s.State = Paused
		at, _, err := roomAt(i.dataPath())
		if err != nil {
			return s, err
		}
		s.Message = fmt.Sprintf("it waits, as the file system of %s is full: make room", at)
		if i.rec.Wanted == Up {
			s.Message += fmt.Sprintf(", and it goes on by itself when %d MiB are free", resumeRoom>>20)
		} else {
			s.Message += ", then stop and start it"
		}
	case hv.Held:
		s.State, s.Message = Paused, "the hypervisor says "+hv.Word
	}
	return s, nil
}

// stoppedState tells the ways in which nothing runs.
func (i *Instance) stoppedState() (State, string) {
	last := ""
	if end := i.rec.Ends.Last; end != nil && i.rec.Ends.InARow > 0 {
		last = end.Why
	}
	switch {
	case i.rec.gaveUp():
		return GaveUp, fmt.Sprintf("%d ends in a row, the last: %s", i.rec.Ends.InARow, last)
	case i.rec.Wanted == Up && i.rec.Waiting != nil:
		v := i.rec.Waiting
		return Restarting, fmt.Sprintf("tried %d times since %s, and again within %v: %s", v.Tries, v.Since.Format(time.RFC3339), maxPause, v.Why)
	case i.rec.Wanted == Up && (i.rec.Process == nil || i.rec.Policy.Restart != RestartNever):
		return Restarting, last
	case i.rec.Process != nil:
		return Exited, i.console()
	}
	return Stopped, ""
}

// Supervision is what the record says of an instance that was installed.
func (i *Instance) Supervision(ctx context.Context) (*Supervision, error) {
	runs, err := i.r.kept()
	if err != nil {
		return nil, err
	}
	in := i.rec.installed
	return &Supervision{
		Wanted: in.Wanted, Policy: in.Policy, Supervisor: runs, Active: in.Active, Previous: in.Previous,
		Slots: maps.Clone(in.Slots), Ends: in.Ends, Waiting: in.Waiting, Trial: in.Trial, LastUpdate: in.Outcome,
		GaveUp: in.gaveUp(), Release: in.Release, Kept: i.rec.Kept,
	}, nil
}

// mustRun is an error when the machine does not run.
func (i *Instance) mustRun(ctx context.Context) error {
	_, alive, err := i.running(ctx)
	if err != nil || alive {
		return err
	}
	return fault.Errorf(fault.Device, "%s is not running", i.Name()).Hintf("start it: sovereign-build up %s", i.Name())
}
