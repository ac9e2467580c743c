package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/bundle"
)

// buildRun is the last line of build --json.
type buildRun struct {
	Bundle      string
	StepsRun    int `json:"steps_run"`
	StepsCached int `json:"steps_cached"`
}

func runBuild(b testing.TB, recipe, output string) buildRun {
	b.Helper()
	cmd := exec.Command("../bin/sovereign-build", "build", recipe, "--json", "--output", output, "--progress", "quiet")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		b.Fatalf("build %s: %v\n%s", recipe, err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	var r buildRun
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &r); err != nil {
		b.Fatalf("build --json printed %q: %v", out, err)
	}
	return r
}

// BenchmarkBuildNothingChanged is the whole command when there is nothing to
// do.
func BenchmarkBuildNothingChanged(b *testing.B) {
	needBundle(b)
	out := b.TempDir()
	runBuild(b, "../recipes/sql", out)
	for b.Loop() {
		if r := runBuild(b, "../recipes/sql", out); r.StepsRun != 0 {
			b.Fatalf("%d steps ran", r.StepsRun)
		}
	}
}

// BenchmarkBuildChangedFile changes one file of the recipe each time: the root
// image is assembled anew, nothing is compiled.
func BenchmarkBuildChangedFile(b *testing.B) {
	needBundle(b)
	recipes := filepath.Join(b.TempDir(), "recipes")
	if err := os.CopyFS(recipes, os.DirFS("../recipes")); err != nil {
		b.Fatal(err)
	}
	file := filepath.Join(recipes, "sql/files/postgresql.conf")
	out := b.TempDir()
	for b.Loop() {
		f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := f.WriteString("# another line\n"); err != nil {
			b.Fatal(err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
		if r := runBuild(b, filepath.Join(recipes, "sql"), out); r.StepsRun != 0 {
			b.Fatalf("%d steps ran", r.StepsRun)
		}
	}
}

// BenchmarkSecondBoot is from the start of QEMU to PostgreSQL accepting, on a
// data disk that has a cluster. It reports the root image's size as well.
func BenchmarkSecondBoot(b *testing.B) {
	m := newMachine(b)
	manifest, err := bundle.Load(m.bundle)
	if err != nil {
		b.Fatal(err)
	}
	m.boot()
	m.ok("stop", "sql")
	for b.Loop() {
		m.boot()
		b.StopTimer()
		m.ok("stop", "sql")
		b.StartTimer()
	}
	for _, a := range manifest.Artifacts {
		if a.Role == bundle.RoleRoot {
			b.ReportMetric(float64(a.Size)/(1<<20), "MiB-root-image")
		}
	}
}

func needBundle(b testing.TB) string {
	b.Helper()
	dir := os.Getenv("SOVEREIGN_E2E")
	if dir == "" {
		b.Skip("SOVEREIGN_E2E does not name a bundle; run make test-e2e or make bench")
	}
	return dir
}
