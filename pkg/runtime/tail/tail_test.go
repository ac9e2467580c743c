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
			if got := Lines(path, tt.n); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	if got := Lines(filepath.Join(t.TempDir(), "absent"), 3); got != "" {
		t.Errorf("absent: %q", got)
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
