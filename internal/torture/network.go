package torture

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/sovereign-build/sovereign/internal/pause"
)

const (
	// simulated is what the schedule of outages stands for.
	simulated = 24 * time.Hour
	// outageEvery is the mean time between two outages in it: a phone that
	// moves.
	outageEvery = 15 * time.Minute
	// shortest is the shortest outage in real time: a few lost packets.
	shortest = 20 * time.Millisecond
)

// outage is one time without a network, in simulated time.
type outage struct{ At, For time.Duration }

// outages draws a day: most are a handover between two cells, some a tunnel, a
// few an hour in a cellar.
func outages(rng *rand.Rand) []outage {
	var all []outage
	for at := time.Duration(0); ; {
		at += time.Duration(rng.ExpFloat64() * float64(outageEvery))
		var o outage
		switch p := rng.Float64(); {
		case p < 0.70:
			o = outage{at, between(rng, time.Second, 30*time.Second)}
		case p < 0.95:
			o = outage{at, between(rng, 30*time.Second, 10*time.Minute)}
		default:
			o = outage{at, between(rng, 10*time.Minute, time.Hour)}
		}
		if at += o.For; at >= simulated {
			return all
		}
		all = append(all, o)
	}
}

// runNetwork takes the guest's network away and gives it back, on a schedule
// of a day that is compressed into some minutes. The timers of TCP are not
// compressed with it: seen from them the network is worse than the schedule.
func runNetwork(ctx context.Context, l *lab) ([]Result, error) {
	rng := l.random("network")
	m, err := l.newMachine(ctx, "network", copied)
	if err != nil {
		return nil, err
	}
	if _, err := m.boot(ctx); err != nil {
		return nil, err
	}
	total := min(max(20*time.Second, time.Duration(l.Rounds)*3*time.Second/2), 5*time.Minute)
	all := outages(rng)
	res := Result{Fault: "24 hours of an unsteady network, compressed"}
	var heals []time.Duration
	var dark time.Duration
	f, err := m.checked(ctx, false, func(log *commitLog) error {
		begin := time.Now()
		scale := func(d time.Duration) time.Duration {
			return time.Duration(float64(d) * float64(total) / float64(simulated))
		}
		for i, o := range all {
			if err := pause.For(ctx, time.Until(begin.Add(scale(o.At)))); err != nil {
				return err
			}
			if err := m.link(ctx, false); err != nil {
				return err
			}
			dark += o.For
			if err := pause.For(ctx, max(shortest, scale(o.For))); err != nil {
				return errors.Join(err, m.link(context.WithoutCancel(ctx), true))
			}
			before, up := log.count(), time.Now()
			if err := m.link(ctx, true); err != nil {
				return err
			}
			// The time to the first commit, unless the next outage comes first.
			end := begin.Add(total)
			if i+1 < len(all) {
				end = begin.Add(scale(all[i+1].At))
			}
			for time.Now().Before(end) {
				if log.count() > before {
					heals = append(heals, time.Since(up))
					break
				}
				if err := pause.For(ctx, 5*time.Millisecond); err != nil {
					return err
				}
			}
			res.Times++
		}
		if err := m.answers(ctx, selects); err != nil {
			res.Problems = append(res.Problems, "after the last outage: "+err.Error())
			return nil
		}
		if err := m.guestReady(ctx, anyStatus); err != nil {
			res.Problems = append(res.Problems, "after the last outage: "+err.Error())
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	res.Problems = append(res.Problems, f.Problems...)
	res.Heal = heal(heals)
	res.Figures = []Figure{
		figure("run in", "%.0f s", total.Seconds()), figure("simulated time without a network", "%.1f h", dark.Hours()),
		figure("commits acknowledged", "%d", f.Acks), figure("in doubt", "%d", f.Doubt),
	}
	return []Result{res}, m.stop(ctx)
}

// link takes the cable of the guest's network card out, or puts it back.
func (m *machine) link(ctx context.Context, up bool) error {
	return m.qmp(ctx, "set_link", map[string]any{"name": "net0", "up": up})
}
