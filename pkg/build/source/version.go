package source

import (
	"cmp"
	"regexp"
	"strings"
)

// CompareVersions orders two Debian versions as dpkg does: epoch, upstream
// version, revision; ~ sorts before the end of a part.
func CompareVersions(a, b string) int {
	ea, ua, ra := SplitVersion(a)
	eb, ub, rb := SplitVersion(b)
	return cmp.Or(compareDigits(ea, eb), comparePart(ua, ub), comparePart(ra, rb))
}

// SplitVersion takes [EPOCH:]UPSTREAM[-REVISION] apart.
func SplitVersion(v string) (epoch, upstream, revision string) {
	if e, rest, ok := strings.Cut(v, ":"); ok {
		epoch, v = e, rest
	}
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		return epoch, v[:i], v[i+1:]
	}
	return epoch, v, ""
}

func comparePart(a, b string) int {
	for a != "" || b != "" {
		var ta, tb, na, nb string
		ta, a = span(a, false)
		tb, b = span(b, false)
		if c := compareText(ta, tb); c != 0 {
			return c
		}
		na, a = span(a, true)
		nb, b = span(b, true)
		if c := compareDigits(na, nb); c != 0 {
			return c
		}
	}
	return 0
}

// span splits off the leading run of digits, or of anything else.
func span(s string, digits bool) (string, string) {
	i := 0
	for i < len(s) && (s[i] >= '0' && s[i] <= '9') == digits {
		i++
	}
	return s[:i], s[i:]
}

func compareDigits(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
}

func compareText(a, b string) int {
	for i := 0; i < len(a) || i < len(b); i++ {
		if c := cmp.Compare(weight(a, i), weight(b, i)); c != 0 {
			return c
		}
	}
	return 0
}

// weight is dpkg's order: ~, the end, letters, everything else.
func weight(s string, i int) int {
	switch {
	case i >= len(s):
		return 0
	case s[i] == '~':
		return -1
	case s[i] >= 'a' && s[i] <= 'z' || s[i] >= 'A' && s[i] <= 'Z':
		return int(s[i])
	default:
		return int(s[i]) + 256
	}
}

// repacked is what Debian appends to an upstream version when the tarball or
// the numbering is not upstream's: "+dfsg1", ".dfsg", "+ds2", "~dfsg", "+repack"; and
// a native package's "+deb12u1".
var repacked = regexp.MustCompile(`[.+~-]((dfsg|ds|repack)[0-9]*(\.[0-9]+)*|deb[0-9]+u[0-9]+)$`)

// upstreamVersion is upstream's own version in a Debian one:
// "1:1.3.dfsg+really1.3.1-1" is 1.3.1, "3.5.7-1~deb13u2" is 3.5.7.
func upstreamVersion(debian string) string {
	_, v, _ := SplitVersion(debian)
	if i := strings.LastIndex(v, "really"); i > 0 && strings.IndexByte("+~.", v[i-1]) >= 0 {
		v = v[i+len("really"):]
	}
	for {
		next := repacked.ReplaceAllString(v, "")
		if next == v || next == "" {
			return v
		}
		v = next
	}
}

// inSeries says whether a version is the series itself or continues it at a
// dot: 17.12 is in 17 and 17.12, 171.0 is not.
func inSeries(version, series string) bool {
	return series == "" || version == series || strings.HasPrefix(version, series+".")
}
