package torture

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"time"

	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

// runSnapshot copies a machine under load, which its guest holds a snapshot for,
// and kills sovereignd, QEMU or both in the middle. The machine must lose
// nothing, and there is a copy with every row that was acknowledged before it, or
// none.
func runSnapshot(ctx context.Context, l *lab) (results []Result, err error) {
	res := Result{Fault: "killed in the middle of a copy: the machine goes on, and a copy is whole or not there"}
	if l.Programs == "" {
		res.Skipped = "no programs given"
		return []Result{res}, nil
	}
	s, err := l.keep(ctx, "snapshot")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close(context.WithoutCancel(ctx))) }()
	c := &copier{kept: s, rng: l.random("snapshot"), outcomes: map[string]int{}}
	var back []time.Duration
	f, err := s.checked(ctx, false, func(*commitLog) error {
		// One that nothing disturbs says how long it takes.
		for i := range 1 + max(2, l.Rounds/5) {
			took, err := c.copy(ctx, i > 0)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if res.Times++; err != nil {
				res.Problems = append(res.Problems, fmt.Sprintf("copy %d: %v", i+1, err))
				if i == 0 {
					return nil
				}
				continue
			}
			back = append(back, took)
			l.say("copy %d: settled after %.1f s", i+1, took.Seconds())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	res.Problems = append(res.Problems, f.Problems...)
	res.Heal = heal(back)
	for _, what := range slices.Sorted(maps.Keys(c.outcomes)) {
		res.Figures = append(res.Figures, figure(what, "%d", c.outcomes[what]))
	}
	res.Figures = append(res.Figures, figure("undisturbed", "%.1f s", c.whole.Seconds()),
		figure("commits acknowledged", "%d", f.Acks), figure("in doubt", "%d", f.Doubt))
	return []Result{res}, nil
}

type copier struct {
	*kept
	rng      *rand.Rand
	whole    time.Duration // a copy that nothing disturbs
	outcomes map[string]int
}

const copyName = "copy"

// copy makes a copy, disturbs that, and looks at both machines. It says how long
// the first one took to be well again.
func (c *copier) copy(ctx context.Context, disturb bool) (took time.Duration, err error) {
	before := c.log.known()
	begin, copied := time.Now(), make(chan error, 1)
	go func() {
		_, err := c.api.Clone(ctx, copyName, nil)
		copied <- err
	}()
	killed := "nothing"
	if disturb {
		if err := pause.For(ctx, between(c.rng, 0, c.whole*11/10)); err != nil {
			return 0, errors.Join(err, <-copied)
		}
		which := c.rng.IntN(3)
		killed = []string{"sovereignd", "QEMU", "both"}[which]
		if err := c.killBoth(ctx, which != 1, which != 0); err != nil {
			return 0, errors.Join(err, <-copied)
		}
	}
	copyErr := <-copied
	if !disturb {
		c.whole = time.Since(begin)
		if copyErr != nil {
			return 0, copyErr
		}
	}
	begin = time.Now()
	if err := c.settled(ctx); err != nil {
		return 0, fmt.Errorf("killed: %s: %w", killed, err)
	}
	if err := c.answers(ctx, selects); err != nil {
		return 0, err
	}
	took = time.Since(begin)
	made, err := c.made(ctx)
	if err != nil {
		return took, err
	}
	if left, err := filepath.Glob(filepath.Join(c.stateDir(), "instances", ".new-*")); err != nil || len(left) > 0 {
		return took, fmt.Errorf("killed: %s: left: %q, %w", killed, left, err)
	}
	switch {
	case made:
		c.outcomes["killed: "+killed+", and there is a copy"]++
		return took, c.look(ctx, before)
	case copyErr == nil:
		return took, fmt.Errorf("killed: %s: it was said to be made, and is not there", killed)
	}
	c.outcomes["killed: "+killed+", and there is none"]++
	return took, nil
}

func (c *copier) made(ctx context.Context) (bool, error) {
	all, err := c.host.Machines(ctx)
	return slices.ContainsFunc(all, func(s runtime.Status) bool { return s.Name == copyName }), err
}

// look starts the copy, holds its rows to what had been acknowledged before it
// was made, and removes it.
func (c *copier) look(ctx context.Context, before map[series][]fate) (err error) {
	api := c.host.Machine(copyName)
	defer func() {
		_, downErr := api.Down(ctx, 0)
		_, removeErr := api.Remove(ctx, true)
		err = errors.Join(err, downErr, removeErr)
	}()
	limit, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	if err := api.Up(limit, runtime.UpOptions{}, nil); err != nil {
		return err
	}
	if _, err := api.WaitReady(limit, nil); err != nil {
		return fmt.Errorf("the copy: %w", err)
	}
	credentials, err := api.Credentials(limit, 0)
	if err != nil {
		return err
	}
	conn, err := (&machine{dsn: credentials.URL}).connect(limit)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	rows, err := ledger(limit, conn, 0)
	if err != nil {
		return err
	}
	return copiedRows(before, c.log.known(), rows)
}

// copiedRows says what is wrong with the rows of a copy: those that had been
// acknowledged before it are there, and no others than were ever sent.
func copiedRows(before, after map[series][]fate, rows []row) error {
	there := map[row]bool{}
	for _, r := range rows {
		key := row{series: r.series, Seq: r.Seq}
		known := after[r.series]
		switch {
		case !r.Whole:
			return fmt.Errorf("row %+v of the copy is not whole", key)
		case there[key]:
			return fmt.Errorf("row %+v is there twice in the copy", key)
		case r.Seq < 1 || r.Seq > len(known) || known[r.Seq-1] == absent:
			return fmt.Errorf("row %+v is in the copy, and was never sent", key)
		}
		there[key] = true
	}
	for s, fates := range before {
		for n, f := range fates {
			if (f == acked || f == present) && !there[row{series: s, Seq: n + 1}] {
				return fmt.Errorf("row %d of %+v was acknowledged before the copy, and is not in it", n+1, s)
			}
		}
	}
	return nil
}
