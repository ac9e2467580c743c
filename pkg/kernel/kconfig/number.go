package kconfig

import (
	"errors"
	"strconv"
	"strings"
)

// unquote reads a string of a .config: up to the closing quote, where a
// backslash makes the next character literal. It reports false for text that
// is no such string.
func unquote(v string) (string, bool) {
	if !strings.HasPrefix(v, `"`) {
		return "", false
	}
	var b strings.Builder
	for i := 1; i < len(v); i++ {
		switch v[i] {
		case '"':
			return b.String(), true
		case '\\':
			if i++; i == len(v) {
				return "", false
			}
		}
		b.WriteByte(v[i])
	}
	return "", false
}

func quote(v string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(v) + `"`
}

// validNumber says whether conf takes the text for a value of the type.
func validNumber(t Type, v string) bool {
	if t == Int {
		d := strings.TrimPrefix(v, "-")
		return d != "" && strings.Trim(d, "0123456789") == "" && (d == "0" || d[0] != '0')
	}
	if len(v) > 1 && v[0] == '0' && (v[1] == 'x' || v[1] == 'X') {
		v = v[2:]
	}
	return v != "" && strings.Trim(v, "0123456789abcdefABCDEF") == ""
}

// parseInt is C's strtoll: it reads as many digits as there are and stays
// within 64 bits. Base 0 goes by the prefix.
func parseInt(s string, base int) int64 {
	v, _, _ := scanInt(s, base)
	return v
}

// scanInt also returns how much of s it read and whether the value fits.
func scanInt(s string, base int) (v int64, n int, fits bool) {
	i := 0
	for i < len(s) && strings.IndexByte(" \t\n\v\f\r", s[i]) >= 0 {
		i++
	}
	negative := false
	if i < len(s) && (s[i] == '-' || s[i] == '+') {
		negative = s[i] == '-'
		i++
	}
	if (base == 0 || base == 16) && len(s) > i+2 && s[i] == '0' && (s[i+1] == 'x' || s[i+1] == 'X') && digit(s[i+2]) < 16 {
		i, base = i+2, 16
	} else if base == 0 && i < len(s) && s[i] == '0' {
		base = 8
	} else if base == 0 {
		base = 10
	}
	start := i
	for i < len(s) && digit(s[i]) < base {
		i++
	}
	if i == start {
		return 0, 0, true
	}
	digits := s[start:i]
	if negative {
		digits = "-" + digits
	}
	// On overflow ParseInt returns the nearest value, as strtoll does.
	v, err := strconv.ParseInt(digits, base, 64)
	return v, i, !errors.Is(err, strconv.ErrRange)
}

func digit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return 99
}

type numberKind uint8

const (
	notNumber numberKind = iota
	signed
	unsigned
)

// number reads a symbol's text as a number of its type, for a comparison.
func number(text string, t Type) (kind numberKind, s int64, u uint64) {
	base := 0
	switch t {
	case Bool, Tri:
		return signed, int64(strings.Index("nmy", text)), 0
	case Int:
		base = 10
	case Hex:
		base = 16
	}
	v, n, fits := scanInt(text, base)
	if t == Hex && !fits {
		hex := text[:n]
		if len(hex) > 1 && (hex[1] == 'x' || hex[1] == 'X') {
			hex = hex[2:]
		}
		w, err := strconv.ParseUint(hex, 16, 64)
		if err != nil {
			return notNumber, 0, 0
		}
		v, fits = int64(w), true
	}
	if !fits || n == 0 || n != len(text) || digit(text[n-1]) > 15 {
		return notNumber, 0, 0
	}
	if t == Hex {
		return unsigned, v, uint64(v)
	}
	return signed, v, uint64(v)
}

// compare orders the values of two symbols: as numbers if both are, else as
// text.
func (r *Result) compare(a, b *Symbol) int {
	x, y := r.text(a), r.text(b)
	if a.Type != String || b.Type != String {
		k1, s1, u1 := number(x, a.Type)
		k2, s2, u2 := number(y, b.Type)
		switch {
		case k1 == notNumber || k2 == notNumber:
		case k1 == unsigned || k2 == unsigned:
			return order(u1, u2)
		default:
			return order(s1, s2)
		}
	}
	return strings.Compare(x, y)
}

func order[T int64 | uint64](a, b T) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
