package daemon_test

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/internal/daemontest"
	"github.com/sovereign-build/sovereign/internal/machine/machinetest"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

// BenchmarkRest measures what a sovereignd costs whose machines have been
// healthy for a while: how often a minute one of its threads wakes, its time on
// a CPU, and the memory that is its own. The machines are fakes.
func BenchmarkRest(b *testing.B) {
	for _, machines := range []int{1, 10} {
		b.Run(strconv.Itoa(machines), func(b *testing.B) {
			dir := daemontest.StateDir(b)
			cmd := exec.Command("/proc/self/exe", "--state-dir", dir)
			if err := cmd.Start(); err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() {
				if err := cmd.Process.Kill(); err != nil {
					b.Error(err)
				}
				_ = cmd.Wait() // says that it was killed
			})
			for ok := false; !ok; {
				_, ok = daemontest.Daemon(b, dir)
			}
			h, err := runtime.Local(dir)
			if err != nil {
				b.Fatal(err)
			}
			bundle := filepath.Join(b.TempDir(), "sql")
			machinetest.WriteBundle(b, bundle, "one", "fake=quick")
			for n := range machines {
				m, err := h.Install(b.Context(), bundle, fmt.Sprintf("m%d", n), runtime.UpOptions{}, nil)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := m.WaitReady(b.Context(), nil); err != nil {
					b.Fatal(err)
				}
			}
			if err := h.Close(); err != nil {
				b.Fatal(err)
			}
			// It takes a minute and a half for a guest to be at rest.
			time.Sleep(100 * time.Second)
			for b.Loop() {
				before := costs(b, cmd.Process.Pid)
				time.Sleep(time.Minute)
				after := costs(b, cmd.Process.Pid)
				b.ReportMetric(float64(after.switches-before.switches), "wakeups/min")
				b.ReportMetric(float64(after.ticks-before.ticks)*10, "cpu-ms/min") // USER_HZ is 100
				b.ReportMetric(float64(after.anonymous)/1024, "own-MiB")
				b.ReportMetric(float64(after.resident)/1024, "resident-MiB")
			}
		})
	}
}

type cost struct{ switches, ticks, anonymous, resident int }

// costs reads /proc: see proc_pid_status(5) and proc_pid_stat(5).
func costs(b *testing.B, pid int) cost {
	b.Helper()
	var c cost
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(tasks) == 0 {
		b.Fatal(err, len(tasks))
	}
	for _, task := range tasks {
		c.switches += value(b, task, "voluntary_ctxt_switches")
	}
	status := fmt.Sprintf("/proc/%d/status", pid)
	c.anonymous, c.resident = value(b, status, "RssAnon"), value(b, status, "VmRSS")
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	for _, n := range []int{11, 12} { // utime and stime, from the state on
		ticks, err := strconv.Atoi(fields[n])
		if err != nil {
			b.Fatal(err)
		}
		c.ticks += ticks
	}
	return c
}

func value(b *testing.B, file, key string) int {
	b.Helper()
	f, err := os.Open(file)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), key+":"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	b.Fatalf("%s has no %s", file, key)
	return 0
}
