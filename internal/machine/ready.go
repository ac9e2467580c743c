package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

const (
	// watchEvery is how often the machine's life is looked at while waiting.
	watchEvery = 100 * time.Millisecond
	// askEvery is how often the guest is asked at least while it starts. An
	// answer takes from the machine that is being waited for: an emulated one
	// was ready half a second later when it was asked ten times a second, and
	// still two tenths when it was asked at everything the console said.
	askEvery = 2 * time.Second
	// lookEvery is how often the console is looked at meanwhile. What init says
	// there at the end of a start is a reason to ask, and no more.
	lookEvery = 20 * time.Millisecond
	// consoleLook bounds what is read of the console at once, bytes.
	consoleLook = 64 << 10
	// turn is how long one wait may hold the agent's port before other
	// commands get theirs, for at least a pause of several lockPolls.
	turn     = 2 * time.Second
	turnOver = 5 * lockPoll
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

	w := &waiter{i: i, report: report, console: consoleEar{file: i.ConsoleFile()}}
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
	spoken := false
	for {
		alive, err := i.r.device.Alive(ctx, process)
		if err == nil && !alive {
			err = i.ended()
		}
		if err != nil {
			end(err)
			return
		}
		if info, err := os.Stat(i.ConsoleFile()); !spoken && err == nil && info.Size() > 0 {
			spoken = true
			close(kernel)
		}
		if sleep(ctx, watchEvery) != nil {
			return
		}
	}
}

// ended is the error of a machine that is gone.
func (i *Instance) ended() error {
	return fault.Errorf(fault.Device, "the machine of %s has ended; %s", i.Name(), i.console()).
		Hintf("read %s", i.ConsoleFile())
}

// waiter turns the guest's answers into events.
type waiter struct {
	i       *Instance
	report  Report
	console consoleEar
	last    *agent.Status
}

// ask opens a session and asks until the guest is ready or the turn is over.
func (w *waiter) ask(ctx context.Context) (ready bool, err error) {
	if err := w.console.untilTold(ctx); err != nil {
		return false, err
	}
	attempt, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	s, err := w.i.session(attempt)
	if errors.Is(err, agent.ErrVersion) {
		return false, err
	}
	if err != nil {
		// Not up yet, or in use: that is what is waited for. The socket
		// itself refusing shows as the process's end.
		if sleep(ctx, turnOver) != nil {
			return false, err
		}
		return false, nil
	}
	for end := time.Now().Add(turn); time.Now().Before(end); {
		status, err := s.Status(ctx)
		if err != nil {
			break // the session is lost; a new one will tell
		}
		if w.last == nil {
			tell(w.report, PhaseInit, "the guest's init answers")
		}
		w.tell(status)
		switch {
		case Healthy(status):
			text := fmt.Sprintf("ready, %.1f s after the kernel's start", float64(status.BootMS)/1000)
			if len(status.Troubles) > 0 {
				text += ", but: " + strings.Join(status.Troubles, "; ")
			}
			tell(w.report, PhaseReady, text)
			return true, s.Close()
		case status.State == agent.StateFailed:
			e := fault.Errorf(fault.Device, "the guest of %s failed: %s", w.i.Name(), status.Message).
				Hintf("read %s", w.i.ConsoleFile())
			return false, errors.Join(e, s.Close())
		}
		if err := w.console.untilTold(ctx); err != nil {
			return false, errors.Join(err, s.Close())
		}
	}
	// A session that was lost has nothing left to close in order.
	closeErr := s.Close()
	if err := sleep(ctx, turnOver); err != nil {
		return false, errors.Join(err, closeErr)
	}
	return false, nil
}

// outcome is what init says on the console at the end of a start.
var outcome = regexp.MustCompile(`(?m)^sovereign-init: \[ *[0-9.]+\] (ready|FAILED: [^\n]*)\r?\n`)

// consoleEar listens to a machine's console while it starts.
type consoleEar struct {
	file string
	seen int64  // bytes that were read
	line []byte // what is there of the last line
}

// untilTold waits until init says that the guest is ready or has failed, for
// askEvery at most.
func (c *consoleEar) untilTold(ctx context.Context) error {
	for end := time.Now().Add(askEvery); !c.told() && time.Now().Before(end); {
		if err := sleep(ctx, lookEvery); err != nil {
			return err
		}
	}
	return nil
}

// told says whether init has said so in what is new on the console. One that
// cannot be read says nothing: time passes too.
func (c *consoleEar) told() bool {
	f, err := os.Open(c.file)
	if err != nil {
		return false
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() < c.seen {
		c.seen = 0 // it was cut off
	}
	b, err := io.ReadAll(io.NewSectionReader(f, c.seen, consoleLook))
	if err != nil {
		return false
	}
	c.seen += int64(len(b))
	text := append(c.line, b...)
	c.line = text[bytes.LastIndexByte(text, '\n')+1:]
	if len(c.line) > consoleLook {
		c.line = nil
	}
	return outcome.Match(text)
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
		tell(w.report, PhaseService, describe(s))
	}
	w.last = status
}

func describe(s agent.Service) string {
	text := s.Name + ": " + string(s.State)
	if s.Healthy {
		text += ", healthy"
	}
	if s.Restarts > 0 {
		text += fmt.Sprintf(", %d restarts", s.Restarts)
	}
	if s.Message != "" {
		text += " (" + s.Message + ")"
	}
	return text
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
				b.WriteString("; " + describe(s))
			}
		}
	}
	return fault.Errorf(fault.Device, "%s", b.String()).
		Hintf("give it more time, or read %s", w.i.ConsoleFile())
}
