package kernel

import (
	"bytes"
	"slices"
	"testing"
)

// roundTrip holds what is true of every input that parses: it is written back
// byte for byte, and each setting is found again in the line it names.
func roundTrip(t *testing.T, c *Config, data []byte) {
	t.Helper()
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil || !bytes.Equal(b.Bytes(), data) {
		t.Fatalf("written back differently (%v): %q from %q", err, b.Bytes(), data)
	}
	for s := range c.All() {
		if s.Line < 1 || s.Line > len(c.lines) {
			t.Fatalf("%s: line %d of %d", s.Symbol, s.Line, len(c.lines))
		}
		// With a warning the value is only the beginning of what is there.
		warned := slices.ContainsFunc(c.Warnings, func(w Warning) bool { return w.Line == s.Line })
		if got := bytes.TrimRight(c.lines[s.Line-1], "\r\n"); s.Value != Off && string(got) != s.Text() && !(warned && bytes.HasPrefix(got, []byte(s.Text()))) {
			t.Fatalf("line %d is %q, setting %q", s.Line, got, s.Text())
		}
	}
	if len(Diff(c, c)) != 0 {
		t.Fatal("differs from itself")
	}
	m, _ := Merge(c)
	again, err := ParseFragment("merged", bytes.NewReader(m.Bytes()))
	if err != nil {
		for s := range c.All() {
			if s.Value == "" {
				return // only a whole .config may have empty values
			}
		}
		t.Fatalf("merged text does not parse: %v", err)
	}
	if lost := Verify(m, again, Notes{}); len(lost) != 0 {
		t.Fatalf("lost by merging one file: %v", lost)
	}
}

func FuzzParseFragment(f *testing.F) {
	f.Add([]byte(fragmentText))
	f.Add([]byte("# CONFIG_A is not set\r\nCONFIG_B=-1"))
	f.Add([]byte("\n\n#\n# x\n#\nCONFIG_C=\"\\\\\"\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := ParseFragment("f", bytes.NewReader(data)); err == nil {
			roundTrip(t, c, data)
		}
	})
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte("#\n# Linux/x86 6.12.107 Kernel Configuration\n#\nCONFIG_A=y\n\n#\n# Menu\n#\nCONFIG_B=0x0\n# end of Menu\n"))
	f.Add([]byte("CONFIG_A=yes # why\nCONFIG_B=\"a\" b\nCONFIG_C=beef\nx\nCONFIG_D=17 \n"))
	f.Add([]byte("#\n# A\n#\n#\n# A\n#\n# end of A\nCONFIG_A=\nCONFIG_A=m\n# end of A\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := ParseConfig("c", bytes.NewReader(data)); err == nil {
			roundTrip(t, c, data)
		}
	})
}

func FuzzDecompress(f *testing.F) {
	f.Add([]byte("\x1f\x8b\x08\x00"))
	f.Add([]byte("CONFIG_A=y\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Decompress("z", bytes.NewReader(data))
		if err != nil {
			return
		}
		if c, err := ParseConfig("z", r); err == nil && c.Len() > MaxLines {
			t.Fatal("more symbols than lines allowed")
		}
	})
}

func FuzzParseNotes(f *testing.F) {
	f.Add([]byte("unknown FOO\ndepends BAR a/Kconfig:1 (X)\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		notes, err := ParseNotes(bytes.NewReader(data))
		if err != nil {
			return
		}
		for _, n := range notes.Unknown {
			if !validSymbol(n) {
				t.Fatalf("%q came out", n)
			}
		}
	})
}
