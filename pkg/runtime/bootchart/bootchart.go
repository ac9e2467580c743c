// Package bootchart draws the phases of a guest's boot, as text for a terminal
// or as an SVG image.
//
// An agent.Boot comes in and the drawing goes out; the same phases give the
// same bytes. The package asks no guest and measures nothing.
package bootchart

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/sovereign-build/sovereign/internal/printable"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

const (
	maxName = 40   // characters of a phase's name that are shown
	maxRows = 1000 // phases that are drawn
)

// row is a phase fit to be drawn: a clean name and 0 ≤ start ≤ end, in
// milliseconds.
type row struct {
	name       string
	start, end float64
	open       bool // it goes on; end is the chart's
}

// rows orders the phases by their start, and returns the chart's end.
func rows(b agent.Boot) (rs []row, end float64) {
	for _, p := range b.Phases {
		r := row{name: label(p.Name), start: clamp(p.StartMS), end: clamp(p.EndMS), open: p.EndMS == 0}
		r.end = max(r.end, r.start)
		end = max(end, r.end)
		rs = append(rs, r)
	}
	for i := range rs {
		if rs[i].open {
			rs[i].end = end
		}
	}
	slices.SortStableFunc(rs, func(a, b row) int { return cmp.Compare(a.start, b.start) })
	return rs[:min(len(rs), maxRows)], end
}

// clamp bounds what a guest may claim to a year, in whole microseconds.
func clamp(ms float64) float64 {
	const year = 365 * 24 * 3600 * 1000
	if math.IsNaN(ms) || ms < 0 {
		return 0
	}
	return math.Round(min(ms, year)*1000) / 1000
}

// label is a name without what could drive a terminal.
func label(s string) string {
	s = printable.Line(s)
	if r := []rune(s); len(r) > maxName {
		s = string(r[:maxName-1]) + "…"
	}
	return s
}

// ticks are round values from 0 up to end, at most n of them.
func ticks(end float64, n int) []float64 {
	if end <= 0 || n < 2 {
		return []float64{0}
	}
	step := math.Pow(10, math.Floor(math.Log10(end/float64(n))))
	for _, by := range []float64{1, 2, 5, 10, 20} {
		if end/(step*by)+1 <= float64(n) {
			step *= by
			break
		}
	}
	var at []float64
	for i := 0.0; i*step <= end; i++ {
		at = append(at, i*step)
	}
	return at
}

// tick writes a round time.
func tick(ms float64) string { return fmt.Sprintf("%g ms", ms) }
