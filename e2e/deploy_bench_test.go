package e2e

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/internal/daemontest"
	"github.com/sovereign-build/sovereign/pkg/bundle"
)

// BenchmarkDeploy is what a change of a recipe costs on its way to a device, by
// real ssh: the bundle of SOVEREIGN_E2E is deployed there, and then that of
// SOVEREIGN_E2E_NEXT, over a link of SOVEREIGN_E2E_MBIT (10) Mbit/s; against
// the images of the latter copied by ssh as they are. The machines there are
// fakes, which are healthy at once.
func BenchmarkDeploy(b *testing.B) {
	next := os.Getenv("SOVEREIGN_E2E_NEXT")
	if next == "" {
		b.Skip("SOVEREIGN_E2E_NEXT names no second bundle")
	}
	if !needSSHD(b) {
		return
	}
	mbit := int64(10)
	if text := os.Getenv("SOVEREIGN_E2E_MBIT"); text != "" {
		var err error
		if mbit, err = strconv.ParseInt(text, 10, 64); err != nil {
			b.Fatal(err)
		}
	}
	m, err := bundle.Load(next)
	if err != nil {
		b.Fatal(err)
	}
	var size int64
	for _, a := range m.Artifacts {
		size += a.Size
	}
	r := newRemote(b, nil)
	r.overFakes(b)
	b.Cleanup(func() {
		r.link.rate.Store(0)
		if _, errs, code := r.call("device", "remove", "ssh:nas", "--data", "--yes"); code != 0 {
			b.Errorf("device remove: exit %d, %s", code, errs)
		}
	})
	// over does it over the slow link, and says how long it took and what passed.
	over := func(do func()) (seconds, bytes float64) {
		r.link.breakAfter(0)
		r.link.rate.Store(mbit * 1_000_000 / 8)
		begin := time.Now()
		do()
		seconds = time.Since(begin).Seconds()
		r.link.rate.Store(0)
		return seconds, float64(r.link.passed.Load())
	}
	// The program itself is not what is measured.
	r.ok("device", "install", "ssh:nas")
	firstSeconds, firstBytes := over(func() { r.ok("deploy", os.Getenv("SOVEREIGN_E2E")) })
	var plan struct {
		Transfer struct {
			Bytes int64
			Files []struct {
				File            string
				Bytes           int64
				There           bool
				Chunks, Missing int
			}
		}
	}
	if err := json.Unmarshal([]byte(r.ok("deploy", next, "--dry-run", "--json")), &plan); err != nil {
		b.Fatal(err)
	}
	for _, f := range plan.Transfer.Files {
		b.Logf("%s: %d bytes are new, %d of %d chunks; there: %v", f.File, f.Bytes, f.Missing, f.Chunks, f.There)
	}
	nextSeconds, nextBytes := over(func() { r.ok("deploy", next) })
	copySeconds, copyBytes := over(func() {
		for _, a := range m.Artifacts {
			if err := r.copy(filepath.Join(next, a.File)); err != nil {
				b.Fatal(err)
			}
		}
	})
	for b.Loop() { //nolint:revive // it was measured once: a link of this rate takes minutes
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(size), "images-B")
	b.ReportMetric(firstBytes, "first-B")
	b.ReportMetric(firstSeconds, "first-s")
	b.ReportMetric(nextBytes, "next-B")
	b.ReportMetric(100*nextBytes/float64(size), "next-%")
	b.ReportMetric(nextSeconds, "next-s")
	b.ReportMetric(copyBytes, "copy-B")
	b.ReportMetric(copySeconds, "copy-s")
	b.ReportMetric(copySeconds/nextSeconds, "times-faster")
}

// copy copies a file there by ssh, and nothing more.
func (r *remote) copy(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	cmd := exec.Command(r.ssh, "-T", "-o", "RemoteCommand=none", "-o", "ClearAllForwardings=yes", "nas", "cat >copied && sync copied && rm copied")
	cmd.Env, cmd.Stdin = r.env, f
	return cmd.Run()
}

// overFakes has the command line install a sovereignd over fake machines.
func (r *remote) overFakes(t testing.TB) {
	t.Helper()
	r.cli = besideFakes(t)
	r.env = append(r.env, "SOVEREIGN_DEVICE=ssh:nas")
}

// besideFakes is a sovereign-build that finds a sovereignd over fake machines beside
// itself.
func besideFakes(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for name, from := range map[string]string{"sovereign-build": "../bin/sovereign-build", "sovereignd": daemontest.Program(t)} {
		text, err := os.ReadFile(from)
		if err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), text, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "sovereign-build")
}
