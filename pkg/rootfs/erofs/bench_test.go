package erofs

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/internal/treetest"
)

// BenchmarkWrite makes an image of a directory of the host, read anew each
// time, and the same by mkfs.erofs. Neither syncs.
func BenchmarkWrite(b *testing.B) {
	dir, size := treetest.HostTree(b)
	out := filepath.Join(b.TempDir(), "image")
	b.Run("sovereign", func(b *testing.B) {
		treetest.Measure(b, size, func(b *testing.B) {
			if err := os.RemoveAll(out); err != nil {
				b.Fatal(err)
			}
			tree, err := rootfs.ReadDir(context.Background(), dir)
			if err != nil {
				b.Fatal(err)
			}
			f, err := os.Create(out)
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			if _, err := Write(context.Background(), f, tree, Options{Epoch: epoch}); err != nil {
				b.Fatal(err)
			}
		})
	})
	b.Run("mkfs.erofs", func(b *testing.B) {
		mkfs := tool(b, "mkfs.erofs")
		treetest.MeasureProgram(b, size, func() error { return os.RemoveAll(out) }, mkfs, "-T", "1700000000", out, dir)
	})
}
