// Package services runs the services of a guest spec and keeps them running:
// directories, secrets and setup commands first, then the program, its health
// checks, restarts with back-off, and an end in order. In come the spec and a
// process table; out go the state of each service and its log. It mounts
// nothing and knows nothing of the agent's protocol.
//
// # How a service lives
//
// It waits until every service it comes after was healthy once. Then, again
// and again: setup, start, checks, end. After an end for whatever reason, what
// is left of the service's control group is waited for (a PostgreSQL backend
// notices within moments that its postmaster is gone) and then killed, so that
// a new start never meets an old one. Then comes a pause: 100 ms, doubled up to
// 30 s, and 100 ms again once the service was healthy for a minute. After the
// third end in a row without such a minute the guest is degraded and says so;
// after the twentieth the service is started only every five minutes. But one
// that was healthy at all is started again after a second at most: somebody may
// be killing it. A restart asked for, or a new secret, ends a pause.
package services

import (
	"context"
	"os/user"
	"sync"
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/logs"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/proc"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

// Options of a Manager.
type Options struct {
	Spec  spec.Spec
	Procs *proc.Table
	// Cgroups is a directory of a cgroup2 file system whose children are
	// made for the services; "" runs them without (in tests of the rest).
	Cgroups string
	// Lookup finds users; nil: in the image's /etc/passwd.
	Lookup func(name string) (*user.User, []string, error)
	// ImageDate is when the root image was made: a clock before it is wrong.
	ImageDate time.Time
	// Machine describes the machine as variables of the environment, at each
	// start of a service's command; nil: not at all.
	Machine func() map[string]string
	// Settle waits until the machine is as Machine described it, or as it will
	// be for now. A service's setup does not wait for that, its program does;
	// nil: there is nothing to wait for.
	Settle func(context.Context)
	// Phase is told when a part of a service's first start begins, and
	// returns what to call at its end; nil: nobody.
	Phase func(name string) (end func())
	// Note is told, in a short line, when a service changes; nil: nobody.
	Note func(string)
	// Changed is called when Services or State has something new to say; nil:
	// nobody. It must not wait.
	Changed func()
	// Timing; the zero value is what the package comment says.
	Timing Timing
}

// Timing holds the durations that the spec does not.
type Timing struct {
	BackoffMin, BackoffMax time.Duration // pause before a restart
	BackoffReset           time.Duration // healthy for so long: the pause is BackoffMin again
	HealedMax              time.Duration // pause at most after a life in which it was healthy
	LoopPause              time.Duration // pause once the ends in a row are a crash loop for long
	FirstCheck             time.Duration // pause before the first health check after a start
	FirstWatched           time.Duration // the same for a service that tells of changes by a file
	BetweenWatched         time.Duration // pause at least between two checks for changes of that file
	Drain                  time.Duration // how long leftovers of a service have before KILL
	Second                 time.Duration // what the spec's seconds are worth
}

func (t Timing) withDefaults() Timing {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&t.BackoffMin, 100*time.Millisecond)
	set(&t.BackoffMax, 30*time.Second)
	set(&t.BackoffReset, time.Minute)
	set(&t.FirstCheck, 5*time.Millisecond)
	set(&t.FirstWatched, time.Second)
	set(&t.BetweenWatched, 50*time.Millisecond)
	set(&t.HealedMax, time.Second)
	set(&t.LoopPause, 5*time.Minute)
	set(&t.Drain, 10*time.Second)
	set(&t.Second, time.Second)
	return t
}

// Manager runs the services of one spec.
type Manager struct {
	opts     Options
	services []*service
	byName   map[string]*service
}

// New checks the spec and makes a Manager that has started nothing yet.
func New(o Options) (*Manager, error) {
	if err := Check(o.Spec); err != nil {
		return nil, err
	}
	o.Timing = o.Timing.withDefaults()
	if o.Note == nil {
		o.Note = func(string) {}
	}
	if o.Changed == nil {
		o.Changed = func() {}
	}
	if o.Machine == nil {
		o.Machine = func() map[string]string { return nil }
	}
	if o.Settle == nil {
		o.Settle = func(context.Context) {}
	}
	if o.Phase == nil {
		o.Phase = func(string) func() { return func() {} }
	}
	s := &Manager{opts: o, byName: map[string]*service{}}
	for _, v := range o.Spec.Services {
		n := newService(s, v)
		s.services = append(s.services, n)
		s.byName[v.Name] = n
	}
	for _, n := range s.services {
		for _, a := range n.spec.After {
			n.after = append(n.after, s.byName[a])
			s.byName[a].before = append(s.byName[a].before, n)
		}
	}
	return s, nil
}

// Run starts the services and returns when ctx has ended and every service
// has, in reverse order of the starts: one that comes after another ends
// first.
func (s *Manager) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, n := range s.services {
		all.Go(func() { n.run(ctx) })
	}
	all.Wait()
}

// Services returns the status of each service, in the order of the spec.
func (s *Manager) Services() []agent.Service {
	out := make([]agent.Service, 0, len(s.services))
	for _, n := range s.services {
		out = append(out, n.snapshot())
	}
	return out
}

// State sums the services up, but for optional ones, with a message for any
// state but ready.
func (s *Manager) State() (agent.State, string) {
	state, message := agent.StateReady, ""
	rank := map[agent.State]int{agent.StateReady: 0, agent.StateStarting: 1, agent.StateSetup: 2, agent.StateDegraded: 3}
	for _, n := range s.services {
		if n.spec.Optional {
			continue
		}
		st, msg := n.overall()
		if rank[st] > rank[state] {
			state, message = st, n.spec.Name+": "+msg
		}
	}
	return state, message
}

// Log returns a service's log.
func (s *Manager) Log(service string) (*logs.Log, error) {
	n, ok := s.byName[service]
	if !ok {
		return nil, unknownService(service)
	}
	return n.log, nil
}

// lookupUser finds a user and the ids of its groups in the image.
func lookupUser(name string) (*user.User, []string, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, nil, err
	}
	groups, err := u.GroupIds()
	return u, groups, err
}
