package torture

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/sovereign-build/sovereign/internal/nbd"
)

// Kinds of power cuts.
const (
	cutFirst    = "first boot"
	cutLoad     = "load"
	cutRecovery = "recovery"
)

// cutPlan is one round, drawn before anything runs.
type cutPlan struct {
	Kind  string
	Lossy bool
	// Share of what is cut into: of a first boot's time, of a recovering
	// boot's.
	Share float64
	Work  time.Duration // under load before the cut
}

// plans draws the rounds: a tenth cuts into the first boot, which takes five
// times as long as another, a fifth into the boot that recovers from an earlier
// cut, the rest into load alone. Half of each kind have a disk that loses what
// was not flushed. Rounds that can share a machine stand together.
func plans(rng *rand.Rand, rounds int) []cutPlan {
	all := make([]cutPlan, rounds)
	for i := range all {
		all[i] = cutPlan{Kind: cutLoad, Lossy: (i+i/10)%2 == 1, Share: rng.Float64(), Work: between(rng, 200*time.Millisecond, 5*time.Second)}
		switch i % 10 {
		case 0:
			all[i].Kind = cutFirst
		case 1, 6:
			all[i].Kind = cutRecovery
		}
	}
	slices.SortStableFunc(all, func(a, b cutPlan) int { return a.group() - b.group() })
	return all
}

// group orders the rounds by the machine they need.
func (p cutPlan) group() int {
	g := 0
	if p.Lossy {
		g = 2
	}
	if p.Kind != cutFirst {
		g++
	}
	return g
}

// cutRow gathers the rounds of one kind.
type cutRow struct {
	times    int
	problems []string
	heals    []time.Duration
	acks     int
	doubt    int
	dirty    int // blocks not flushed at the cuts
	lost     int
	phases   map[string]int
}

func (r *cutRow) result(kind string, lossy bool) Result {
	store := "the host's cache kept"
	if lossy {
		store = "unflushed writes lost"
	}
	res := Result{Fault: fmt.Sprintf("power cut: %s, %s", kind, store), Times: r.times, Problems: r.problems, Heal: heal(r.heals)}
	if r.acks > 0 || kind != cutFirst {
		res.Figures = append(res.Figures, figure("commits acknowledged", "%d", r.acks), figure("in doubt", "%d", r.doubt))
	}
	if lossy {
		res.Figures = append(res.Figures, figure("blocks not flushed", "%d", r.dirty), figure("of them lost", "%d", r.lost))
	}
	for _, p := range slices.Sorted(maps.Keys(r.phases)) {
		res.Figures = append(res.Figures, figure("cut in "+p, "%d", r.phases[p]))
	}
	return res
}

func (r *cutRow) add(l nbd.Loss) {
	r.dirty += l.Dirty
	r.lost += l.Lost
}

func rowKey(kind string, lossy bool) string { return fmt.Sprint(kind, lossy) }

func (c *cutter) row(p cutPlan) *cutRow {
	key := rowKey(p.Kind, p.Lossy)
	if c.rows[key] == nil {
		c.rows[key] = &cutRow{phases: map[string]int{}}
	}
	c.rows[key].times++
	return c.rows[key]
}
