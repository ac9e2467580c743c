package treetest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// HostTree makes a directory of 8,000 files with 200 MB in all, a little like
// a root file system, and returns where and how many bytes.
func HostTree(b *testing.B) (dir string, size int64) {
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

// Measure benchmarks run and reports its CPU time and the highest memory of
// this process so far.
func Measure(b *testing.B, size int64, run func(b *testing.B)) {
	b.SetBytes(size)
	before := usage(b)
	for b.Loop() {
		run(b)
	}
	after := usage(b)
	report(b, cpu(after)-cpu(before), after.Maxrss)
}

// MeasureProgram benchmarks another program, with its CPU time and highest
// memory. prepare is called before each run and not counted.
func MeasureProgram(b *testing.B, size int64, prepare func() error, name string, args ...string) {
	b.SetBytes(size)
	var used time.Duration
	var peak int64
	for b.Loop() {
		b.StopTimer()
		if err := prepare(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		cmd := exec.Command(name, args...)
		if msg, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, msg)
		}
		used += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
			peak = max(peak, u.Maxrss)
		}
	}
	report(b, used, peak)
}

func report(b *testing.B, used time.Duration, peakKiB int64) {
	b.ReportMetric(used.Seconds()*1000/float64(b.N), "cpu-ms/op")
	b.ReportMetric(float64(peakKiB)/1024, "peak-MiB")
}

func usage(b *testing.B) (u syscall.Rusage) {
	b.Helper()
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u
}

func cpu(u syscall.Rusage) time.Duration { return time.Duration(u.Utime.Nano() + u.Stime.Nano()) }
