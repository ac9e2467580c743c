package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

const (
	// spokenEvery is how often the console is looked at until it says something.
	spokenEvery = 100 * time.Millisecond
	// beat is how often a guest says how it is at least while it starts, beside
	// each change.
	beat = 10 * time.Second
	// askEvery is how often one is asked whose image is too old to tell its
	// changes. An answer takes from the machine that is being waited for: an
	// emulated one was ready half a second later when it was asked ten times a
	// second.
	askEvery = 500 * time.Millisecond
	// againAfter is the pause before another session is tried.
	againAfter = 100 * time.Millisecond
	// answerLimit bounds one attempt to reach the agent. The guest answers a
	// hello within 200 ms of its agent's start.
	answerLimit = 10 * time.Second
)

// WaitReady waits until the guest is healthy (see Healthy): one that is only
// degraded by its surroundings is, and report is told of those. A machine that
// ends, a guest that says it failed, and a deadline of ctx that passes are
// errors of class fault.Device with the guest's words and the last lines of
// its console.
func (i *Instance) WaitReady(ctx context.Context, report Report) error {
	process, alive, err := i.running(ctx)
	if err != nil {
		return err
	}
	if !alive {
		return i.ended()
	}
	watched, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	kernel := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		i.watch(watched, process, cancel, kernel)
	}()
	// The watcher must be gone when the caller goes on, report included.
	defer func() { <-done }()
	defer cancel(nil)

	w := &waiter{i: i, report: report}
	select {
	case <-kernel:
		tell(report, PhaseKernel, "the kernel boots")
	case <-watched.Done():
	}
	for watched.Err() == nil {
		ready, err := w.ask(watched)
		if ready || err != nil && watched.Err() == nil {
			return err
		}
	}
	return w.giveUp(ctx, context.Cause(watched))
}

// watch ends ctx with the reason when the machine's process has ended, and
// closes kernel when the console first says something.
func (i *Instance) watch(ctx context.Context, process vm.Process, end context.CancelCauseFunc, kernel chan struct{}) {
	spoken := make(chan struct{})
	go func() {
		defer close(spoken)
		for {
			if info, err := os.Stat(i.ConsoleFile()); err == nil && info.Size() > 0 {
				close(kernel)
				return
			}
			if pause.For(ctx, spokenEvery) != nil {
				return
			}
		}
	}()
	err := process.Wait(ctx)
	if err == nil {
		err = i.ended()
	}
	end(err)
	<-spoken
}

// ended is the error of a machine that is gone.
func (i *Instance) ended() error {
	return fault.Errorf(fault.Device, "the machine of %s has ended; %s", i.Name(), i.console()).
		Hintf("read %s", i.ConsoleFile())
}

// waiter turns the guest's answers into events.
type waiter struct {
	i      *Instance
	report Report
	last   *agent.Status
}

// errReady ends the following of a guest that is ready.
var errReady = errors.New("ready")

// ask opens a session and hears the guest until it is ready, or the session is
// lost.
func (w *waiter) ask(ctx context.Context) (ready bool, err error) {
	attempt, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	s, err := w.i.session(attempt)
	if errors.Is(err, agent.ErrVersion) {
		return false, err
	}
	if err != nil {
		// Not up yet, or in use: that is what is waited for. A machine that has
		// ended shows as that.
		if pause.For(ctx, againAfter) != nil {
			return false, err
		}
		return false, nil
	}
	err = s.FollowStatus(ctx, beat, answerLimit, w.hear)
	for errors.Is(err, agent.ErrAnsweredOnce) {
		var status *agent.Status
		if err = pause.For(ctx, askEvery); err == nil {
			status, err = s.Status(ctx)
		}
		if err == nil {
			if err = w.hear(status); err == nil {
				err = agent.ErrAnsweredOnce
			}
		}
	}
	// A session that was lost has nothing left to close in order.
	closeErr := s.Close()
	var failed *guestFailed
	switch {
	case errors.Is(err, errReady):
		return true, closeErr
	case errors.As(err, &failed):
		return false, errors.Join(failed.error, closeErr)
	}
	if sleepErr := pause.For(ctx, againAfter); sleepErr != nil {
		return false, sleepErr
	}
	return false, nil // another session will tell
}

// guestFailed is the end of a guest that says that it failed.
type guestFailed struct{ error }

// hear takes what the guest says of itself. Its error is the end of waiting.
func (w *waiter) hear(status *agent.Status) error {
	if w.last == nil {
		tell(w.report, PhaseInit, "the guest's init answers")
	}
	w.tell(status)
	switch {
	case status.Healthy():
		text := fmt.Sprintf("ready, %.1f s after the kernel's start", float64(status.BootMS)/1000)
		if len(status.Troubles) > 0 {
			text += ", but: " + strings.Join(status.Troubles, "; ")
		}
		tell(w.report, PhaseReady, text)
		return errReady
	case status.State == agent.StateFailed:
		return &guestFailed{fault.Errorf(fault.Device, "the guest of %s failed: %s", w.i.Name(), status.Message).
			Hintf("read %s", w.i.ConsoleFile())}
	}
	return nil
}

// tell reports the services whose state changed.
func (w *waiter) tell(status *agent.Status) {
	for _, s := range status.Services {
		old := agent.Service{}
		if w.last != nil {
			old, _ = w.last.Service(s.Name)
		}
		if old.State == s.State && old.Restarts == s.Restarts && old.Healthy == s.Healthy {
			continue
		}
		tell(w.report, PhaseService, s.Line())
	}
	w.last = status
}

// giveUp is the error of a wait that ended for the given reason.
func (w *waiter) giveUp(ctx context.Context, reason error) error {
	if ctx.Err() == nil {
		return reason // the machine ended, and the reason says so in full
	}
	if !errors.Is(reason, context.DeadlineExceeded) {
		return reason // the caller's own
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s is not ready in time", w.i.Name())
	if w.last == nil {
		b.WriteString(": nothing was heard of its agent; ")
		b.WriteString(w.i.console())
	} else {
		fmt.Fprintf(&b, ": it is %s", w.last.State)
		if w.last.Message != "" {
			b.WriteString(", " + w.last.Message)
		}
		for _, s := range w.last.Services {
			if !s.Healthy {
				b.WriteString("; " + s.Line())
			}
		}
	}
	return fault.Errorf(fault.Device, "%s", b.String()).
		Hintf("give it more time, or read %s", w.i.ConsoleFile())
}
