package ext4

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// hostTree makes 8,000 files of 200 MB in all, a little like a root file
// system.
func hostTree(b *testing.B) (dir string, size int64) {
	b.Helper()
	dir = b.TempDir()
	r := rand.New(rand.NewPCG(3, 4))
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	for i := range 8000 {
		n := 2048 + r.Int64N(8192)
		if i%20 == 0 {
			n = 300<<10 + r.Int64N(200<<10)
		}
		full := filepath.Join(dir, fmt.Sprintf("usr/d%02d/file%04d", i%97, i))
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			b.Fatal(err)
		}
		at := r.Int64N(int64(len(data)) - n)
		if err := os.WriteFile(full, data[at:at+n], 0o644); err != nil {
			b.Fatal(err)
		}
		size += n
	}
	return dir, size
}

// cpu is the processor time of a process and of the children it waited for.
func cpu(b *testing.B, who int) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(who, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkWrite makes an image of a directory of the host, read and synced,
// and the same by mkfs.ext4 -d. Wall time, CPU time and peak memory.
func BenchmarkWrite(b *testing.B) {
	dir, size := hostTree(b)
	out := filepath.Join(b.TempDir(), "image")
	b.Run("sovereign", func(b *testing.B) {
		b.SetBytes(size)
		before := cpu(b, syscall.RUSAGE_SELF)
		for b.Loop() {
			tree, err := rootfs.ReadDir(context.Background(), dir)
			if err != nil {
				b.Fatal(err)
			}
			writeSynced(b, out, tree, Options{Size: 512 << 20})
		}
		b.ReportMetric((cpu(b, syscall.RUSAGE_SELF)-before).Seconds()*1000/float64(b.N), "cpu-ms/op")
		b.ReportMetric(peakMemory(b), "peak-MB")
	})
	b.Run("mkfs.ext4", func(b *testing.B) {
		mkfs := tool(b, "mkfs.ext4")
		b.SetBytes(size)
		var used time.Duration
		var peak int64
		for b.Loop() {
			cmd := exec.Command(mkfs, "-q", "-F", "-d", dir, out, "512M")
			if err := os.RemoveAll(out); err != nil {
				b.Fatal(err)
			}
			if msg, err := cmd.CombinedOutput(); err != nil {
				b.Fatalf("%v\n%s", err, msg)
			}
			used += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
			peak = max(peak, cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
		}
		b.ReportMetric(used.Seconds()*1000/float64(b.N), "cpu-ms/op")
		b.ReportMetric(float64(peak)/1024, "peak-MB")
	})
}

func writeSynced(b *testing.B, out string, tree *rootfs.Tree, o Options) {
	b.Helper()
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

// peakMemory is this process's highest resident set, MB, tests before it
// included.
func peakMemory(b *testing.B) float64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Maxrss) / 1024
}

// BenchmarkDirectory shows that a directory takes time in proportion to its
// names.
func BenchmarkDirectory(b *testing.B) {
	for _, count := range []int{10_000, 100_000} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			tree := rootfs.New()
			for i := range count {
				if err := tree.Add(rootfs.Regular(fmt.Sprintf("d/file-%08d", i), 0o644, nil)); err != nil {
					b.Fatal(err)
				}
			}
			out := filepath.Join(b.TempDir(), "image")
			for b.Loop() {
				writeSynced(b, out, tree, Options{})
			}
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
		if err := tree.Add(rootfs.Entry{Path: fmt.Sprintf("d%d/f%d", i%16, i), Mode: 0o644, Size: size, Content: ones(size)}); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(files * size)
	for b.Loop() {
		if _, err := Write(context.Background(), discard{}, tree, Options{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(peakMemory(b), "peak-MB")
	runtime.KeepAlive(tree)
}

// discard is a file that nobody reads.
type discard struct{}

func (discard) WriteAt(p []byte, _ int64) (int, error) { return io.Discard.Write(p) }
func (discard) Truncate(int64) error                   { return nil }
