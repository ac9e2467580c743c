package bootchart

import (
	"fmt"
	"io"
	"math"
	"strings"
	"unicode/utf8"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// minBar is the least room for the bars, in characters.
const minBar = 20

// Text writes the chart in lines of width characters, or a little more where
// width is very small: a phase a line, with its bar, start and length.
func Text(w io.Writer, b agent.Boot, width int) error {
	rs, end := rows(b)
	names := 0
	for _, r := range rs {
		names = max(names, utf8.RuneCountInString(r.name))
	}
	const figures = 2 * (1 + 9) // the columns of start and length
	bar := max(width-names-1-figures, minBar)
	var out strings.Builder
	fmt.Fprintf(&out, "%-*s %s %9s %9s\n", names, "", axis(end, bar), "start", "length")
	for _, r := range rs {
		from, to := cell(r.start, end, bar), cell(r.end, end, bar)
		from = min(from, bar-1)
		to = max(to, from+1)
		length := fmt.Sprintf("%.1f", r.end-r.start)
		if r.open {
			length = "goes on"
		}
		pad := strings.Repeat(" ", names-utf8.RuneCountInString(r.name))
		fmt.Fprintf(&out, "%s%s %s%s%s %9.1f %9s\n", r.name, pad,
			strings.Repeat("·", from), strings.Repeat("█", to-from), strings.Repeat("·", bar-to), r.start, length)
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// cell is the place of a time on a bar.
func cell(ms, end float64, bar int) int {
	if end == 0 {
		return 0
	}
	return int(math.Round(ms / end * float64(bar)))
}

// axis is a line of round times, each beginning at its place; one that would
// run into the next, or over the end, is left out.
func axis(end float64, bar int) string {
	line := []rune(strings.Repeat(" ", bar))
	next := 0
	for _, ms := range ticks(end, max(bar/10, 2)) {
		text := []rune(tick(ms))
		at := cell(ms, end, bar)
		if at >= next && at+len(text) <= bar {
			copy(line[at:], text)
			next = at + len(text) + 1
		}
	}
	return string(line)
}
