package oci

import (
	"bytes"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// FuzzLayer applies two layers made of any bytes: a tree whose own limits hold
// comes out, or an error.
func FuzzLayer(f *testing.F) {
	for _, lines := range [][2][]string{
		{{"d d", "f d/a 1", "h b d/a", "l l d"}, {"o d", "f l/x 2", "w b", "h c l/x"}},
		{{"l a b", "l b a"}, {"f a/x 1"}},
		{{"f d/e/f/g 1"}, {"w d", "d d", "o d/e"}},
		{{"f .wh. x", "f ../a 1"}, {"f .wh..wh.plnk/a 1"}},
	} {
		lower, upper := tarOf(f, entries(lines[0]...)), tarOf(f, entries(lines[1]...))
		f.Add(lower, upper)
		f.Add(gz(f, lower), upper[:len(upper)/2])
		enc, err := zstd.NewWriter(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(enc.EncodeAll(lower, nil), gz(f, upper)[:40])
	}
	f.Fuzz(func(t *testing.T, lower, upper []byte) {
		const entries = 2000
		a := &applier{overlay: newOverlay(entries), ctx: t.Context(), spool: newSpool(t), bytes: 16 << 20, contents: 16 << 20}
		for n, b := range [][]byte{lower, upper} {
			a.layer = n + 1
			// The diff ID is never right, so an error is sure; what was
			// applied before it has to make a tree.
			if err := a.read(layer{}, bytes.NewReader(b)); err == nil {
				t.Fatal("a layer without diff ID was accepted")
			}
		}
		tree, err := a.tree()
		if err == nil && tree.Len() > entries {
			t.Errorf("%d entries", tree.Len())
		}
	})
}
