// Package supervisor keeps the instances of a state directory as they are
// wanted: it starts, heals, updates and stops their machines, and shares the
// one session that each guest's agent has.
//
// What is wanted comes in by the instances' records, which package machine
// writes; a connection to the supervisor's socket only makes it look at once.
// Running machines go out. It decides nothing that package machine's Step does
// not decide from what is on the disk, so that it can be killed at any moment:
// the machines run on, and the next supervisor adopts them. It never writes
// into a record or a bundle itself, and touches no instance that was started
// by run.
package supervisor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	runtime "github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

const (
	// lookEvery is how often the state directory is looked at for instances
	// that are new, without anybody having said so.
	lookEvery = 2 * time.Second
	// idleFor is how long nothing must have been wanted up before a
	// supervisor that was told to ends.
	idleFor = 3 * time.Second
)

// Options change how Run behaves.
type Options struct {
	// Report takes what is done, for people; the instance is "" where it is
	// about the supervisor itself. It is called from several goroutines.
	Report func(instance, text string)
	// StopMachines shuts the supervised machines down in order when ctx ends.
	// Without it they go on, for the next supervisor.
	StopMachines bool
	// ExitWhenIdle ends the supervisor when nothing has been wanted up for a
	// few seconds.
	ExitWhenIdle bool
}

// Run supervises until ctx ends, which is no error. Another supervisor of the
// same directory is one (fault.Usage), and so is a directory that is removed.
func Run(ctx context.Context, r *runtime.Runtime, o Options) error {
	l, err := r.Supervise(ctx)
	if err != nil {
		return err
	}
	s := &supervisor{r: r, o: o, keepers: map[string]*keeper{}, broken: map[string]string{}, poked: make(chan struct{}, 1)}
	o.Report("", "supervising "+r.Dir())
	work, cancel := context.WithCancel(ctx)
	var accepting sync.WaitGroup
	accepting.Go(func() { s.accept(l) })
	err = s.run(work, l)
	cancel()
	s.wait()
	if ctx.Err() != nil && o.StopMachines {
		err = errors.Join(err, s.stopMachines(context.WithoutCancel(ctx)))
	}
	err = errors.Join(err, l.Close())
	accepting.Wait()
	if err == nil {
		o.Report("", "ends")
	}
	return err
}

type supervisor struct {
	r       *runtime.Runtime
	o       Options
	poked   chan struct{}
	keepers map[string]*keeper
	broken  map[string]string // instances with a record that cannot be read, and why
}

// accept takes each connection for a word to look.
func (s *supervisor) accept(l *runtime.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return // it was closed
		}
		conn.Close()
		poke(s.poked)
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is going to look anyway
	}
}

func (s *supervisor) run(ctx context.Context, l *runtime.Listener) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	busy := time.Now()
	for {
		wanted, err := s.look(ctx)
		if err != nil {
			return err
		}
		if wanted {
			busy = time.Now()
		}
		if s.o.ExitWhenIdle && time.Since(busy) > idleFor {
			s.o.Report("", "nothing is wanted up")
			return nil
		}
		if l.Lost() {
			return fault.Errorf(fault.Environment, "the socket in %s was removed", s.r.Dir()).
				Hintf("remove a state directory only when its supervisor has ended")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.poked:
			for _, k := range s.keepers {
				poke(k.poked)
			}
		case <-tick.C:
		}
	}
}

// look sees to it that each supervised instance has a keeper, and says whether
// any is wanted up or on its way down.
func (s *supervisor) look(ctx context.Context) (busy bool, err error) {
	maps.DeleteFunc(s.keepers, func(_ string, k *keeper) bool { return k.over() })
	names, err := s.r.Names()
	if err != nil {
		return false, err
	}
	for _, name := range names {
		wanted, err := s.r.Supervised(name)
		if err == nil && wanted == runtime.Unsupervised {
			// Nobody else may be there to do it.
			err = s.r.BoundConsole(name)
		}
		if err != nil {
			// A record that cannot be read is its owner's to mend; the others
			// go on.
			if s.broken[name] != err.Error() {
				s.broken[name] = err.Error()
				s.o.Report(name, err.Error())
			}
			continue
		}
		delete(s.broken, name)
		if wanted == runtime.Unsupervised {
			continue
		}
		if s.keepers[name] == nil {
			s.keepers[name] = keep(ctx, s.r, name, s.o.Report)
		}
		busy = busy || wanted == runtime.Up || s.keepers[name].busy.Load()
	}
	return busy, nil
}

// wait waits for the keepers, whose context has ended.
func (s *supervisor) wait() {
	for _, k := range s.keepers {
		<-k.done
	}
}

// stopMachines shuts down what is wanted up, all at the same time.
func (s *supervisor) stopMachines(ctx context.Context) error {
	names := slices.Collect(maps.Keys(s.keepers))
	failed := make([]error, len(names))
	var wg sync.WaitGroup
	for n, name := range names {
		wg.Go(func() {
			i, err := s.r.Instance(ctx, name)
			if err == nil {
				var res runtime.StopResult
				if res, err = i.Halt(ctx, 0); err == nil && res.WasRunning {
					s.o.Report(name, fmt.Sprintf("stopped after %.1f s, until the next supervisor", res.Seconds))
				}
			}
			failed[n] = err
		})
	}
	wg.Wait()
	return errors.Join(failed...)
}
