package recipe

import (
	"slices"
	"strings"
)

// unknown is the end of a message about a name that is not one of known: the
// nearest one if it is near, else all of them.
func unknown(name string, known []string) string {
	known = slices.Sorted(slices.Values(known))
	best, distance := "", len(name)/3+2
	for _, k := range known {
		if d := editDistance(strings.ToLower(name), strings.ToLower(k)); d < distance {
			best, distance = k, d
		}
	}
	switch {
	case best != "":
		return `, did you mean "` + best + `"?`
	case len(known) == 0:
		return ", there are none"
	default:
		return ", known are " + strings.Join(known, ", ")
	}
}

// editDistance is Levenshtein's, capped by cutting both words at 64 bytes: it
// is for names, and a hostile file must not buy quadratic time with long ones.
func editDistance(a, b string) int {
	a, b = a[:min(len(a), 64)], b[:min(len(b), 64)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(diagonal+cost, row[j]+1, row[j+1]+1)
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
