package torture

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sovereign-build/sovereign/internal/pause"
)

// controlRounds bounds how often the control is tried before it has failed: a
// cut may come at a moment when nothing was in the cache.
const controlRounds = 5

// runControl cuts the power of a disk that acknowledges flushes and does
// nothing. The experiment must see a loss, or its other answers are worth
// nothing.
func runControl(ctx context.Context, l *lab) ([]Result, error) {
	rng := l.random("control")
	res := Result{Fault: "control: a disk that ignores flushes"}
	for i := 1; i <= controlRounds; i++ {
		m, err := l.newMachine(ctx, fmt.Sprintf("control%d", i), copied)
		if err != nil {
			return nil, err
		}
		m.lossy, m.lies = true, true
		seen, err := m.control(ctx, func() error {
			_, err := m.cut(ctx, rng)
			return err
		})
		if err != nil {
			return nil, err
		}
		res.Times++
		if seen != "" {
			res.Figures = append(res.Figures, figure("seen", "%s", seen))
			return []Result{res}, l.cutAll(ctx)
		}
		if err := l.cutAll(ctx); err != nil {
			return nil, err
		}
	}
	res.Problems = append(res.Problems, "no loss was seen: the experiment is blind")
	return []Result{res}, nil
}

// control commits rows, cuts, and says what the loss looked like; empty for
// none.
func (m *machine) control(ctx context.Context, cut func() error) (seen string, err error) {
	if _, err := m.boot(ctx); err != nil {
		return "", err
	}
	work, err := m.startLoad(ctx, false)
	if err != nil {
		return "", err
	}
	if err := errors.Join(waitCommit(ctx, m.log), pause.For(ctx, 3*time.Second)); err != nil {
		return "", errors.Join(err, work.stop())
	}
	if err := cut(); err != nil {
		return "", err
	}
	if err := work.stop(); err != nil {
		return "", err
	}
	// A database that lost its log may try to start for ever.
	limited, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if _, err := m.boot(limited); err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		return "a boot that failed", nil
	}
	f, err := m.verify(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		return "a database that cannot be read", nil
	}
	if len(f.Problems) > 0 {
		return "acknowledged commits lost", nil
	}
	return "", nil
}
