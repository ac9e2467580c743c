package apk

import (
	"cmp"
	"strings"
)

// Tokens of a version, in the order apk-tools gives them: where two versions
// are equal up to a point, the one whose next token sorts later is smaller.
type token int

const (
	tokenInvalid   token = iota - 1
	tokenComponent       // a number after a dot
	tokenFirst           // the first number
	tokenLetter
	tokenSuffix
	tokenSuffixNo
	tokenHash // of the commit it was built from, after a ~
	tokenRevision
	tokenEnd
)

// suffixes with the value they compare by: before a release below zero, after
// one from zero.
func suffixValue(s string) (value int64, length int, ok bool) {
	for _, x := range [...]struct {
		name  string
		value int64
	}{
		{"alpha", -4}, {"beta", -3}, {"pre", -2}, {"rc", -1},
		{"cvs", 0}, {"svn", 1}, {"git", 2}, {"hg", 3}, {"p", 4},
	} {
		if strings.HasPrefix(s, x.name) {
			return x.value, len(x.name), true
		}
	}
	return 0, 0, false
}

// scanner walks a version; next is the type of the token to come. The order
// is that of apk-tools 3, which is Gentoo's; apk-tools 2 differs where a
// component begins with a zero (it takes 1.0_rc1 for newer than 1.0).
type scanner struct {
	next token
	rest string
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

// maxDigits is the longest number of a version: more does not fit an int64.
const maxDigits = 18

// token returns the value and the text of the token to come and moves on.
func (s *scanner) token() (v int64, text string) {
	n := 0
	switch s.next {
	case tokenEnd:
		return 0, ""
	case tokenComponent, tokenFirst, tokenSuffixNo, tokenRevision:
		for n < len(s.rest) && n <= maxDigits && digit(s.rest[n]) {
			v = v*10 + int64(s.rest[n]-'0')
			n++
		}
		if n == 0 || n > maxDigits {
			s.next = tokenInvalid
			return -1, ""
		}
	case tokenLetter:
		v, n = int64(s.rest[0]), 1
	case tokenHash:
		for n < len(s.rest) && (digit(s.rest[n]) || 'a' <= s.rest[n] && s.rest[n] <= 'f') {
			n++
		}
		if n == 0 {
			s.next = tokenInvalid
			return -1, ""
		}
	case tokenSuffix:
		var ok bool
		if v, n, ok = suffixValue(s.rest); !ok {
			s.next = tokenInvalid
			return -1, ""
		}
	default:
		s.next = tokenInvalid
		return -1, ""
	}
	text, s.rest = s.rest[:n], s.rest[n:]
	s.advance()
	return v, text
}

// advance finds out which token comes and skips what introduces it.
func (s *scanner) advance() {
	was, next := s.next, tokenInvalid
	if s.rest == "" {
		s.next = tokenEnd
		return
	}
	c := s.rest[0]
	switch {
	case was <= tokenFirst && 'a' <= c && c <= 'z':
		next = tokenLetter
	case was == tokenSuffix && digit(c):
		next = tokenSuffixNo
	case c == '.' && was <= tokenFirst:
		next, s.rest = tokenComponent, s.rest[1:]
	case c == '_' && was <= tokenSuffixNo:
		next, s.rest = tokenSuffix, s.rest[1:]
	case c == '~' && was < tokenHash:
		next, s.rest = tokenHash, s.rest[1:]
	case was < tokenRevision && strings.HasPrefix(s.rest, "-r"):
		next, s.rest = tokenRevision, s.rest[2:]
	}
	if s.rest == "" {
		next = tokenInvalid // something has to follow what was skipped
	}
	s.next = next
}

// ValidVersion says whether v is a version as apk understands it: numbers with
// dots, a letter, suffixes (_alpha, _beta, _pre, _rc, _cvs, _svn, _git, _hg,
// _p, each with a number or none), ~HASH in lower case hex, and -rN.
func ValidVersion(v string) bool {
	s := scanner{tokenFirst, v}
	for s.next != tokenEnd && s.next != tokenInvalid {
		s.token()
	}
	return s.next == tokenEnd
}

// CompareVersions orders versions as apk does: -1, 0 or 1. Invalid versions
// compare up to where they stop being valid.
func CompareVersions(a, b string) int { return compareVersions(a, b, false) }

// compareVersions with prefix calls a equal to b where b is a's beginning, up
// to the end of a token: 1.2.3 ~ 1.2.
func compareVersions(a, b string, prefix bool) int {
	x, y := scanner{tokenFirst, a}, scanner{tokenFirst, b}
	for x.next == y.next && x.next != tokenEnd && x.next != tokenInvalid {
		component, hash := x.next == tokenComponent, x.next == tokenHash
		v, s := x.token()
		w, t := y.token()
		c := cmp.Compare(v, w)
		if hash || component && (strings.HasPrefix(s, "0") || strings.HasPrefix(t, "0")) {
			c = strings.Compare(s, t) // 1.06 is less than 1.1: a decimal fraction
		}
		if c != 0 {
			return c
		}
	}
	if x.next == y.next || prefix && y.next == tokenEnd {
		return 0
	}
	// What goes on is greater, unless it is a suffix of a pre-release.
	if v, _, _ := suffixValue(x.rest); x.next == tokenSuffix && v < 0 {
		return -1
	}
	if v, _, _ := suffixValue(y.rest); y.next == tokenSuffix && v < 0 {
		return 1
	}
	return cmp.Compare(y.next, x.next)
}
