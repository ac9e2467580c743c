package services

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/proc"
)

// verdict of one health check.
type verdict int

const (
	healthy verdict = iota
	alive           // not ready yet; never a reason to restart
	failing
)

// startSeconds is how long a service has from its start until failed checks
// count, if it was not healthy before. A busy machine can take a minute to have
// a program answer, and a restart would only begin that anew.
const startSeconds = 300

// watch checks a running service until it ends or ctx does (nil), or until its
// checks have failed too often (the reason).
//
// While the service is not healthy, checks come fast so that readiness is seen
// early, but a failure counts only once an interval. A service that tells of
// changes by a file is checked at each of them, and little besides.
func (n *service) watch(ctx context.Context, p *proc.Process, changed <-chan struct{}) error {
	h := n.spec.Health
	timing := n.manager.opts.Timing
	interval := n.interval()
	first := timing.FirstCheck
	if changed != nil {
		first = timing.FirstWatched
	}
	pause := first
	timer := time.NewTimer(min(pause, interval)) // until the next check
	defer timer.Stop()
	if len(h.Command) == 0 {
		n.becomeHealthy(ctx, "")
		timer.Reset(interval)
	}
	begun := time.Now()
	failures, counted, checked := 0, begun, time.Time{}
	for {
		select {
		case <-p.Done():
			return nil
		case <-ctx.Done():
			return nil
		case c := <-n.changes:
			if n.takeChange(ctx, c) {
				return errRestart
			}
			if len(h.Command) == 0 {
				timer.Reset(interval)
			}
			continue
		case <-changed:
			// A file that never rests starts no program after the other.
			if rest := checked.Add(timing.BetweenWatched); time.Now().Before(rest) {
				timer.Reset(time.Until(rest))
				continue
			}
		case <-timer.C:
		}
		v, text := n.check(ctx, p)
		checked = time.Now()
		if v == failing && n.neverReady() && time.Since(begun) < startSeconds*timing.Second {
			v = alive
		}
		switch v {
		case healthy:
			n.becomeHealthy(ctx, text)
			failures, counted, pause = 0, time.Now(), interval
			if len(h.Command) == 0 && !n.pendingReload() {
				continue // there is nothing more to look for
			}
		case alive:
			n.notReady(text)
			failures, counted = 0, time.Now()
			pause = nextPause(pause, n.neverReady(), first, interval)
		default:
			n.notReady(text)
			if time.Since(counted) >= interval {
				failures, counted = failures+1, time.Now()
			}
			if failures >= h.Failures {
				return fmt.Errorf("%d health checks in a row failed: %s", failures, text)
			}
			pause = nextPause(pause, n.neverReady(), first, interval)
		}
		timer.Reset(pause)
	}
}

// nextPause backs off from first to interval while a service starts. One that
// was healthy since its start is checked at the interval.
func nextPause(pause time.Duration, starting bool, first, interval time.Duration) time.Duration {
	if !starting {
		return interval
	}
	return min(max(pause, first)*3/2, interval)
}

// defaultInterval is the spec's for a service that has no health command.
const defaultInterval = 10

// interval is the time between two checks of a healthy service.
func (n *service) interval() time.Duration {
	seconds := n.spec.Health.IntervalSeconds
	if seconds == 0 {
		seconds = defaultInterval
	}
	return time.Duration(seconds) * n.manager.opts.Timing.Second
}

// check runs the health command; a service without one is healthy. It is cut
// short when the service ends.
func (n *service) check(ctx context.Context, p *proc.Process) (verdict, string) {
	h := n.spec.Health
	if len(h.Command) == 0 {
		return healthy, ""
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(h.TimeoutSeconds)*n.manager.opts.Timing.Second)
	defer cancel()
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-p.Done():
			cancel()
		case <-done:
		}
	}()
	r, err := n.manager.opts.Procs.Output(ctx, n.attr(h.Command, n.manager.opts.Machine()))
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return failing, fmt.Sprintf("no answer within %d s", h.TimeoutSeconds)
	case err != nil:
		return failing, err.Error()
	case r.Status.Exited() && r.Status.ExitStatus() == 0:
		return healthy, firstLine(r.Stdout)
	case r.Status.Exited() && slices.Contains(h.Starting, r.Status.ExitStatus()):
		return alive, r.Text()
	}
	return failing, r.Text()
}

// becomeHealthy notes a good answer, with the warning it came with. A reload
// that is pending comes before that: whoever waits for the service is to find
// it with the secrets that he is given.
func (n *service) becomeHealthy(ctx context.Context, warning string) {
	n.reloadPending(ctx)
	var first, again, news bool
	n.update(func(s *agent.Service) {
		first, again = !n.wasReady, !s.Healthy
		news = warning != "" && warning != s.Warning
		n.wasReady = true
		s.State, s.Healthy = agent.ServiceRunning, true
		s.Message, s.Warning = warning, warning
		if again {
			n.since = time.Now()
		}
	})
	if first {
		n.started()
		close(n.ready)
	}
	if again {
		n.manager.opts.Note(n.spec.Name + ": healthy")
	}
	if news {
		n.manager.opts.Note(n.spec.Name + ": warning: " + warning)
	}
}

// notReady notes an answer other than healthy.
func (n *service) notReady(text string) {
	n.update(func(s *agent.Service) { s.Healthy, s.Message, s.Warning = false, text, "" })
}

func (n *service) isHealthy() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.status.Healthy
}

// neverReady says whether the service was not healthy since this start.
func (n *service) neverReady() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.status.State == agent.ServiceStarting
}

// unhealthy ends a healthy time, and returns how long it was.
func (n *service) unhealthy() (d time.Duration) {
	n.update(func(s *agent.Service) {
		s.Healthy, s.Warning = false, ""
		if !n.since.IsZero() {
			d = time.Since(n.since)
			n.since = time.Time{}
		}
	})
	return d
}
