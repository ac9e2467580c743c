package initramfs

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

func TestReadBack(t *testing.T) {
	tree := build(t, sample(), "zz")
	for name, write := range map[string]func(context.Context, io.Writer, *rootfs.Tree, int64) error{"zstd": Write, "plain": WriteCPIO} {
		t.Run(name, func(t *testing.T) { readBack(t, tree, write) })
	}
}

func readBack(t *testing.T, tree *rootfs.Tree, write func(context.Context, io.Writer, *rootfs.Tree, int64) error) {
	var b bytes.Buffer
	if err := write(t.Context(), &b, tree, epoch); err != nil {
		t.Fatal(err)
	}
	spool, err := rootfs.NewSpool(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer spool.Close()
	back, err := Read(t.Context(), &b, spool)
	if err != nil {
		t.Fatal(err)
	}
	changes, err := rootfs.Diff(t.Context(), tree, back)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range changes {
		t.Errorf("%+v", c)
	}
}

// FuzzReadCPIO checks that damage is an error, never a panic.
func FuzzReadCPIO(f *testing.F) {
	var b bytes.Buffer
	if err := WriteCPIO(f.Context(), &b, build(f, sample(), "zz"), epoch); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:200])
	f.Fuzz(func(t *testing.T, b []byte) {
		spool, err := rootfs.NewSpool(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer spool.Close()
		if tree, err := ReadCPIO(t.Context(), bytes.NewReader(b), spool); err == nil && tree == nil {
			t.Error("neither a tree nor an error")
		}
	})
}
