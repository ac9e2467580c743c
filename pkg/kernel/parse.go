package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Limits of what is read. The largest distribution configurations have about
// 12,000 lines and 300 KB.
const (
	MaxSize  = 8 << 20  // bytes, after decompression
	MaxLine  = 16 << 10 // bytes
	MaxLines = 200_000
)

var (
	notSetRE = regexp.MustCompile(`^# CONFIG_([A-Za-z0-9_]+) is not set$`)
	// almostRE finds what was meant to be notSetRE. Kconfig takes it for a
	// comment, and the symbol keeps its default.
	almostRE = regexp.MustCompile(`^\s*#*\s*CONFIG_([A-Za-z0-9_]+)\s+is\s+not\s+set\b`)
)

// ParseConfig reads a whole .config as Kconfig reads it. file is the name used
// in messages. A symbol set twice has its last value, and what Kconfig only
// warns about is in Config.Warnings: blanks and remarks after a value, text that
// is no setting.
//
// What is no text, too large or without any setting is an error of class
// fault.Usage that begins with file:line.
func ParseConfig(file string, r io.Reader) (*Config, error) {
	return parse(file, r, false)
}

// ParseFragment reads a fragment, as described in the package comment. It is
// stricter than ParseConfig: a symbol set twice, and a line that Kconfig would
// silently take for a comment although it was meant to set a symbol, are
// errors too.
func ParseFragment(file string, r io.Reader) (*Config, error) {
	return parse(file, r, true)
}

func parse(file string, r io.Reader, fragment bool) (*Config, error) {
	data, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	if err != nil {
		return nil, fault.Errorf(fault.Usage, "%s: %w", file, err).
			Hintf("check that the file is whole")
	}
	if len(data) > MaxSize {
		return nil, fault.Errorf(fault.Usage, "%s: larger than %d bytes", file, MaxSize).
			Hintf("give a kernel .config or fragment")
	}
	p := parser{
		c:        &Config{File: file, index: map[string]int{}},
		fragment: fragment,
	}
	p.c.lines = bytes.SplitAfter(data, []byte("\n"))
	if n := len(p.c.lines); len(p.c.lines[n-1]) == 0 {
		p.c.lines = p.c.lines[:n-1]
	}
	if len(p.c.lines) > MaxLines {
		return nil, fault.Errorf(fault.Usage, "%s: more than %d lines", file, MaxLines).
			Hintf("give a kernel .config or fragment")
	}
	if !fragment {
		p.menus.plan(p.c.lines)
	}
	for i, raw := range p.c.lines {
		if err := p.line(i+1, raw); err != nil {
			return nil, fault.Errorf(fault.Usage, "%s:%d: %w", file, i+1, err).
				Hintf("write CONFIG_NAME=y, CONFIG_NAME=17, CONFIG_NAME=\"text\" or # CONFIG_NAME is not set")
		}
	}
	if w := p.c.Warnings; len(w) > 0 && p.c.Len() == 0 {
		return nil, fault.Errorf(fault.Usage, "%s", w[0]).
			Hintf("give a kernel .config: this file sets no symbol at all")
	}
	return p.c, nil
}

type parser struct {
	c        *Config
	fragment bool
	menus    menus

	comment []string // the comment being read, or the reason of the group
	inGroup bool     // a setting followed comment
}

// line takes one line; its errors carry no position.
func (p *parser) line(number int, raw []byte) error {
	if len(raw) > MaxLine {
		return fmt.Errorf("longer than %d bytes", MaxLine)
	}
	if bytes.IndexByte(raw, 0) >= 0 {
		return errors.New("holds a zero byte; this is not text")
	}
	text := strings.TrimRight(string(raw), "\r\n")
	if !p.fragment {
		p.menus.line(number, text)
	}
	if m := notSetRE.FindStringSubmatch(text); m != nil {
		return p.set(number, m[1], Off)
	}
	if p.fragment {
		if m := almostRE.FindStringSubmatch(text); m != nil {
			return fmt.Errorf("this line would be ignored by Kconfig; write exactly \"# CONFIG_%s is not set\"", m[1])
		}
	}
	switch {
	case strings.TrimSpace(text) == "":
		if p.fragment && p.c.Topic == "" && p.c.Len() == 0 {
			p.c.Topic = strings.Join(p.comment, " ")
		}
		p.comment, p.inGroup = nil, false
		return nil
	case strings.HasPrefix(text, "#"):
		if p.inGroup {
			p.comment, p.inGroup = nil, false
		}
		if s := strings.TrimSpace(strings.TrimLeft(text, "#")); s != "" {
			p.comment = append(p.comment, s)
		}
		return nil
	}
	name, value, ok := strings.Cut(text, "=")
	symbol, hasPrefix := strings.CutPrefix(name, "CONFIG_")
	ok = ok && hasPrefix && validSymbol(symbol)
	switch {
	case !ok && p.fragment:
		return fmt.Errorf("%.60q is neither a setting nor a comment", text)
	case !ok:
		p.warn(number, "%.60q is neither a setting nor a comment, and is passed over", text)
		return nil
	case p.fragment:
		if err := checkValue(value); err != nil {
			return fmt.Errorf("CONFIG_%s: %w", symbol, err)
		}
		return p.set(number, symbol, value)
	}
	value, warning, ok := lenient(value)
	if warning != "" {
		p.warn(number, "CONFIG_%s: %s", symbol, warning)
	}
	if !ok {
		return nil
	}
	return p.set(number, symbol, value)
}

func (p *parser) warn(number int, format string, args ...any) {
	p.c.Warnings = append(p.c.Warnings, Warning{p.c.File, number, fmt.Sprintf(format, args...)})
}

func (p *parser) set(number int, symbol, value string) error {
	s := Setting{Symbol: symbol, Value: value, File: p.c.File, Line: number}
	if p.fragment {
		s.Reason = strings.Join(p.comment, " ")
		p.inGroup = true
	} else {
		s.Menu = p.menus.path()
	}
	if i, ok := p.c.index[symbol]; ok {
		if p.fragment {
			return fmt.Errorf("CONFIG_%s is set in line %d already; keep one of the two", symbol, p.c.settings[i].Line)
		}
		p.c.settings[i] = s
		return nil
	}
	p.c.index[symbol] = len(p.c.settings)
	p.c.settings = append(p.c.settings, s)
	return nil
}

func validSymbol(s string) bool {
	if s == "" || len(s) > 256 {
		return false
	}
	for _, c := range []byte(s) {
		if c != '_' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// checkValue says what is wrong with a value.
func checkValue(v string) error {
	switch {
	case v == "y" || v == "m" || v == "n" || isDecimal(v) || isHex(v):
		return nil
	case strings.HasPrefix(v, `"`):
		return checkString(v)
	}
	if t := strings.TrimRight(v, " \t"); t != v && checkValue(t) == nil {
		return fmt.Errorf("a blank follows %.60s", t)
	}
	if t, rest, ok := strings.Cut(v, "#"); ok && checkValue(strings.TrimRight(t, " \t")) == nil {
		return fmt.Errorf("the remark %.60q follows the value; write it on a line of its own", "#"+rest)
	}
	return fmt.Errorf("%.60q is neither y, m, n, a number nor a string in quotes", v)
}

func checkString(v string) error {
	switch n := stringEnd(v); {
	case n < 0:
		return fmt.Errorf("the string %.60s has no closing quote", v)
	case strings.ContainsAny(v[:n], "\r\n"):
		return errors.New("the string goes over the end of the line")
	case strings.Trim(v[n:], " \t") == "" && n < len(v):
		return fmt.Errorf("a blank follows the string %.60s", v[:n])
	case n < len(v):
		return fmt.Errorf("text follows the string %.60s", v[:n])
	}
	return nil
}

// stringEnd is where the string that v begins with ends, after its closing
// quote; -1 without one.
func stringEnd(v string) int {
	for i := 1; i < len(v); i++ {
		switch v[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return -1
}

// lenient is the value that Kconfig takes from a line of a whole .config, and
// what there is to say of it. The type of the symbol is not known here, but
// only a bool or tristate begins with y, m or n, which is all that Kconfig looks
// at; a string ends with its quote; and a number has to be one to its end.
// Without ok Kconfig takes no value from the line.
func lenient(v string) (value, warning string, ok bool) {
	switch {
	case v == "" || isDecimal(v) || isHex(v):
		return v, "", true // an int or hex symbol without a value is written so
	case strings.IndexByte("ymn", v[0]) >= 0:
		if len(v) > 1 {
			warning = fmt.Sprintf("%.60q is read as %s", v, v[:1])
		}
		return v[:1], warning, true
	case v[0] == '"':
		n := stringEnd(v)
		if n < 0 {
			return "", fmt.Sprintf("the string %.60s has no closing quote and counts as not given", v), false
		}
		if n < len(v) {
			warning = fmt.Sprintf("%.60q after the string is passed over", v[n:])
		}
		return v[:n], warning, true
	}
	return "", fmt.Sprintf("%.60q is no value, and counts as not given", v), false
}

func isDecimal(v string) bool {
	v = strings.TrimPrefix(v, "-")
	return v != "" && strings.Trim(v, "0123456789") == ""
}

// isHex takes the 0x for optional, as Kconfig does.
func isHex(v string) bool {
	d := hexDigits(v)
	return d != "" && strings.Trim(d, "0123456789abcdefABCDEF") == ""
}

// hexDigits is v without its 0x.
func hexDigits(v string) string {
	if d, ok := strings.CutPrefix(v, "0x"); ok {
		return d
	}
	return strings.TrimPrefix(v, "0X")
}
