package blocks

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// What is read and written block by block is what was there, filled up to
// whole blocks; no run has a block of zeros.
func TestReadAndWrite(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	dir := t.TempDir()
	var in Reader
	for _, size := range []int{0, 1, Size - 1, Size, Size + 1, direct, Chunk, Chunk + 1, 3*Chunk + 77} {
		for _, dense := range []int{0, 1, 2, 1000} {
			data := make([]byte, size)
			for range dense {
				if size > 0 {
					data[r.IntN(size)] = 1
				}
			}
			out, err := os.Create(filepath.Join(dir, "out"))
			if err != nil {
				t.Fatal(err)
			}
			w := Writer{W: out}
			err = in.Read(context.Background(), rootfs.Regular("x", 0o644, data), func(block uint64, run []byte) error {
				for at := 0; at < len(run); at += Size {
					if isZero(run[at : at+Size]) {
						t.Errorf("block %d of a run is zeros", at/Size)
					}
				}
				return w.Put(block, run)
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
			want := append(data, make([]byte, -size&(Size-1))...)
			if err := out.Truncate(int64(len(want))); err != nil {
				t.Fatal(err)
			}
			if err := out.Close(); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(out.Name()); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, %d of them not zero: something else came out, %v", size, dense, err)
			}
		}
	}
}
