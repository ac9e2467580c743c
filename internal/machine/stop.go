package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

const (
	// DefaultGrace is how long Stop waits for an orderly end: long,
	// for a database writes its last checkpoint, on an emulated CPU.
	DefaultGrace = 2 * time.Minute
	// askLimit is how long the agent may take to accept the request: it may
	// still be booting.
	askLimit = 30 * time.Second
	// quitLimit is how long a hypervisor may take to end when told to.
	quitLimit = 15 * time.Second
)

// Stop shuts the guest down in order: its agent is asked, services end, file
// systems are unmounted, the machine powers off. Only when that has not
// happened within grace (0: DefaultGrace) is the power cut, and the result
// says so. When ctx ends, Stop returns and the machine is left to itself. The
// instance is wanted down from then on.
func (i *Instance) Stop(ctx context.Context, grace time.Duration) (StopResult, error) {
	return i.halted(ctx, func(now *Instance) error {
		if now.rec.Wanted == Down {
			return nil
		}
		now.rec.Wanted = Down
		return now.saveRecord()
	}, grace)
}

// halted stops the machine under the lock, after the record was prepared.
func (i *Instance) halted(ctx context.Context, prepare func(now *Instance) error, grace time.Duration) (StopResult, error) {
	unlock, err := i.r.lock(ctx, i.Name())
	if err != nil {
		return StopResult{}, err
	}
	defer unlock()
	// Another program may have started it anew since i was loaded.
	now, err := i.r.load(i.Name())
	if errors.Is(err, fs.ErrNotExist) {
		return StopResult{}, nil // removed meanwhile
	}
	if err != nil {
		return StopResult{}, err
	}
	if err := prepare(now); err != nil {
		return StopResult{}, err
	}
	res, err := now.stop(ctx, grace)
	if err != nil {
		return res, err
	}
	now.rec.Process = nil
	now.rec.homeless()
	now.rec.fresh()
	id, err := now.newFileSystem()
	if id != "" {
		now.rec.Data.FileSystem = id
	}
	return res, errors.Join(err, now.saveRecord())
}

func (i *Instance) stop(ctx context.Context, grace time.Duration) (StopResult, error) {
	if grace <= 0 {
		grace = DefaultGrace
	}
	begin := time.Now()
	process, alive, err := i.running(ctx)
	if err != nil || !alive {
		return StopResult{}, err
	}
	res := StopResult{WasRunning: true}
	i.wake(ctx)
	res.Why, err = i.shutdown(ctx, process, grace)
	if err == nil && res.Why != "" {
		res.Forced = true
		err = i.cutPower(ctx, process)
	}
	res.Seconds = time.Since(begin).Seconds()
	return res, err
}

// wake lets a machine go on that is held for a full file system: a guest that
// is held hears nothing. What does not work is seen when it is asked to end.
func (i *Instance) wake(ctx context.Context) {
	limit, cancel := context.WithTimeout(ctx, hypervisorLimit)
	defer cancel()
	if s, err := i.r.hv.State(limit, i.dir); err == nil && s.Full {
		_ = i.resume(limit)
	}
}

// shutdown asks the guest to end and waits for it. It returns why that did not
// work, or the end of ctx as an error.
func (i *Instance) shutdown(ctx context.Context, process vm.Process, grace time.Duration) (why string, err error) {
	limit, cancel := context.WithTimeout(ctx, min(askLimit, grace))
	reached, askErr := i.askShutdown(limit)
	cancel()
	if ctx.Err() != nil {
		return "", fmt.Errorf("stopping %s: %w", i.Name(), context.Cause(ctx))
	}
	wait := grace
	switch {
	case askErr != nil && reached:
		// The answer can get lost in an end that was quick.
		wait = min(askLimit, grace)
	case askErr != nil:
		wait = time.Second
	}
	gone, err := i.waitGone(ctx, process, wait)
	switch {
	case err != nil || gone:
		return "", err
	case askErr != nil:
		return "the guest could not be asked to shut down: " + askErr.Error(), nil
	}
	return fmt.Sprintf("the guest did not power off within %v", grace), nil
}

// askShutdown asks the guest; reached says whether it may have heard that.
func (i *Instance) askShutdown(ctx context.Context) (reached bool, err error) {
	s, err := i.session(ctx)
	if err != nil {
		return false, err
	}
	defer s.Close()
	i.recordBeforeEnd(ctx, s)
	return true, s.Shutdown(ctx)
}

// cutPower ends the hypervisor, by its own command and, should that not work,
// by a signal to the very process.
func (i *Instance) cutPower(ctx context.Context, process vm.Process) error {
	limit, cancel := context.WithTimeout(ctx, quitLimit)
	quitErr := i.r.hv.Quit(limit, i.dir)
	cancel()
	wait := quitLimit
	if quitErr != nil {
		wait = time.Second
	}
	if gone, err := i.waitGone(ctx, process, wait); err != nil || gone {
		return err
	}
	if err := process.Signal(unix.SIGKILL); err != nil {
		return errors.Join(err, quitErr)
	}
	gone, err := i.waitGone(ctx, process, quitLimit)
	if err == nil && !gone {
		return fault.Errorf(fault.Device, "process %d of %s does not end, even by SIGKILL", process.PID, i.Name()).
			Hintf("look for a file system that hangs")
	}
	return err
}

// waitGone waits until the machine's process has ended, and takes the machine
// out of the network; false where it has not within limit.
func (i *Instance) waitGone(ctx context.Context, process vm.Process, limit time.Duration) (bool, error) {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := process.Wait(limited)
	switch {
	case ctx.Err() != nil:
		return false, fmt.Errorf("stopping %s: %w", i.Name(), context.Cause(ctx))
	case limited.Err() != nil && err != nil:
		return false, nil
	case err == nil:
		i.r.unplug(i.Name())
	}
	return err == nil, err
}
