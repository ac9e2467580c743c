package supervisor

import (
	"context"
	"errors"
	"io/fs"
	"sync/atomic"
	"time"

	runtime "github.com/sovereign-build/sovereign/internal/machine"
)

const (
	// watchEvery is how often a machine that runs is looked at: the longest
	// time until an end that nobody told of is seen.
	watchEvery = 250 * time.Millisecond
	// restEvery is the same for an instance that is down or given up.
	restEvery = 5 * time.Second
	// maxRetry bounds the pause after an error of ours, a full disk say.
	maxRetry = 30 * time.Second
)

// keeper makes one instance what it is wanted to be.
type keeper struct {
	r      *runtime.Runtime
	name   string
	report func(instance, text string)
	poked  chan struct{}
	done   chan struct{}
	busy   atomic.Bool // a machine runs
	log    string      // why the console's log could not be kept short
}

// keep begins to keep an instance, until ctx ends or nobody wants it kept.
func keep(ctx context.Context, r *runtime.Runtime, name string, report func(instance, text string)) *keeper {
	k := &keeper{r: r, name: name, report: report, poked: make(chan struct{}, 1), done: make(chan struct{})}
	k.busy.Store(true) // until it has looked
	go func() {
		defer close(k.done)
		k.run(ctx)
	}()
	return k
}

func (k *keeper) over() bool {
	select {
	case <-k.done:
		return true
	default:
		return false
	}
}

func (k *keeper) run(ctx context.Context) {
	g := newGuest(k.r, k.name, k.poked)
	defer g.follow(ctx, nil)
	trouble, retry := "", time.Second
	for {
		step, err := k.r.Step(ctx, k.name, g.seen())
		wait := restEvery
		switch {
		case ctx.Err() != nil || errors.Is(err, fs.ErrNotExist):
			return
		case err != nil:
			if err.Error() != trouble {
				trouble = err.Error()
				k.report(k.name, "cannot go on: "+trouble)
			}
			wait, retry = retry, min(2*retry, maxRetry)
		default:
			trouble, retry = "", time.Second
			k.busy.Store(step.Process != nil)
			g.follow(ctx, step.Process)
			if step.Did != "" {
				k.report(k.name, step.Did)
				g.heard() // what was done has its time to show
				continue
			}
			if step.Wanted == runtime.Unsupervised {
				return
			}
			if step.Process != nil {
				wait = watchEvery
				k.boundConsole()
			}
			if step.Wait > 0 {
				wait = min(wait, step.Wait)
			}
		}
		if !k.pause(ctx, wait) {
			return
		}
	}
}

// boundConsole keeps the console's log short. That it cannot be is said once,
// and keeps no machine from being kept.
func (k *keeper) boundConsole() {
	why := ""
	if err := k.r.BoundConsole(k.name); err != nil {
		why = err.Error()
	}
	if why != "" && why != k.log {
		k.report(k.name, "the console's log: "+why)
	}
	k.log = why
}

// pause waits for the time, or for a word; false is the end.
func (k *keeper) pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-k.poked:
	case <-t.C:
	}
	return true
}
