package erofs

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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

// BenchmarkCompress makes compressed images of Go's own programs and sources,
// and the same by mkfs.erofs, which says if it was built without an algorithm.
// Both use all processors; neither syncs.
func BenchmarkCompress(b *testing.B) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		b.Skipf("go env GOROOT: %v", err)
	}
	dir := b.TempDir()
	var size int64
	for _, part := range []string{"bin", "src/cmd/compile", "src/cmd/vendor", "src/runtime", "src/crypto"} {
		if err := os.CopyFS(filepath.Join(dir, part), os.DirFS(filepath.Join(strings.TrimSpace(string(root)), part))); err != nil {
			b.Fatal(err)
		}
	}
	tree, err := rootfs.ReadDir(b.Context(), dir)
	if err != nil {
		b.Fatal(err)
	}
	for e := range tree.All() {
		if e.IsRegular() {
			size += e.Size
		}
	}
	out := filepath.Join(b.TempDir(), "image")
	written := func(b *testing.B) {
		info, err := os.Stat(out)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(info.Size()), "image-bytes")
	}
	for _, c := range []Compression{{"zstd", 1, 0}, {"zstd", 2, 0}, {"zstd", 3, 0}, {"lz4", 1, 0}, {"lz4", 2, 0}, {"lz4", 3, 0}} {
		b.Run("sovereign/"+c.String(), func(b *testing.B) {
			treetest.Measure(b, size, func(b *testing.B) {
				f, err := os.Create(out)
				if err != nil {
					b.Fatal(err)
				}
				defer f.Close()
				if _, err := Write(context.Background(), f, tree, Options{Epoch: epoch, Compression: c}); err != nil {
					b.Fatal(err)
				}
			})
			written(b)
		})
	}
	for _, with := range []string{"-zzstd,level=3", "-zlz4hc", "-zlz4hc,12", "-zlz4"} {
		b.Run("mkfs.erofs/"+with, func(b *testing.B) {
			mkfs := tool(b, "mkfs.erofs")
			args := []string{"-T", "1700000000", "-C65536", with, out, dir}
			if msg, err := exec.Command(mkfs, args...).CombinedOutput(); err != nil {
				b.Skipf("this mkfs.erofs does not: %v: %.300s", err, msg)
			}
			treetest.MeasureProgram(b, size, func() error { return os.RemoveAll(out) }, mkfs, args...)
			written(b)
		})
	}
}
