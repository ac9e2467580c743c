package apk

import (
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

func TestHoldsPath(t *testing.T) {
	for _, c := range []struct {
		data string
		want bool
	}{
		{"/src/linux", true},
		{"\x00/src/linux", true},
		{"--prefix=/src/x", true},
		{"cc -I/src/x", true},
		{"cc -L/src/x", true},
		{"../../src/include/lib.h", false},
		{"libcxx/src/atomic.cpp", false},
		{"${top}/src/x", false},
		{"/usr/src/x", false},
		{"libcxx/src/a.cpp and /src/b", true},
		{"/srv/x", false},
	} {
		if got := holdsPath([]byte(c.data), "/src/", 0); got != c.want {
			t.Errorf("holdsPath(%q) = %v, want %v", c.data, got, c.want)
		}
	}
}

// A path that is allowed stays so wherever the pieces a file is read in meet.
func TestFindStringsAtPieces(t *testing.T) {
	const piece = 256 << 10
	for shift := -12; shift <= 12; shift++ {
		before := strings.Repeat("x", piece+shift)
		for data, want := range map[string]int{before + "../../src/lib.h": 0, before + " /src/lib.c": 1} {
			data += strings.Repeat("y", 100)
			e := rootfs.Entry{Path: "usr/lib/x", Size: int64(len(data)), Content: rootfs.Bytes([]byte(data))}
			found, err := findStrings(e, []string{"/src/", "/toolchain/"})
			if err != nil || len(found) != want {
				t.Fatalf("shift %d: found %q, %v; want %d", shift, found, err, want)
			}
		}
	}
}
