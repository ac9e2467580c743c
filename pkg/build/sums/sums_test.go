package sums

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

func digest(c string) store.Digest { return store.Digest("sha256:" + strings.Repeat(c, 64)) }

func sum(step, output, key, d string) Sum {
	return Sum{Step: step, Output: output, Key: strings.Repeat(key, KeyLength), Digest: digest(d)}
}

func TestFormatParse(t *testing.T) {
	text := Format([]Sum{sum("port zlib amd64", "apk zlib-dev", "1", "b"), sum("kernel amd64", "bzImage", "2", "c"), sum("port zlib amd64", "apk zlib", "1", "a")})
	want := header +
		strings.Repeat("c", 64) + "  2222222222222222  kernel amd64: bzImage\n" +
		strings.Repeat("a", 64) + "  1111111111111111  port zlib amd64: apk zlib\n" +
		strings.Repeat("b", 64) + "  1111111111111111  port zlib amd64: apk zlib-dev\n"
	if string(text) != want {
		t.Errorf("%s\nwant\n%s", text, want)
	}
	back, err := Parse("f", bytes.NewReader(text))
	if err != nil || !bytes.Equal(Format(back), text) {
		t.Errorf("read back: %v, %v", back, err)
	}
}

func TestParseErrors(t *testing.T) {
	good := strings.Repeat("a", 64) + "  1111111111111111  kernel amd64: bzImage\n"
	for _, c := range []struct{ name, text, want string }{
		{"no columns", "abc\n", "f:1: "},
		{"digest", strings.Replace(good, "aaa", "xyz", 1), "f:1: "},
		{"key", strings.Replace(good, "1111", "11", 1), "f:1: the key"},
		{"name", strings.Replace(good, "kernel", "ker\x1bnel", 1), "f:1: "},
		{"twice", "# c\n" + good + "\n" + good, "f:4: kernel amd64: bzImage stands in line 2 too"},
		{"long line", good + strings.Repeat("x", maxLine+1), "f:2: "},
	} {
		_, err := Parse("f", strings.NewReader(c.text))
		if err == nil || !strings.HasPrefix(err.Error(), c.want) || fault.ClassOf(err) != fault.Usage {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestCompare(t *testing.T) {
	file := []Sum{
		sum("go toolchain", "tar", "1", "a"),
		sum("kernel amd64", "bzImage", "1", "a"),
		sum("port a amd64", "apk a", "1", "a"),
		sum("port b amd64", "apk b", "1", "a"),
		sum("port c amd64", "apk c", "1", "a"),
		sum("kernel arm64", "Image", "1", "a"),
	}
	made := []Sum{
		sum("port b amd64", "apk b", "1", "b"), // another output of the same inputs
		sum("port a amd64", "apk a", "2", "b"), // of others
		sum("kernel amd64", "bzImage", "2", "a"),
		sum("port d amd64", "apk d", "1", "a"),
		sum("go toolchain", "tar", "1", "a"),
	}
	want := []Difference{
		{"port b amd64", "apk b", digest("a"), digest("b"), true},
		{"port a amd64", "apk a", digest("a"), digest("b"), false},
		{"port d amd64", "apk d", "", digest("a"), false},
		{"port c amd64", "apk c", digest("a"), "", false},
	}
	if got := Compare(file, made, "amd64"); !reflect.DeepEqual(got, want) {
		t.Errorf("%v\nwant\n%v", got, want)
	}
	if !Has(file, "arm64") || Has(file[:2], "arm64") || Has(file[:1], "amd64") {
		t.Error("what the file has is told wrongly")
	}
	merged := Merge(file, made, "amd64")
	if got := Compare(merged, made, "amd64"); len(got) != 0 {
		t.Errorf("after merging: %v", got)
	}
	if got := Compare(merged, []Sum{sum("kernel arm64", "Image", "1", "a"), sum("go toolchain", "tar", "1", "a")}, "arm64"); len(got) != 0 {
		t.Errorf("the other architecture after merging: %v", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Format([]Sum{sum("port zlib amd64", "apk zlib", "1", "a"), sum("kernel arm64", "Image", "2", "c")}))
	f.Add([]byte("# nothing\n\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		sums, err := Parse("f", bytes.NewReader(text))
		if err != nil {
			return
		}
		once := Format(sums)
		again, err := Parse("f", bytes.NewReader(once))
		if err != nil || !bytes.Equal(Format(again), once) {
			t.Errorf("%q does not come back: %v", once, err)
		}
	})
}
