package torture

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sovereign-build/sovereign/internal/pause"
)

// greedy builds one value of 900 MB, more than the guest has memory.
const greedy = `SELECT length(string_agg(repeat('x', 1000), '')) FROM generate_series(1, 900000)`

// runMemory lets a query take all memory, and then a balloon half of it, with
// the writers at work. The kernel may end the database, and then init starts it
// anew; it must not end init, and the service must come back.
func runMemory(ctx context.Context, l *lab) ([]Result, error) {
	query := Result{Fault: "a query that wants more memory than there is"}
	balloon := Result{Fault: "a balloon that takes half of the memory"}
	m, err := l.newMachine(ctx, "memory", copied)
	if err != nil {
		return nil, err
	}
	if _, err := m.boot(ctx); err != nil {
		return nil, err
	}
	full, err := m.inst.Memory(ctx)
	if err != nil {
		return nil, err
	}
	var queries, balloons []time.Duration
	ended := 0
	restarts := 0
	f, err := m.checked(ctx, false, func(log *commitLog) error {
		for range max(1, l.Rounds/20) {
			died, took, err := m.eat(ctx, log)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			query.Times++
			if err != nil {
				query.Problems = append(query.Problems, err.Error())
				return nil
			}
			queries = append(queries, took)
			if died {
				ended++
			}
			begin := time.Now()
			now, err := m.inst.Balloon(ctx, full.Max/2)
			if err != nil {
				return err
			}
			balloon.Times++
			l.say("balloon: %d of %d MiB left", now.Now>>20, full.Max>>20)
			if err := m.workingAgain(ctx, log); err != nil {
				balloon.Problems = append(balloon.Problems, err.Error())
				return nil
			}
			balloons = append(balloons, time.Since(begin))
			if _, err := m.inst.Balloon(ctx, full.Max); err != nil {
				return err
			}
		}
		s, err := m.status(ctx)
		if err != nil {
			return err
		}
		for _, service := range s.Services {
			restarts += service.Restarts
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	query.Problems = append(query.Problems, f.Problems...)
	query.Heal, balloon.Heal = heal(queries), heal(balloons)
	query.Figures = []Figure{
		figure("ended by the kernel", "%d", ended), figure("refused by the server", "%d", query.Times-ended),
		figure("services started anew by init", "%d", restarts),
		figure("commits acknowledged", "%d", f.Acks), figure("in doubt", "%d", f.Doubt),
	}
	return []Result{query, balloon}, m.stop(ctx)
}

// eat runs the greedy query and says whether its connection died of it, and
// how long all took until writers commit and the guest is ready.
func (m *machine) eat(ctx context.Context, log *commitLog) (died bool, took time.Duration, err error) {
	c, err := m.connect(ctx)
	if err != nil {
		return false, 0, err
	}
	defer closeConn(c)
	limited, cancel := context.WithTimeout(ctx, healLimit)
	defer cancel()
	_, err = c.Exec(limited, greedy)
	if err == nil {
		return false, 0, errors.New("the query got the memory that there is not")
	}
	if limited.Err() != nil {
		return false, 0, fmt.Errorf("the query neither got memory nor an end: %w", err)
	}
	begin := time.Now()
	died = c.IsClosed()
	err = m.workingAgain(ctx, log)
	return died, time.Since(begin), err
}

// workingAgain waits for a commit and a guest that is ready.
func (m *machine) workingAgain(ctx context.Context, log *commitLog) error {
	if err := waitCommit(ctx, log); err != nil {
		return err
	}
	return m.guestReady(ctx, anyStatus)
}

// waitCommit waits for the next acknowledged commit.
func waitCommit(ctx context.Context, log *commitLog) error {
	ctx, cancel := context.WithTimeout(ctx, healLimit)
	defer cancel()
	for before := log.count(); log.count() == before; {
		if pause.For(ctx, 5*time.Millisecond) != nil {
			return fmt.Errorf("no commit within %v: %w", healLimit, context.Cause(ctx))
		}
	}
	return nil
}
