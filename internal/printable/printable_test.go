package printable

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestTextAndLine(t *testing.T) {
	tests := []struct{ name, in, text, line string }{
		{"plain", "it is ready, 3 °C → ok", "it is ready, 3 °C → ok", "it is ready, 3 °C → ok"},
		{"clipboard", "\x1b]52;c;ZXZpbA==\x07ok", "]52;c;ZXZpbA==ok", "]52;c;ZXZpbA==ok"},
		{"colour", "\x1b[31mred", "[31mred", "[31mred"},
		{"C1", "\u009b2Jx\u0085y\u009d0;t\u009c", "2Jxy0;t", "2Jx y0;t"},
		{"DEL and backspace", "a\x7f\bb", "ab", "ab"},
		{"direction", "a\u202eb\u2066c\u200fd\u200be\ufefff", "abcdef", "abcdef"},
		{"lines", "a\nb\r\nc\u2028d\u2029e\vf\fg", "a\nb\ncdefg", "a b c d e f g"},
		{"tab", "a\tb", "a\tb", "a b"},
		{"kinds of space", "a\u00a0b\u3000c", "a b c", "a b c"},
		{"not UTF-8", "a\xffb\xc3", "a?b?", "a?b?"},
		{"tags and private use", "a\U000e0041\ue000b", "ab", "ab"},
		{"zero", "a\x00b", "ab", "ab"},
	}
	for _, tt := range tests {
		if got := Text(tt.in); got != tt.text {
			t.Errorf("%s: text %q, want %q", tt.name, got, tt.text)
		}
		if got := Line(tt.in); got != tt.line {
			t.Errorf("%s: line %q, want %q", tt.name, got, tt.line)
		}
	}
	if got, want := Lines("one\n\n\thint: two\r\n  \nthree\n"), "one\n  \thint: two\n  three"; got != want {
		t.Errorf("lines %q, want %q", got, want)
	}
}

func TestJSON(t *testing.T) {
	in := "a\u009b\x7f\x1b\u202e\U000e0041ö😀\u2028\xff\""
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(in); err != nil {
		t.Fatal(err)
	}
	out := JSON(b.Bytes())
	if want := `"a\u009b\u007f\u001b\u202e\udb40\udc41ö😀\u2028\ufffd\""` + "\n"; string(out) != want {
		t.Errorf("got %s, want %s", out, want)
	}
}

// harmless fails for what drives a terminal.
func harmless(t *testing.T, what, s, but string) {
	t.Helper()
	if !utf8.ValidString(s) {
		t.Fatalf("%s: not UTF-8: %q", what, s)
	}
	for _, r := range s {
		if !unicode.IsPrint(r) && !strings.ContainsRune(but, r) {
			t.Fatalf("%s lets %U through: %q", what, r, s)
		}
	}
}

// FuzzPrintable checks that nothing that drives a terminal comes through, that
// a Writer gives what Text does wherever its input is cut, and that JSON means
// what it did.
func FuzzPrintable(f *testing.F) {
	f.Add("\x1b[2J\u202ehint: x\r\n\u009b\xff\xe2\x80", uint(3))
	f.Add("\xf0\x9f\x98\x80\xf0\x9f", uint(2))
	f.Fuzz(func(t *testing.T, s string, cut uint) {
		text := Text(s)
		harmless(t, "Text", text, "\n\t")
		harmless(t, "Line", Line(s), "")
		for i, line := range strings.Split(Lines(s), "\n") {
			harmless(t, "Lines", line, "\t")
			if i > 0 && !strings.HasPrefix(line, "  ") {
				t.Errorf("line %q begins as one of ours", line)
			}
		}
		var b strings.Builder
		w := NewWriter(&b)
		at := int(cut % uint(len(s)+1))
		for _, part := range []string{s[:at], s[at:]} {
			if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
				t.Fatal(n, err)
			}
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		// A run of bytes that are not UTF-8 is one mark, or one a part.
		squeeze := func(s string) string {
			for strings.Contains(s, "??") {
				s = strings.ReplaceAll(s, "??", "?")
			}
			return s
		}
		if got := b.String(); squeeze(got) != squeeze(text) {
			t.Errorf("in two parts: %q, want %q", got, text)
		}
		once, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var before, after string
		out := JSON(once)
		harmless(t, "JSON", string(out), "")
		if json.Unmarshal(once, &before) != nil || json.Unmarshal(out, &after) != nil || before != after {
			t.Errorf("%s is not %s", out, once)
		}
	})
}
