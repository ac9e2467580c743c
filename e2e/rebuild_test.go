package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build"
	"github.com/sovereign-build/sovereign/pkg/bundle"
)

// TestRebuild builds the quick steps of each kind (C, Go, data) and the root a
// second time with repro, itself called with another umask, locale, time zone
// and user than the build before, and wants the same bytes. A rebuild of
// everything is in docs/reproducibility.md.
//
// It runs with --offline in a network namespace with nothing in it, not even a
// loopback that is up: all the inputs, of the toolchain image too, have to come
// from the store.
func TestRebuild(t *testing.T) {
	dir := needBundle(t)
	m, err := bundle.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	want, err := bundle.Digest(dir)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"repro", "../recipes/sql", "--arch", m.Arch, "--output", t.TempDir(), "--json", "--progress", "plain"}
	again := []string{"port zlib", "port tzdata", "port ca-certificates", "port sovereign-init", "root sql"}
	for _, step := range again {
		args = append(args, "--only", step)
	}
	defer syscall.Umask(syscall.Umask(0o077))
	if os.Geteuid() != 0 {
		t.Fatal("a network namespace needs root")
	}
	args = append([]string{"--net", "../bin/sovereign-build"}, append(args, "--offline")...)
	cmd := exec.Command("unshare", args...)
	cmd.Env = append(os.Environ(), "TZ=Pacific/Auckland", "LANG=sv_SE.UTF-8", "LC_ALL=C", "USER=somebody")
	var log strings.Builder
	cmd.Stderr = &log
	line, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, line, tail(log.String(), 4<<10))
	}
	var r build.ReproResult
	if err := json.Unmarshal(line, &r); err != nil {
		t.Fatalf("repro --json printed %q: %v", line, err)
	}
	if !r.Same || r.First != want || r.Second != want || len(r.Steps) != len(again) {
		t.Errorf("%s\nwant %s and %d steps", line, want, len(again))
	}
	for _, c := range r.Conditions {
		t.Logf("%s: %s; %s", c.Name, c.First, c.Second)
	}
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }
