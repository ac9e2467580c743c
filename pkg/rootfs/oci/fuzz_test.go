package oci

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
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
		limits := rootfs.DefaultLimits()
		a := &applier{overlay: newOverlay(rootfs.NewBudget(limits)), ctx: t.Context(), spool: newSpool(t)}
		for n, b := range [][]byte{lower, upper} {
			a.layer = n + 1
			// The diff ID is never right, so an error is sure; what was
			// applied before it has to make a tree.
			if err := a.read(layer{}, bytes.NewReader(b)); err == nil {
				t.Fatal("a layer without diff ID was accepted")
			}
		}
		tree, err := a.tree()
		if err == nil && tree.Len() > limits.Entries {
			t.Errorf("%d entries", tree.Len())
		}
	})
}

// FuzzArchive opens archives made of any bytes and reads what they hold.
func FuzzArchive(f *testing.F) {
	img := mustNew(f, spec("arm64"), sample(f, false))
	var b bytes.Buffer
	if err := WriteArchive(f.Context(), &b, img, "latest"); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(gz(f, b.Bytes()))
	f.Add(b.Bytes()[:b.Len()/2])
	// docker save's own format: without the layout's index.
	f.Add(bytes.ReplaceAll(b.Bytes(), []byte("index.json"), []byte("index.text")))
	f.Fuzz(func(t *testing.T, data []byte) {
		file := filepath.Join(t.TempDir(), "image.tar")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		i, err := Open(t.Context(), nil, file, v1.Platform{})
		if err != nil {
			if c := fault.ClassOf(err); c == fault.Internal || c == fault.Environment {
				t.Errorf("class %d: %v", c, err)
			}
			return
		}
		defer i.Close()
		if _, err := i.Tree(t.Context(), newSpool(t)); err != nil && fault.ClassOf(err) == fault.Internal {
			t.Error(err)
		}
	})
}
