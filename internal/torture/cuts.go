package torture

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	engine "github.com/sovereign-build/sovereign/internal/machine"

	"github.com/sovereign-build/sovereign/internal/pause"
)

// deepEvery is the number of power cuts between two looks at every block.
const deepEvery = 25

// cutter is the family's state.
type cutter struct {
	l    *lab
	rng  *rand.Rand
	base *machine // the machine that lives from cut to cut, or nil
	rows map[string]*cutRow
	made int
	deep Result
}

func runCuts(ctx context.Context, l *lab) ([]Result, error) {
	c := &cutter{l: l, rng: l.random("cuts"), rows: map[string]*cutRow{},
		deep: Result{Fault: "every block and index looked at after the cuts"}}
	err := c.runAll(ctx)
	var results []Result
	for _, kind := range []string{cutFirst, cutLoad, cutRecovery} {
		for _, lossy := range []bool{false, true} {
			if row := c.rows[rowKey(kind, lossy)]; row != nil {
				results = append(results, row.result(kind, lossy))
			}
		}
	}
	if c.deep.Times > 0 {
		results = append(results, c.deep)
	}
	return results, err
}

func (c *cutter) runAll(ctx context.Context) error {
	since := 0 // cuts of the base since it was looked at
	all := plans(c.rng, c.l.Rounds)
	for i, p := range all {
		if i > 0 && p.group() != all[i-1].group() {
			if err := c.retire(ctx); err != nil {
				return err
			}
			since = 0
		}
		c.l.say("cut %d of %d: %s, lossy=%t", i+1, len(all), p.Kind, p.Lossy)
		if p.Kind == cutFirst {
			if err := c.first(ctx, i+1, p); err != nil {
				return err
			}
			continue
		}
		if err := c.load(ctx, i+1, p); err != nil {
			return err
		}
		if since++; since%deepEvery == 0 {
			if err := c.look(ctx); err != nil {
				return err
			}
		}
	}
	return c.retire(ctx)
}

// first cuts into the first boot of a blank disk: kernel, format, initdb. The
// next boot has to make a working server of what is there.
func (c *cutter) first(ctx context.Context, round int, p cutPlan) error {
	row := c.row(p)
	c.made++
	m, err := c.l.newMachine(ctx, fmt.Sprintf("first%d", c.made), blank)
	if err != nil {
		return err
	}
	m.lossy = p.Lossy
	if err := m.start(ctx); err != nil {
		return err
	}
	phase, err := m.watchFor(ctx, time.Duration(p.Share*1.05*float64(c.l.firstBoot)))
	if err != nil {
		return err
	}
	row.phases[phase]++
	loss, err := m.cut(ctx, c.rng)
	if err != nil {
		return err
	}
	row.add(loss)
	took, err := m.boot(ctx)
	if err != nil {
		return c.failed(ctx, row, round, "the boot after the cut failed", err)
	}
	row.heals = append(row.heals, took)
	if err := m.works(ctx); err != nil {
		return c.failed(ctx, row, round, "the server after the cut", err)
	}
	if err := m.stop(ctx); err != nil {
		return c.failed(ctx, row, round, "the stop after the cut", err)
	}
	return c.l.drop(ctx, m)
}

// load cuts into a machine under load; for cutRecovery the boot after it is
// cut again.
func (c *cutter) load(ctx context.Context, round int, p cutPlan) error {
	row := c.row(p)
	s, err := c.subject(ctx, p.Lossy)
	if err != nil {
		return err
	}
	work, err := s.startLoad(ctx, true)
	if err != nil {
		return err
	}
	before := s.log.count()
	// The time under load begins with the first commit: how long it takes to
	// connect depends on this machine.
	if err := errors.Join(waitCommit(ctx, s.log), pause.For(ctx, p.Work)); err != nil {
		return errors.Join(err, work.stop())
	}
	loss, err := s.cut(ctx, c.rng)
	if err := errors.Join(err, work.stop()); err != nil {
		return err
	}
	row.add(loss)
	row.acks += s.log.count() - before
	if p.Kind == cutRecovery {
		if err := s.start(ctx); err != nil {
			return err
		}
		phase, err := s.watchFor(ctx, time.Duration(p.Share*1.05*float64(s.took)))
		if err != nil {
			return c.failed(ctx, row, round, "the boot between two cuts failed", err)
		}
		row.phases[phase]++
		loss, err := s.cut(ctx, c.rng)
		if err != nil {
			return err
		}
		row.add(loss)
	}
	took, err := s.boot(ctx)
	if err != nil {
		return c.failed(ctx, row, round, "the boot after the cut failed", err)
	}
	row.heals = append(row.heals, took)
	f, err := s.verify(ctx)
	row.doubt += f.Doubt
	if err != nil {
		f.Problems = append(f.Problems, "reading the rows after the cut: "+err.Error())
	}
	if len(f.Problems) > 0 {
		return c.failed(ctx, row, round, strings.Join(f.Problems, "; "), nil)
	}
	return nil
}

// failed notes a problem and sets the machine aside as it is: the next round
// begins with a new one.
func (c *cutter) failed(ctx context.Context, row *cutRow, round int, what string, err error) error {
	if ctx.Err() != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	text := fmt.Sprintf("round %d: %s", round, what)
	if err != nil {
		text += ": " + err.Error()
	}
	row.problems = append(row.problems, text)
	c.l.say("PROBLEM: %s", text)
	c.base = nil
	return c.l.cutAll(ctx)
}

// subject returns the machine that is cut under load, running.
func (c *cutter) subject(ctx context.Context, lossy bool) (*machine, error) {
	if c.base != nil {
		return c.base, nil
	}
	c.made++
	m, err := c.l.newMachine(ctx, fmt.Sprintf("cut%d", c.made), copied)
	if err != nil {
		return nil, err
	}
	m.lossy = lossy
	c.base = m
	_, err = m.boot(ctx)
	return m, err
}

// retire looks at the machine that lives a last time and stops it in order.
func (c *cutter) retire(ctx context.Context) error {
	if c.base == nil {
		return nil
	}
	if err := c.look(ctx); err != nil {
		return err
	}
	s := c.base
	c.base = nil
	return s.stop(ctx)
}

// look reads everything of the machine that lives.
func (c *cutter) look(ctx context.Context) error {
	s := c.base
	problems, blocks, err := s.deepCheck(ctx)
	if err != nil {
		return err
	}
	f, err := s.verifyAll(ctx)
	if err != nil {
		return err
	}
	c.deep.Times++
	c.deep.Problems = append(c.deep.Problems, append(problems, f.Problems...)...)
	c.deep.Figures = []Figure{figure("blocks read last", "%d", blocks), figure("rows compared last", "%d", f.Rows)}
	c.l.say("every block looked at: %d blocks, %d rows, %d problems so far", blocks, f.Rows, len(c.deep.Problems))
	return nil
}

// watchFor lets a boot run for a time, at most until it is ready, and says how
// far it came.
func (m *machine) watchFor(ctx context.Context, d time.Duration) (phase string, err error) {
	var mu sync.Mutex
	phase = "firmware"
	watched, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	err = m.inst.WaitReady(watched, func(e engine.Event) {
		mu.Lock()
		defer mu.Unlock()
		phase = string(e.Phase)
		if e.Phase == engine.PhaseService {
			phase, _, _ = strings.Cut(e.Text, ",")
			phase, _, _ = strings.Cut(phase, " (")
		}
	})
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if err == nil {
		return phase, nil // it was ready before its time, and is cut now
	}
	if watched.Err() == nil {
		return "", err // it failed before it was cut
	}
	mu.Lock()
	defer mu.Unlock()
	return phase, nil
}

// works says whether the server takes a table and gives it back.
func (m *machine) works(ctx context.Context) error {
	c, err := m.connect(ctx)
	if err != nil {
		return err
	}
	defer closeConn(c)
	var n int
	if _, err := c.Exec(ctx, "CREATE TABLE works AS SELECT generate_series(1, 100) n"); err != nil {
		return err
	}
	if err := c.QueryRow(ctx, "SELECT sum(n) FROM works").Scan(&n); err != nil {
		return err
	}
	if n != 5050 {
		return fmt.Errorf("the sum is %d, want 5050", n)
	}
	return nil
}
