package daemon

import (
	"context"
	"errors"
	"io/fs"
	"sync/atomic"
	"time"

	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

const (
	// restEvery is how often a machine is looked at although nobody has told of
	// anything: what is told of is told by the kernel and by the guest.
	restEvery = 5 * time.Minute
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
}

// keep begins to keep a machine, until ctx ends or it is removed.
func keep(ctx context.Context, d *daemon, name string) *keeper {
	k := &keeper{d: d, name: name, poked: make(chan struct{}, 1), done: make(chan struct{})}
	k.guest = newGuest(d.r, name, k.look, func() { poke(k.poked) }, func() {
		d.hub.tell(0, runtime.Event{Phase: runtime.PhaseKernel, Machine: name, Text: "the kernel boots"})
	}, k.keepConsole)
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
			if step.Process != nil {
				// Its guest is reached all the same, by the next sovereignd too: with
				// a full disk of the host, say, on which nothing can be noted.
				g.follow(ctx, step.Process)
			}
		default:
			trouble, retry = "", time.Second
			if busy := step.Process != nil; k.busy.Swap(busy) != busy {
				poke(k.d.poked) // it may be idle now
			}
			g.follow(ctx, step.Process)
			k.d.backups.Seen(k.name, g.seen())
			if step.Did != "" {
				if !step.Quiet {
					k.d.report(k.name, step.Did)
				}
				g.heard() // what was done has its time to show
				k.d.publish(ctx, k.name)
				continue
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

// keepConsole keeps the console's log short, until ctx ends. That it cannot be is
// said once, and keeps no machine from being kept.
func (k *keeper) keepConsole(ctx context.Context) {
	trouble := ""
	for ctx.Err() == nil {
		err := k.d.r.KeepConsole(ctx, k.name)
		if err == nil {
			return
		}
		if err.Error() != trouble {
			trouble = err.Error()
			k.d.report(k.name, "the console's log: "+trouble)
		}
		pause.For(ctx, maxRetry)
	}
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
