package daemon

import (
	"context"
	"errors"
	"io/fs"
	"sync/atomic"
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime"
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

// keeper makes one machine what it is wanted to be.
type keeper struct {
	d     *daemon
	name  string
	guest *guest
	poked chan struct{}
	done  chan struct{}
	busy  atomic.Bool // a machine runs
	news  atomic.Bool // what the machine is may have changed
	log   string      // why the console's log could not be kept short
}

// keep begins to keep a machine, until ctx ends or it is removed.
func keep(ctx context.Context, d *daemon, name string) *keeper {
	k := &keeper{d: d, name: name, poked: make(chan struct{}, 1), done: make(chan struct{})}
	k.guest = newGuest(d.r, name, k.look, func() {
		d.hub.tell(0, runtime.Event{Phase: runtime.PhaseKernel, Machine: name, Text: "the kernel boots"})
	})
	k.busy.Store(true) // until it has looked
	go func() {
		defer close(k.done)
		k.run(ctx)
	}()
	return k
}

// look has the keeper look at the machine now, and tell what it is.
func (k *keeper) look() {
	k.news.Store(true)
	poke(k.poked)
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
	g := k.guest
	defer g.follow(ctx, nil)
	trouble, retry := "", time.Second
	for {
		news := k.news.Swap(false)
		step, err := k.d.r.Step(ctx, k.name, g.seen())
		wait := restEvery
		switch {
		case ctx.Err() != nil || errors.Is(err, fs.ErrNotExist):
			return
		case err != nil:
			if err.Error() != trouble {
				trouble = err.Error()
				k.d.report(k.name, "cannot go on: "+trouble)
			}
			wait, retry = retry, min(2*retry, maxRetry)
		default:
			trouble, retry = "", time.Second
			k.busy.Store(step.Process != nil)
			g.follow(ctx, step.Process)
			if step.Did != "" {
				k.d.report(k.name, step.Did)
				g.heard() // what was done has its time to show
				k.d.publish(ctx, k.name)
				continue
			}
			if step.Process != nil {
				wait = watchEvery
				k.boundConsole()
			}
			if step.Wait > 0 {
				wait = min(wait, step.Wait)
			}
		}
		if news {
			k.d.publish(ctx, k.name)
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
	if err := k.d.r.BoundConsole(k.name); err != nil {
		why = err.Error()
	}
	if why != "" && why != k.log {
		k.d.report(k.name, "the console's log: "+why)
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
