// Package clock keeps the guest's time: what the kernel took from the
// machine's own clock at the start, and then what time servers say, by SNTP.
// In come the servers and a time that has certainly passed; out goes a kernel
// clock that is right, and a word on where its time comes from. It invents no
// time: a clock that nobody can set is reported and left as it is.
package clock

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

const (
	// stepOver is the error that is worth a jump after the first setting; less
	// is made up slowly, by 0.5 ms a second, as adjtime(3).
	stepOver = 500 * time.Millisecond
	// pollMin and pollMax are the pauses between two questions that were
	// answered, as RFC 5905's MINPOLL and its default MAXPOLL.
	pollMin, pollMax = 64 * time.Second, 1024 * time.Second
	// calm is the error up to which the pauses grow.
	calm = 20 * time.Millisecond
	// retryMin and retryMax are the pauses after questions without an answer.
	retryMin, retryMax = 2 * time.Second, 10 * time.Minute
)

// Options of a Keeper.
type Options struct {
	// Earliest is a time that has passed: when the root image was made.
	Earliest time.Time
	// Servers of the command line: names or addresses, asked in order.
	Servers []string
	// Report is told where the time comes from, and what is wrong with it.
	Report func(source agent.Clock, err error)
	// Note is told, in a short line, when the clock was set.
	Note func(string)
}

// Keeper keeps the clock.
type Keeper struct {
	opts   Options
	kernel kernel
	query  func(ctx context.Context, server string, earliest time.Time) (sample, error)

	mu    sync.Mutex
	found []string      // by DHCP
	news  chan struct{} // holds one when found has changed
}

// kernel is the clock that is kept.
type kernel interface {
	now() time.Time
	step(to time.Time) error
	slew(by time.Duration) error
}

// New makes a Keeper.
func New(o Options) *Keeper {
	return &Keeper{opts: o, kernel: system{}, query: query, news: make(chan struct{}, 1)}
}

// Found replaces the servers that were found on the network; they are asked
// after those of the options.
func (k *Keeper) Found(servers []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if slices.Equal(k.found, servers) {
		return
	}
	k.found = slices.Clone(servers)
	select {
	case k.news <- struct{}{}:
	default:
	}
}

// Run keeps the clock until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	source := k.initial()
	for pause, set := time.Duration(0), false; ; {
		select {
		case <-ctx.Done():
			return
		case <-k.news:
			pause = 0 // and ask at once
		case <-time.After(pause):
		}
		servers := k.servers()
		if len(servers) == 0 {
			pause = pollMax // until there is news
			continue
		}
		s, err := k.ask(ctx, servers)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = k.apply(s, !set)
		}
		if err != nil {
			// The clock runs on by itself; without ever having been right, it
			// is wrong.
			if source == agent.ClockUnset {
				k.opts.Report(source, fmt.Errorf("clock: %v is before the image was made: %w", k.kernel.now().UTC().Format(time.DateTime), err))
			}
			pause = jitter(min(max(2*pause, retryMin), retryMax))
			if set {
				pause = max(pause, pollMin)
			}
			continue
		}
		source, set = agent.ClockNTP, true
		k.opts.Report(source, nil)
		if s.offset.Abs() < calm {
			pause = min(max(2*pause, pollMin), pollMax)
		} else {
			pause = pollMin
		}
	}
}

// initial reports what the kernel has made of the machine's clock.
func (k *Keeper) initial() agent.Clock {
	if now := k.kernel.now(); now.Before(k.opts.Earliest) {
		k.opts.Report(agent.ClockUnset, fmt.Errorf("clock: %v is before the image was made: give the machine a real-time clock, or the guest a time server (sovereign.ntp)", now.UTC().Format(time.DateTime)))
		return agent.ClockUnset
	}
	k.opts.Report(agent.ClockRTC, nil)
	return agent.ClockRTC
}

func (k *Keeper) servers() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append(slices.Clone(k.opts.Servers), k.found...)
}

// ask asks the servers in order until one answers.
func (k *Keeper) ask(ctx context.Context, servers []string) (sample, error) {
	var errs error
	for _, server := range servers {
		s, err := k.query(ctx, server, k.opts.Earliest)
		if err == nil {
			return s, nil
		}
		errs = errors.Join(errs, err)
	}
	return sample{}, errs
}

// apply sets the clock at first, and corrects it later.
func (k *Keeper) apply(s sample, first bool) error {
	to := k.kernel.now().Add(s.offset)
	if to.Before(k.opts.Earliest) {
		return fmt.Errorf("time server: %v is before the image was made", to.UTC().Format(time.DateTime))
	}
	if s.offset.Abs() < stepOver && (!first || s.offset.Abs() < calm) {
		return k.kernel.slew(s.offset)
	}
	if err := k.kernel.step(to); err != nil {
		return fmt.Errorf("clock: set: %w", err)
	}
	k.opts.Note(fmt.Sprintf("clock set by %+.3f s to %s", s.offset.Seconds(), to.UTC().Format(time.RFC3339)))
	return nil
}

// jitter keeps guests that were started together from asking together.
func jitter(d time.Duration) time.Duration { return d + rand.N(d/4+1) }

// system is the kernel's own clock.
type system struct{}

func (system) now() time.Time { return time.Now().Round(0) }

func (system) step(to time.Time) error {
	tv := unix.NsecToTimeval(to.UnixNano())
	return unix.Settimeofday(&tv)
}

func (system) slew(by time.Duration) error {
	const adjOffsetSingleshot = 0x8001 // ADJ_OFFSET_SINGLESHOT, <linux/timex.h>
	t := unix.Timex{Modes: adjOffsetSingleshot}
	setOffset(&t, by.Microseconds())
	if _, err := unix.Adjtimex(&t); err != nil {
		return fmt.Errorf("clock: adjtimex: %w", err)
	}
	return nil
}

// setOffset fits the field's type, which differs by architecture.
func setOffset(t *unix.Timex, us int64) { t.Offset = us }
