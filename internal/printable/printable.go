// Package printable makes the words of others fit for a terminal. What a guest,
// a bundle or a step of a build says must neither drive the terminal of who
// reads it nor pass for a line of this program's own.
//
// Text comes in and goes out without control characters (C0, DEL, C1), without
// marks that change the direction of writing or have no width, and as valid
// UTF-8. The package prints nothing itself.
package printable

import (
	"bytes"
	"io"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// invalid stands for bytes that are not UTF-8.
const invalid = '?'

// Text keeps line feeds and tabs.
func Text(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return r
		}
		return shown(r)
	}, strings.ToValidUTF8(s, string(invalid)))
}

// Line is one line: a space stands for what would end it, or have a table's
// columns move.
func Line(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\r':
			return -1
		case unicode.IsSpace(r) || r == '\u2028' || r == '\u2029':
			return ' '
		}
		return shown(r)
	}, strings.ToValidUTF8(s, string(invalid)))
}

// Lines indents all lines but the first, so that none of them can be taken for
// one that begins with a word of this program. Blank lines are left out.
func Lines(s string) string {
	var b strings.Builder
	for line := range strings.Lines(Text(s)) {
		if line = strings.TrimRight(line, " \t\n"); line == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteString("\n  ")
		}
		b.WriteString(line)
	}
	return b.String()
}

// shown is r, a space for another kind of space, or -1 for nothing.
func shown(r rune) rune {
	switch {
	case unicode.IsPrint(r):
		return r
	case unicode.Is(unicode.Zs, r):
		return ' '
	}
	return -1
}

// JSON escapes, in text that encoding/json has written, what that leaves as it
// is and a terminal may obey. The value stays the same.
func JSON(text []byte) []byte {
	var b bytes.Buffer
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r == '\n' || unicode.IsPrint(r) && (r != utf8.RuneError || n > 1):
			b.Write(text[:n])
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			escape(&b, high)
			escape(&b, low)
		default:
			escape(&b, r)
		}
		text = text[n:]
	}
	return b.Bytes()
}

func escape(b *bytes.Buffer, r rune) {
	const digits = "0123456789abcdef"
	b.WriteString(`\u`)
	for shift := 12; shift >= 0; shift -= 4 {
		b.WriteByte(digits[r>>shift&0xf])
	}
}

// A Writer writes what Text makes of what is written to it.
type Writer struct {
	to   io.Writer
	rest []byte // the begin of a character
}

// NewWriter returns a Writer to w. Flush it at the end.
func NewWriter(w io.Writer) *Writer { return &Writer{to: w} }

func (w *Writer) Write(p []byte) (int, error) {
	text := append(w.rest, p...)
	end := len(text)
	for i := 1; i < utf8.UTFMax && i <= len(text); i++ {
		if c := text[len(text)-i]; utf8.RuneStart(c) {
			if !utf8.FullRune(text[len(text)-i:]) {
				end = len(text) - i
			}
			break
		}
	}
	w.rest = bytes.Clone(text[end:])
	if _, err := io.WriteString(w.to, Text(string(text[:end]))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Flush writes what stands for a character that was not finished.
func (w *Writer) Flush() error {
	text := Text(string(w.rest))
	w.rest = nil
	if text == "" {
		return nil
	}
	_, err := io.WriteString(w.to, text)
	return err
}
