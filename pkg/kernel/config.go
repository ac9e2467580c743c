package kernel

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"

	"github.com/sovereign-build/sovereign/pkg/arch"
)

// Off is the value of a symbol that is n, "is not set" or absent.
const Off = "n"

// A Setting is one symbol with its value and where it was set.
type Setting struct {
	Symbol string `json:"symbol"` // without CONFIG_
	// Value is as written: y, m, n, 17, 0x1f, or a string in its quotes.
	// "is not set" is n.
	Value string `json:"value"`
	File  string `json:"file,omitempty"`
	Line  int    `json:"line,omitempty"` // from 1; 0 where there is no file
	// Reason is the comment above the symbol or its group, on one line.
	Reason string `json:"reason,omitempty"`
	// Menu is the path of Kconfig menus the symbol was written under, as in
	// "Device Drivers > Block devices". Only whole .config files have menus.
	Menu string `json:"menu,omitempty"`
}

// Pos is FILE:LINE.
func (s Setting) Pos() string { return fmt.Sprintf("%s:%d", s.File, s.Line) }

// Text is the line a .config has for the setting, without a line end.
func (s Setting) Text() string {
	if s.Value == Off {
		return "# CONFIG_" + s.Symbol + " is not set"
	}
	return "CONFIG_" + s.Symbol + "=" + s.Value
}

// A Warning is about one line of a file.
type Warning struct {
	File string `json:"file"`
	Line int    `json:"line"` // from 1
	Text string `json:"text"`
}

// String is FILE:LINE: TEXT.
func (w Warning) String() string { return fmt.Sprintf("%s:%d: %s", w.File, w.Line, w.Text) }

// Config is a .config or a fragment. It keeps every byte it was read from and
// does not change.
type Config struct {
	// File is the name it was read under.
	File string
	// Topic is the first comment of a fragment, on one line.
	Topic string
	// Warnings are lines of a whole .config that Kconfig passes over or reads
	// as something else than they seem to say.
	Warnings []Warning

	lines    [][]byte       // with their line ends
	settings []Setting      // in the order of the file; a symbol once
	index    map[string]int // symbol to its place in settings
}

// Lookup returns the setting of a symbol (without CONFIG_). It reports false
// for a symbol the file does not name; such a symbol is off.
func (c *Config) Lookup(symbol string) (Setting, bool) {
	i, ok := c.index[symbol]
	if !ok {
		return Setting{Symbol: symbol, Value: Off}, false
	}
	return c.settings[i], true
}

// Value returns the value of a symbol, Off for one the file does not name.
func (c *Config) Value(symbol string) string {
	s, _ := c.Lookup(symbol)
	return s.Value
}

// All gives the settings in the order of the file.
func (c *Config) All() iter.Seq[Setting] { return slices.Values(c.settings) }

// Len is the number of symbols the file names.
func (c *Config) Len() int { return len(c.settings) }

// WriteTo writes the bytes the configuration was read from, with the changes
// of With.
func (c *Config) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(bytes.Join(c.lines, nil))
	return int64(n), err
}

// With returns a copy in which symbol has the value; every other byte stays.
// A symbol the file does not name is added at its end. The value is written
// as in a file: y, m, n, a number, or a string in quotes. A malformed symbol or
// value is an error.
func (c *Config) With(symbol, value string) (*Config, error) {
	s := Setting{Symbol: symbol, Value: value, File: c.File}
	if !validSymbol(symbol) {
		return nil, fmt.Errorf("%q is not the name of a symbol; write it without CONFIG_, in letters, digits and _", symbol)
	}
	if err := checkValue(value); err != nil {
		return nil, fmt.Errorf("CONFIG_%s: %w", symbol, err)
	}
	d := *c
	d.lines = slices.Clone(c.lines)
	d.settings = slices.Clone(c.settings)
	if i, ok := c.index[symbol]; ok {
		old := d.settings[i]
		s.Line, s.Reason, s.Menu = old.Line, old.Reason, old.Menu
		d.settings[i] = s
		d.lines[s.Line-1] = append([]byte(s.Text()), lineEnd(d.lines[s.Line-1])...)
		return &d, nil
	}
	if n := len(d.lines); n > 0 && len(lineEnd(d.lines[n-1])) == 0 {
		d.lines[n-1] = append(slices.Clone(d.lines[n-1]), '\n')
	}
	s.Line = len(d.lines) + 1
	d.lines = append(d.lines, []byte(s.Text()+"\n"))
	d.settings = append(d.settings, s)
	d.index = make(map[string]int, len(d.settings))
	for i, s := range d.settings {
		d.index[s.Symbol] = i
	}
	return &d, nil
}

func lineEnd(line []byte) []byte {
	switch {
	case bytes.HasSuffix(line, []byte("\r\n")):
		return line[len(line)-2:]
	case bytes.HasSuffix(line, []byte("\n")):
		return line[len(line)-1:]
	}
	return nil
}

// equal reports whether two values are the same to Kconfig: 0x0f, 0xF and f are,
// 15 and 0xf are not, since a symbol is either a decimal or a hexadecimal one.
// Digits alone are taken for decimal, although a hexadecimal symbol may have
// them too: 0x10 asked of a decimal one may have become 10.
func equal(a, b string) bool {
	if a == b {
		return true
	}
	if x, y := isDecimal(a), isDecimal(b); x || y {
		return x && y && sameNumber(a, b, 10)
	}
	return isHex(a) && isHex(b) && sameNumber(hexDigits(a), hexDigits(b), 16)
}

func sameNumber(a, b string, base int) bool {
	if x, err := strconv.ParseUint(a, base, 64); err == nil {
		y, err := strconv.ParseUint(b, base, 64)
		return err == nil && x == y
	}
	x, err1 := strconv.ParseInt(a, base, 64)
	y, err2 := strconv.ParseInt(b, base, 64)
	return err1 == nil && err2 == nil && x == y
}

func bySymbol(a, b Setting) int { return cmp.Compare(a.Symbol, b.Symbol) }

// Whole reports whether the file is a whole .config as Kconfig writes it, and
// no fragment.
func (c *Config) Whole() bool {
	for _, line := range c.lines[:min(len(c.lines), 4)] {
		if bytes.HasPrefix(line, []byte("# Automatically generated file; DO NOT EDIT.")) {
			return true
		}
	}
	return false
}

// Arch is the architecture that a whole .config is for, by Go's name: "" if it
// is none that ArchOf knows.
func (c *Config) Arch() string {
	for _, a := range arch.All() {
		if !slices.ContainsFunc(a.Config, func(symbol string) bool { return c.Value(symbol) != "y" }) {
			return a.Go
		}
	}
	return ""
}
