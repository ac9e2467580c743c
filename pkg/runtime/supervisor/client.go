package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	runtime "github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/local"
	"github.com/sovereign-build/sovereign/pkg/runtime/tail"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// program is the supervisor's name as a program.
const program = "sovereignd"

// pollEvery is how often a client looks at a record that the supervisor is
// about to change.
const pollEvery = 100 * time.Millisecond

// Find returns the path of sovereignd: beside this program, else in PATH.
func Find() (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), program)
		if _, err := os.Stat(beside); err == nil {
			return beside, nil
		}
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return "", fault.Errorf(fault.Environment, "%s is neither beside this program nor in PATH", program).
			Hintf("build it with make")
	}
	return path, nil
}

// Ensure makes the supervisor of a state directory look at its instances, and
// starts one where none runs: the program at path, in the background, until
// nothing is wanted up any more.
func Ensure(ctx context.Context, stateDir, path string) error {
	var device local.Device
	if awake(ctx, device, stateDir) {
		return nil
	}
	log := filepath.Join(stateDir, LogFile)
	p, err := device.Start(ctx, vm.Command{
		Path: path, Args: []string{"--state-dir", stateDir, "--exit-when-idle"}, Dir: stateDir, Log: log,
	})
	if err != nil {
		return err
	}
	for !awake(ctx, device, stateDir) {
		alive, err := device.Alive(ctx, p)
		if err != nil {
			return err
		}
		// Another one may have been quicker, and is awake then.
		if !alive && !awake(ctx, device, stateDir) {
			return fault.Errorf(fault.Environment, "%s ended at once: %s", program, tail.Lines(3, log)).Hintf("read %s", log)
		}
		sleep(ctx, pollEvery)
		if ctx.Err() != nil {
			return fmt.Errorf("waiting for %s: %w", program, context.Cause(ctx))
		}
	}
	return nil
}

// awake connects to the supervisor, which takes that for a word to look.
func awake(ctx context.Context, device local.Device, stateDir string) bool {
	conn, err := device.Dial(ctx, "unix", filepath.Join(stateDir, runtime.SupervisorSocket))
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// Client waits for what a supervisor does.
type Client struct {
	Runtime *runtime.Runtime
	// Program is the path of sovereignd, from Find.
	Program string
	Report  runtime.Report
}

// WaitReady waits until an instance that is wanted up is as it is wanted: no
// update under way, and healthy (see runtime.Healthy). It returns the instance,
// and with an error the reason: the supervisor gave up, the machine cannot be
// started, or the end of ctx. Should the supervisor be killed meanwhile,
// another is started.
func (c *Client) WaitReady(ctx context.Context, name string) (*runtime.Instance, error) {
	ends, waiting := -1, ""
	var tried *runtime.Instance // the machine of a trial that is healthy, and has to stay so
	for {
		if err := Ensure(ctx, c.Runtime.Dir(), c.Program); err != nil {
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
		if ends < 0 {
			ends = s.Ends.Total
		}
		if err := c.ended(i, s, ends); err != nil {
			return nil, err
		}
		if s.Ends.Total > ends {
			c.tell(s.Ends.Last.Why)
			ends = s.Ends.Total
		}
		if v := s.Waiting; v != nil && v.Why != waiting {
			c.tell(v.Why)
			waiting = v.Why
		}
		if tried == nil || !tried.SameMachine(i) {
			ready, err := c.ready(ctx, i)
			if err != nil {
				return nil, err
			}
			tried = nil
			if ready {
				tried = i
			}
		}
		if tried != nil {
			now, settled, err := c.settled(ctx, tried)
			if settled || err != nil {
				return now, err
			}
		}
		sleep(ctx, pollEvery)
		if ctx.Err() != nil {
			return nil, c.late(ctx, name, s)
		}
	}
}

func (c *Client) tell(text string) {
	if c.Report != nil {
		c.Report(runtime.Event{Phase: runtime.PhaseStart, Text: text})
	}
}

// ended returns why waiting on is of no use.
func (c *Client) ended(i *runtime.Instance, s *runtime.Supervision, ends int) error {
	last := s.Ends.Last
	switch {
	case s.Wanted != runtime.Up:
		return fault.Errorf(fault.Device, "%s was taken down meanwhile", i.Name())
	case s.GaveUp:
		return fault.Errorf(fault.Device, "%s ended %d times in a row, and sovereignd gave up; the last time: %s", i.Name(), s.Ends.InARow, last.Why).
			Hintf("read %s; sovereign-build up %s tries again", i.ConsoleFile(), i.Name())
	case s.Waiting != nil && s.Trial == nil:
		// A trial has a former bundle to go back to, and a limit.
		e := fault.Errorf(fault.Environment, "%s does not start: %s", i.Name(), s.Waiting.Why)
		if s.Waiting.Hint != "" {
			return e.Hintf("%s; sovereignd goes on trying", s.Waiting.Hint)
		}
		return e.Hintf("sovereignd goes on trying")
	case s.Ends.Total > ends && last.Class != 0:
		e := fault.Errorf(last.Class, "%s does not start: %s", i.Name(), last.Why)
		if last.Hint != "" {
			return e.Hintf("%s; sovereignd goes on trying", last.Hint)
		}
		return e.Hintf("sovereignd goes on trying")
	}
	return nil
}

// ready waits for the guest of a machine that runs; false where it does not
// run (any more).
func (c *Client) ready(ctx context.Context, i *runtime.Instance) (bool, error) {
	if !i.Runs() {
		return false, nil
	}
	err := i.WaitReady(ctx, c.Report)
	if err == nil {
		return true, nil
	}
	if ctx.Err() != nil {
		return false, err
	}
	// What has ended comes again, the same or the slot before.
	now, loadErr := c.Runtime.Instance(ctx, i.Name())
	if loadErr != nil {
		return false, loadErr
	}
	s, loadErr := now.Supervision(ctx)
	if loadErr != nil {
		return false, loadErr
	}
	if !now.Runs() || !now.SameMachine(i) || s.Trial != nil {
		return false, nil
	}
	return false, err
}

// settled returns the instance as it is now, and whether the machine that was
// found ready still runs and is to stay.
func (c *Client) settled(ctx context.Context, ready *runtime.Instance) (*runtime.Instance, bool, error) {
	i, err := c.Runtime.Instance(ctx, ready.Name())
	if err != nil {
		return nil, false, err
	}
	s, err := i.Supervision(ctx)
	if err != nil {
		return nil, false, err
	}
	return i, s.Trial == nil && i.Runs() && i.SameMachine(ready), nil
}

// late is the error of a wait whose time is over.
func (c *Client) late(ctx context.Context, name string, s *runtime.Supervision) error {
	cause := context.Cause(ctx)
	if !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	why := "its machine has not started"
	switch {
	case s.Waiting != nil:
		why = s.Waiting.Why
	case s.Ends.Last != nil:
		why = s.Ends.Last.Why
	}
	return fault.Errorf(fault.Device, "%s is not ready in time: %s", name, why).
		Hintf("see sovereign-build status %s", name)
}
