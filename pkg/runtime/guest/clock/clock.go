// Package clock keeps the guest's time: what the kernel took from the
// machine's own clock at the start, and then what time servers say, by SNTP.
// In come the servers and a time that has certainly passed; out goes a kernel
// clock that is right, and a word on where its time comes from. It invents no
// time: a clock that nobody can set is reported and left as it is.
//
// # A machine that was paused
//
// The kernel's clock stands still while a machine is paused or its host sleeps;
// the machine's own clock, which is the host's, does not. So that one is read
// every minute, and whenever somebody who may know better asks for it: where it
// has gone on by more than the kernel's, the kernel's has missed something.
// Without time servers it is the time itself; with them it only tells how much
// was missed, as the host's clock may be wrong by a constant.
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
	// lookEvery is the pause between two looks at the machine's clock.
	lookEvery = time.Minute
	// missedOver is what the kernel's clock has to have missed to be set by the
	// machine's, which tells whole seconds and is half of one wrong, twice.
	missedOver = 2 * time.Second
	// farOff is what a server may not change the clock by once it was set,
	// unless the machine's clock agrees: nobody proves to be a time server, and
	// a wrong year ends certificates and leases.
	farOff = 24 * time.Hour
)

// errFarOff is a server's answer that is not followed.
var errFarOff = errors.New("more than a day is not followed once the clock was set: mend the server, or restart the machine if it is the clock that is wrong")

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
	opts    Options
	kernel  kernel
	machine func() (time.Time, error) // the machine's own clock
	query   func(ctx context.Context, server string, earliest time.Time) (sample, error)
	looks   chan struct{} // holds one when a look is asked for

	// Of the goroutine that runs.
	source agent.Clock
	set    bool          // by a server
	ahead  time.Duration // of the kernel's clock is the machine's when both are right

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
	return &Keeper{opts: o, kernel: system{}, machine: machineTime, query: query,
		looks: make(chan struct{}, 1), news: make(chan struct{}, 1)}
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

// Look has the keeper look at the machine's clock soon: for who has a hint that
// the machine was paused, and for who is about to be told the time.
func (k *Keeper) Look() {
	select {
	case k.looks <- struct{}{}:
	default:
	}
}

// Run keeps the clock until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	k.source = k.initial()
	pause := time.Duration(0)
	ask := time.NewTimer(0)
	defer ask.Stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		asked := true
		select {
		case <-ctx.Done():
			return
		case <-ask.C:
		case <-k.news:
			pause = 0 // as at the start
		case <-look.C:
			asked = false
		case <-k.looks:
			asked = false
		}
		if missed := k.missed(); missed.Abs() > missedOver {
			if !k.set {
				k.follow(missed)
			}
		} else if !asked {
			continue
		}
		pause = k.ask(ctx, pause)
		ask.Reset(pause)
	}
}

// ask has the servers set or correct the clock, or else the machine's clock,
// and returns the pause until the next question, after that of the last one.
func (k *Keeper) ask(ctx context.Context, last time.Duration) (pause time.Duration) {
	servers := k.servers()
	if len(servers) == 0 {
		if missed := k.missed(); missed.Abs() > missedOver {
			k.follow(missed) // those of DHCP are gone
		}
		return pollMax // until there is news
	}
	s, err := k.answer(ctx, servers)
	if ctx.Err() != nil {
		return pollMax
	}
	if err == nil {
		err = k.apply(s)
	}
	if err == nil {
		k.source, k.set = agent.ClockNTP, true
		k.opts.Report(k.source, nil)
		if s.offset.Abs() < calm {
			return min(max(2*last, pollMin), pollMax)
		}
		return pollMin
	}
	if missed := k.missed(); missed.Abs() > missedOver {
		k.follow(missed)
	}
	// The clock runs on by itself; without ever having been right, it is
	// wrong.
	switch {
	case k.source == agent.ClockUnset:
		k.opts.Report(k.source, fmt.Errorf("clock: %v is before the image was made: %w", k.kernel.now().UTC().Format(time.DateTime), err))
	case errors.Is(err, errFarOff):
		k.opts.Report(k.source, fmt.Errorf("clock: %w", err))
	}
	pause = jitter(min(max(2*last, retryMin), retryMax))
	if k.set {
		pause = max(pause, pollMin)
	}
	return pause
}

// missed is by how much the machine's clock has gone on more than the kernel's;
// nothing where it cannot be read.
func (k *Keeper) missed() time.Duration {
	at, err := k.machine()
	if err != nil {
		return 0
	}
	return at.Sub(k.kernel.now()) - k.ahead
}

// follow makes up for what the kernel's clock has missed.
func (k *Keeper) follow(missed time.Duration) {
	to := k.kernel.now().Add(missed)
	if to.Before(k.opts.Earliest) {
		return // the machine's clock is not right either
	}
	if err := k.kernel.step(to); err != nil {
		k.opts.Note(fmt.Sprintf("clock: set: %v", err))
		return
	}
	k.opts.Note(fmt.Sprintf("clock set by %+.3f s to %s, as the machine's: it was paused, or its clock was set", missed.Seconds(), to.UTC().Format(time.RFC3339)))
	if k.source == agent.ClockUnset {
		k.source = agent.ClockRTC
		k.opts.Report(k.source, nil)
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

// answer asks the servers in order until one gives an answer to follow.
func (k *Keeper) answer(ctx context.Context, servers []string) (sample, error) {
	var errs error
	for _, server := range servers {
		s, err := k.query(ctx, server, k.opts.Earliest)
		if err == nil {
			if err = k.credible(s); err == nil {
				return s, nil
			}
			err = fmt.Errorf("time server %s: %w", server, err)
		}
		errs = errors.Join(errs, err)
	}
	return sample{}, errs
}

// credible says whether an answer is to be followed.
func (k *Keeper) credible(s sample) error {
	to := k.kernel.now().Add(s.offset)
	if to.Before(k.opts.Earliest) {
		return fmt.Errorf("%v is before the image was made", to.UTC().Format(time.DateTime))
	}
	if k.set && s.offset.Abs() > farOff && (s.offset-k.missed()).Abs() > farOff {
		return fmt.Errorf("%v, which is %+.0f hours from the clock: %w", to.UTC().Format(time.DateTime), s.offset.Hours(), errFarOff)
	}
	return nil
}

// apply sets the clock at first, and corrects it later.
func (k *Keeper) apply(s sample) error {
	now := k.kernel.now()
	to := now.Add(s.offset)
	if at, err := k.machine(); err == nil {
		k.ahead = at.Sub(to)
	}
	if s.offset.Abs() < stepOver && (k.set || s.offset.Abs() < calm) {
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
