package tail

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
)

func TestLines(t *testing.T) {
	tests := []struct {
		name, text string
		n          int
		want       string
	}{
		{"last two", "one\ntwo\nthree\n", 2, "two\nthree"},
		{"fewer than asked for", "one\n", 5, "one"},
		{"blank lines", "one\n\n \r\ntwo\n\n", 2, "one\ntwo"},
		{"no line feed at the end", "one\ntwo", 1, "two"},
		{"overwritten", "10 %\r20 %\r30 %\n", 1, "30 %"},
		{"terminal codes", "\x1b[2Jred \x1b[31malert\x07\n", 1, "[2Jred [31malert"},
		{"not UTF-8", "a\xffb\n", 1, "a?b"},
		{"long", strings.Repeat("x\n", window) + "end\n", 2, "x\nend"},
		{"empty", "", 3, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := Lines(tt.n, path); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	if got := Lines(3, filepath.Join(t.TempDir(), "absent")); got != "" {
		t.Errorf("absent: %q", got)
	}
}

// A log whose older part is in another file is one, also where a line was cut.
func TestLinesOfSeveralFiles(t *testing.T) {
	dir := t.TempDir()
	older, newer := filepath.Join(dir, "log.0"), filepath.Join(dir, "log")
	for path, text := range map[string]string{older: "one\ntwo\nth", newer: "ree\nfour\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := Lines(3, older, newer); got != "two\nthree\nfour" {
		t.Errorf("got %q", got)
	}
	if got := Lines(9, filepath.Join(dir, "absent"), newer); got != "ree\nfour" {
		t.Errorf("got %q", got)
	}
}

// FuzzClean checks that nothing that drives a terminal comes through.
func FuzzClean(f *testing.F) {
	f.Add("\x1b[2J\r\n\x00")
	f.Add("\u202e\u0085x\tb")
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range Clean(s) {
			if !unicode.IsPrint(r) && r != '\t' && r != '\n' {
				t.Fatalf("%q lets %U through", s, r)
			}
		}
	})
}
