package runtime

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// tailLimit bounds the look at a console for the error of a wait that is over.
const tailLimit = 2 * time.Second

// WaitReady waits until a machine that is wanted up is as it is wanted: it runs,
// every service that is not optional is healthy, and no update is under way. It
// returns the status then, and with an error the reason: the machine was given
// up, it cannot be started, its guest failed, or ctx ended. Should sovereignd
// end meanwhile, it goes on with the next.
//
// A guest that is only degraded by what is around it is ready, and report is
// told of that.
func (m *Machine) WaitReady(ctx context.Context, report Report) (Status, error) {
	w := waiter{name: m.name, report: report}
	ready := errors.New("ready")
	err := m.Watch(ctx, func(e Event) error {
		switch {
		case e.Phase == PhaseProbe, e.Phase == PhaseStart, e.Phase == PhaseKernel:
			report.tell(e.Phase, e.Text)
		case e.Phase == PhaseRemoved:
			return fault.Errorf(fault.Device, "%s was removed meanwhile", m.name)
		case e.Status != nil:
			done, err := w.see(e.Status)
			if err != nil {
				return err
			}
			if done {
				return ready
			}
		}
		return nil
	})
	if errors.Is(err, ready) {
		return *w.last, nil
	}
	if ctx.Err() != nil && errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return w.status(), w.late(m)
	}
	return w.status(), err
}

// waiter turns what a machine is into what its owner is told, and knows when
// that is over.
type waiter struct {
	name   string
	report Report

	last    *Status
	ends    int // that were told
	waiting string
	pid     int
	guest   *agent.Status // of that pid
	ready   bool          // was told, of that pid
}

func (w *waiter) status() Status {
	if w.last == nil {
		return Status{Name: w.name}
	}
	return *w.last
}

// see takes the next status. done is true for a machine that is as it is
// wanted; an error is why waiting on is of no use.
func (w *waiter) see(s *Status) (done bool, err error) {
	first := w.last == nil
	w.last = s
	v := s.Supervision
	if v == nil || v.Wanted != Up {
		return false, fault.Errorf(fault.Device, "%s was taken down meanwhile", w.name)
	}
	if first {
		w.ends = v.Ends.Total
	}
	if err := w.ended(v); err != nil {
		return false, err
	}
	if v.Ends.Total > w.ends {
		w.report.tell(PhaseStart, v.Ends.Last.Why)
		w.ends = v.Ends.Total
	}
	if v.Waiting != nil && v.Waiting.Why != w.waiting {
		w.report.tell(PhaseStart, v.Waiting.Why)
		w.waiting = v.Waiting.Why
	}
	if s.PID != w.pid {
		w.pid, w.guest, w.ready = s.PID, nil, false
	}
	if s.PID == 0 || s.Guest == nil {
		return false, nil
	}
	w.tell(s.Guest)
	if err := s.Stale(); err != nil && v.Trial == nil {
		return false, err
	}
	if s.Guest.State == agent.StateFailed && v.Trial == nil {
		return false, fault.Errorf(fault.Device, "the guest of %s failed: %s", w.name, s.Guest.Message).
			Hintf("read %s", w.console())
	}
	return v.Trial == nil && s.State == Running && s.Guest.Healthy(), nil
}

// ended returns why waiting on is of no use.
func (w *waiter) ended(v *Supervision) error {
	last := v.Ends.Last
	switch {
	case v.GaveUp:
		return fault.Errorf(fault.Device, "%s ended %d times in a row, and sovereignd gave up; the last time: %s", w.name, v.Ends.InARow, last.Why).
			Hintf("read %s; sovereign-build up %s tries again", w.console(), w.name)
	case v.Waiting != nil && v.Trial == nil:
		// A trial has a former bundle to go back to, and a limit.
		return goesOn(fault.Environment, w.name, v.Waiting.Why, v.Waiting.Hint)
	case v.Ends.Total > w.ends && last.Class != 0:
		return goesOn(last.Class, w.name, last.Why, last.Hint)
	}
	return nil
}

func goesOn(class fault.Class, name, why, hint string) error {
	e := fault.Errorf(class, "%s does not start: %s", name, why)
	if hint != "" {
		return e.Hintf("%s; sovereignd goes on trying", hint)
	}
	return e.Hintf("sovereignd goes on trying")
}

func (w *waiter) console() string { return path.Join(w.last.Dir, "console.log") }

// tell reports what is new in the guest's words.
func (w *waiter) tell(g *agent.Status) {
	if w.guest == nil {
		w.report.tell(PhaseInit, "the guest's init answers")
	}
	for _, s := range g.Services {
		var old agent.Service
		if w.guest != nil {
			old, _ = w.guest.Service(s.Name)
		}
		if old.State != s.State || old.Restarts != s.Restarts || old.Healthy != s.Healthy {
			w.report.tell(PhaseService, s.Line())
		}
	}
	w.guest = g
	if !w.ready && g.Healthy() {
		w.ready = true
		text := fmt.Sprintf("ready, %.1f s after the kernel's start", float64(g.BootMS)/1000)
		if len(g.Troubles) > 0 {
			text += ", but: " + strings.Join(g.Troubles, "; ")
		}
		w.report.tell(PhaseReady, text)
	}
}

// late is the error of a wait whose time is over.
func (w *waiter) late(m *Machine) error {
	late := func(format string, args ...any) *fault.Error {
		return fault.Errorf(fault.Device, "%s is not ready in time: %s", w.name, fmt.Sprintf(format, args...))
	}
	const see = "see sovereign-build status %s"
	switch {
	case w.last == nil:
		return late("nothing was heard of sovereignd").Hintf(see, w.name)
	case w.pid == 0 && w.last.Supervision.Waiting != nil:
		return late("%s", w.last.Supervision.Waiting.Why).Hintf(see, w.name)
	case w.pid == 0 && w.last.Supervision.Ends.Last != nil:
		return late("%s", w.last.Supervision.Ends.Last.Why).Hintf(see, w.name)
	case w.pid == 0:
		return late("its machine has not started").Hintf(see, w.name)
	}
	var why strings.Builder
	if w.guest == nil {
		ctx, cancel := context.WithTimeout(context.Background(), tailLimit)
		defer cancel()
		why.WriteString("nothing was heard of its agent; ")
		switch text, err := m.ConsoleTail(ctx, 12); {
		case err != nil:
			why.WriteString("its console cannot be read: " + err.Error())
		case text == "":
			why.WriteString("the guest printed nothing")
		default:
			why.WriteString("the console's last lines:\n" + text)
		}
	} else {
		fmt.Fprintf(&why, "it is %s", w.guest.State)
		if w.guest.Message != "" {
			why.WriteString(", " + w.guest.Message)
		}
		for _, s := range w.guest.Services {
			if !s.Healthy {
				why.WriteString("; " + s.Line())
			}
		}
		if w.guest.Healthy() {
			why.WriteString(", and the " + w.last.Supervision.Trial.Kind + " is not over")
		}
	}
	return late("%s", why.String()).Hintf("give it more time, or read %s", w.console())
}
