package ext4

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/internal/treetest"
)

// BenchmarkWrite makes an image of a directory of the host, read anew each
// time, written and synced, and the same by mkfs.ext4 -d, which syncs too.
func BenchmarkWrite(b *testing.B) {
	dir, size := treetest.HostTree(b)
	out := filepath.Join(b.TempDir(), "image")
	b.Run("sovereign", func(b *testing.B) {
		treetest.Measure(b, size, func(b *testing.B) {
			tree, err := rootfs.ReadDir(context.Background(), dir)
			if err != nil {
				b.Fatal(err)
			}
			writeSynced(b, out, tree, Options{Size: 512 << 20})
		})
	})
	b.Run("mkfs.ext4", func(b *testing.B) {
		mkfs := tool(b, "mkfs.ext4")
		treetest.MeasureProgram(b, size, func() error { return os.RemoveAll(out) }, mkfs, "-q", "-F", "-d", dir, out, "512M")
	})
}

func writeSynced(b *testing.B, out string, tree *rootfs.Tree, o Options) {
	b.Helper()
	if err := os.RemoveAll(out); err != nil {
		b.Fatal(err)
	}
	f, err := os.Create(out)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if _, err := Write(context.Background(), f, tree, o); err != nil {
		b.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkDirectory shows that a directory takes time in proportion to its
// names.
func BenchmarkDirectory(b *testing.B) {
	for _, count := range []int{10_000, 100_000} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			tree := rootfs.New()
			for i := range count {
				add(b, tree, rootfs.Regular(fmt.Sprintf("d/file-%08d", i), 0o644, nil))
			}
			treetest.Measure(b, 0, func(b *testing.B) {
				if _, err := Write(context.Background(), discard{}, tree, Options{}); err != nil {
					b.Fatal(err)
				}
			})
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*count), "ns/name")
		})
	}
}

// BenchmarkLarge writes 4 GiB and reports the memory it takes at most. Run it
// alone: go test -run '^$' -bench Large.
func BenchmarkLarge(b *testing.B) {
	const files, size = 1024, 4 << 20
	tree := rootfs.New()
	for i := range files {
		add(b, tree, rootfs.Entry{Path: fmt.Sprintf("d%d/f%d", i%16, i), Mode: 0o644, Size: size, Content: ones(size)})
	}
	treetest.Measure(b, files*size, func(b *testing.B) {
		if _, err := Write(context.Background(), discard{}, tree, Options{}); err != nil {
			b.Fatal(err)
		}
	})
}

// discard is a file that nobody reads.
type discard struct{}

func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (discard) Truncate(int64) error                   { return nil }
