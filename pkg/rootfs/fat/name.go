package fat

import (
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	// maxName is the longest name in UTF-16 units.
	maxName = 255
	// slotUnits are the UTF-16 units that one directory entry holds.
	slotUnits = 13
)

// checkName says why a name cannot stand in a directory.
func checkName(name string) error {
	switch {
	case !utf8.ValidString(name):
		return fmt.Errorf("name %q is not UTF-8, and FAT's names are Unicode; rename it", name)
	case len(utf16.Encode([]rune(name))) > maxName:
		return fmt.Errorf("name %.40q… is longer than %d UTF-16 units", name, maxName)
	case strings.HasSuffix(name, ".") || strings.HasSuffix(name, " "):
		return fmt.Errorf("name %q ends in a dot or a space, which readers drop", name)
	}
	for _, r := range name {
		if r < ' ' || r == 0x7f || strings.ContainsRune(`"*/:<>?\|`, r) {
			return fmt.Errorf("name %q holds %q, which FAT cannot", name, r)
		}
	}
	return nil
}

// fold is a name without its case.
func fold(name string) string { return strings.ToLower(strings.ToUpper(name)) }

// short is a name of 8 and 3 characters, padded with spaces.
type short [11]byte

func makeShort(base, ext string) short {
	var s short
	copy(s[:], fmt.Sprintf("%-8s%-3s", base, ext))
	return s
}

// checksum ties the entries of a long name to its short name.
func (s short) checksum() byte {
	var sum byte
	for _, c := range s {
		sum = sum>>1 | sum<<7
		sum += c
	}
	return sum
}

func shortChar(c byte) bool {
	return c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("$%'-_@~`!(){}^#&", c) >= 0
}

// exactShort returns the short name that is the name itself, if there is one.
func exactShort(name string) (short, bool) {
	base, ext, dot := strings.Cut(name, ".")
	if base == "" || len(base) > 8 || len(ext) > 3 || dot && ext == "" {
		return short{}, false
	}
	for _, part := range []string{base, ext} {
		for i := range len(part) {
			if !shortChar(part[i]) {
				return short{}, false
			}
		}
	}
	return makeShort(base, ext), true
}

// shortNames gives the names of one directory their short names.
type shortNames struct {
	used map[short]bool
	// next is the number to try for a stem, so that many similar names take
	// linear time.
	next map[string]int
}

// generate makes a short name for a long one, as the specification says:
// upper case, without what cannot be, and "~1" or a higher number.
func (s *shortNames) generate(name string) (short, error) {
	stem := strings.TrimLeft(name, ".")
	ext := ""
	if i := strings.LastIndexByte(stem, '.'); i >= 0 {
		stem, ext = stem[:i], stem[i+1:]
	}
	stem, ext = shorten(stem, 6), shorten(ext, 3)
	key := stem + "." + ext
	for n := s.next[key] + 1; n <= 999_999; n++ {
		tail := fmt.Sprintf("~%d", n)
		c := makeShort(stem[:min(len(stem), 8-len(tail))]+tail, ext)
		if !s.used[c] {
			s.used[c] = true
			s.next[key] = n
			return c, nil
		}
	}
	return short{}, fmt.Errorf("name %q: too many names begin like it", name)
}

func shorten(s string, n int) string {
	var b strings.Builder
	for _, r := range strings.ToUpper(s) {
		switch {
		case b.Len() == n:
			return b.String()
		case r == ' ' || r == '.':
		case r < utf8.RuneSelf && shortChar(byte(r)):
			b.WriteByte(byte(r))
		default:
			b.WriteByte('_')
		}
	}
	return b.String()
}
