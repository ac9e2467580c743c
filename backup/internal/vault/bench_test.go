package vault

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/kopia/kopia/repo"

	"github.com/sovereign-build/sovereign/internal/backupjob"
)

// gibibyte makes the disk one of a GiB: 40 % text like rows, 30 % random, the
// rest holes.
func (w *world) gibibyte(b *testing.B) {
	b.Helper()
	const mib = 1 << 20
	w.size = 1 << 30
	f, err := os.OpenFile(w.disk, os.O_WRONLY|os.O_TRUNC, 0)
	if err == nil {
		err = f.Truncate(w.size)
	}
	row := make([]byte, mib)
	for n := int64(0); n < 1024 && err == nil; n++ {
		switch {
		case n%10 < 4:
			for i := 0; i < len(row); i += 64 {
				line, _ := json.Marshal(map[string]any{"id": n<<20 + int64(i), "sum": w.rnd.Uint64()})
				copy(row[i:i+64], string(line)+strings.Repeat(" ", 64))
			}
		case n%10 < 7:
			for i := range row {
				row[i] = byte(w.rnd.Uint32())
			}
		default:
			continue
		}
		_, err = f.WriteAt(row, n*mib)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		b.Fatal(err)
	}
}

// asProgram has sovereign-backup do a job, and reports what that took.
func (w *world) asProgram(b *testing.B, what string, v backupjob.Verb, with func(*backupjob.Job)) {
	b.Helper()
	text, err := json.Marshal(w.verb(v, with))
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command("../../../bin/" + backupjob.Program)
	// What it asks at the end of a disk is answered beforehand.
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err == nil {
		_, err = in.Write(append(text, "\n{}\n"...))
	}
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		b.Fatalf("%s: %v", what, err)
	}
	u := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	b.ReportMetric((cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds(), what+"-cpu-s")
	b.ReportMetric(float64(u.Maxrss)/1024, what+"-MiB")
}

// BenchmarkGiB is the first GiB, the same unchanged, and its restore, by the
// program itself (make bin/sovereign-backup).
func BenchmarkGiB(b *testing.B) {
	for b.Loop() {
		w := newWorld(b, "")
		w.gibibyte(b)
		w.must(b, backupjob.Init, nil)
		disk := func(j *backupjob.Job) { j.Disk, j.Manifest = w.disk, w.manifest() }
		w.asProgram(b, "first", backupjob.Backup, disk)
		w.asProgram(b, "unchanged", backupjob.Backup, disk)
		w.asProgram(b, "restore", backupjob.Restore, func(j *backupjob.Job) { j.Disk = filepath.Join(b.TempDir(), "restored.img") })
	}
}

// BenchmarkIncrement is what is stored of a GiB in which 4,000 pages of 8 KiB
// were written, where they are as a database's are: half of them at random, half
// in a row. It compares kopia's smallest fixed block with its default.
func BenchmarkIncrement(b *testing.B) {
	for _, name := range []string{splitter, "FIXED-1M", "DYNAMIC-4M-BUZHASH"} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				w := newWorld(b, "")
				w.gibibyte(b)
				w.must(b, backupjob.Init, nil)
				first := w.keepWith(b, name)
				at := rand.New(rand.NewPCG(3, 4))
				for range 2000 {
					w.scribble(b, at.Int64N(w.size>>13)<<13, 8<<10)
				}
				w.scribble(b, 200<<20, 2000*8<<10)
				b.ReportMetric(float64(first)/(1<<20), "first-MiB")
				b.ReportMetric(float64(w.keepWith(b, name))/(1<<20), "increment-MiB")
			}
		})
	}
}

// keepWith keeps the disk with a splitter, and returns what was stored.
func (w *world) keepWith(b *testing.B, splitter string) int64 {
	b.Helper()
	c, err := connect(w.job.Repository, w.job.Secrets)
	if err != nil {
		b.Fatal(err)
	}
	r, err := open(b.Context(), c, w.job, false)
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close(b.Context()) //nolint:errcheck // it was flushed
	src, err := openDisk(w.disk, "")
	if err != nil {
		b.Fatal(err)
	}
	defer src.Close()
	ranges, err := src.Ranges()
	if err != nil {
		b.Fatal(err)
	}
	var sent atomic.Int64
	err = writeSession(b.Context(), r, "bench", func(n int64) { sent.Add(n) }, func(ctx context.Context, rw repo.RepositoryWriter) error {
		d := diskWriter{w: rw, splitter: splitter, sent: &sent, progress: func(int64, int64) {}}
		_, err := d.write(ctx, src, pieces(ranges, src.Size()))
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return sent.Load()
}
