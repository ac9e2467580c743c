package torture

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// clockWait is how long the writers work after each change of the clock.
const clockWait = 3 * time.Second

// runClock boots with a clock that is wrong, sets it forwards and backwards
// while the writers work, and boots with the right one again: the rows in it
// then have stamps from the future.
func runClock(ctx context.Context, l *lab) ([]Result, error) {
	start := Result{Fault: "a clock that is wrong at the start"}
	jump := Result{Fault: "a clock that jumps under load"}
	var boots, jumps []time.Duration
	m, err := l.newMachine(ctx, "clock", copied)
	if err != nil {
		return nil, err
	}
	for _, base := range []string{"2001-01-01T00:00:00", "2037-12-31T23:59:50", ""} {
		m.extra = nil
		if base != "" {
			m.extra = []string{"-rtc", "base=" + base}
		}
		// A guest that knows that its clock is wrong is not ready, and says so.
		// Its database has to answer all the same.
		boot := m.serve
		if base == "" {
			boot = m.boot
		}
		took, err := boot(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			start.Problems = append(start.Problems, fmt.Sprintf("clock at %q: %v", base, err))
			break
		}
		start.Times++
		boots = append(boots, took)
		s, err := m.status(ctx)
		if err != nil {
			return nil, err
		}
		start.Figures = append(start.Figures, figure(cmp.Or(base, "the right time"), "%s (clock: %s)", s.State, cmp.Or(s.Clock, "not told")))
		f, err := m.checked(ctx, false, func(log *commitLog) error {
			if base != "" {
				return pause.For(ctx, clockWait)
			}
			for _, by := range []time.Duration{24 * time.Hour, -48 * time.Hour, 365 * 24 * time.Hour, -364 * 24 * time.Hour} {
				took, err := m.jumpClock(ctx, by, log)
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				jump.Times++
				if err != nil {
					jump.Problems = append(jump.Problems, fmt.Sprintf("by %v: %v", by, err))
					return nil
				}
				jumps = append(jumps, took)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		start.Problems = append(start.Problems, f.Problems...)
		if err := m.stop(ctx); err != nil {
			start.Problems = append(start.Problems, err.Error())
		}
	}
	start.Heal, jump.Heal = heal(boots), heal(jumps)
	return []Result{start, jump}, nil
}

// jumpClock sets the guest's clock and returns the time until a commit and a
// guest that is ready, with no service started anew.
func (m *machine) jumpClock(ctx context.Context, by time.Duration, log *commitLog) (time.Duration, error) {
	before, err := m.status(ctx)
	if err != nil {
		return 0, err
	}
	var now bytes.Buffer
	if err := m.run(ctx, &now, "date", "+%s"); err != nil {
		return 0, err
	}
	var seconds int64
	if _, err := fmt.Sscan(strings.TrimSpace(now.String()), &seconds); err != nil {
		return 0, fmt.Errorf("date +%%s printed %q: %w", now.String(), err)
	}
	begin := time.Now()
	if err := m.run(ctx, nil, "date", "-s", fmt.Sprintf("@%d", seconds+int64(by.Seconds()))); err != nil {
		return 0, err
	}
	if err := waitCommit(ctx, log); err != nil {
		return 0, err
	}
	err = m.guestReady(ctx, func(s *agent.Status) bool { return sameProcesses(before, s) })
	took := time.Since(begin)
	if err != nil {
		return took, err
	}
	return took, pause.For(ctx, clockWait)
}

// run runs a program in the guest as root.
func (m *machine) run(ctx context.Context, out *bytes.Buffer, argv ...string) error {
	var problem bytes.Buffer
	std := agent.ExecIO{Stderr: &problem}
	if out != nil {
		std.Stdout = out
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	code, err := m.exec(ctx, argv, std)
	if err == nil && code != 0 {
		err = fmt.Errorf("%s: exit status %d: %s", argv[0], code, strings.TrimSpace(problem.String()))
	}
	return err
}
