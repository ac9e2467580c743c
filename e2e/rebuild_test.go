package e2e

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
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

// TestVerifyRebuild makes a bundle again from its provenance's lock, finds the
// same bytes, and finds the one file that is planted in another bundle of that
// name, down to the byte.
func TestVerifyRebuild(t *testing.T) {
	dir := needBundle(t)
	verify := func(bundle string) (int, string) {
		t.Helper()
		cmd := exec.Command("../bin/sovereign-build", "verify", bundle, "--rebuild", "--recipe", "../recipes/sql")
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return cmd.ProcessState.ExitCode(), string(out)
	}
	if code, said := verify(dir); code != 0 || !strings.Contains(said, "the same bytes") {
		t.Errorf("exit %d:\n%s", code, tail(said, 4<<10))
	}

	// The same recipe, but for one line of one of its files.
	recipes := filepath.Join(t.TempDir(), "recipes")
	if err := os.CopyFS(recipes, os.DirFS("../recipes")); err != nil {
		t.Fatal(err)
	}
	planted := filepath.Join(recipes, "sql", "files", "postgresql.conf")
	text, err := os.ReadFile(planted)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(planted, append(text, "# planted\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	m, err := bundle.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	sovereignBuild(t, "", "build", filepath.Join(recipes, "sql"), "--arch", m.Arch, "--output", out, "--frozen", "--progress", "plain")
	code, said := verify(filepath.Join(out, m.Name+"-"+m.Arch))
	if code != 6 || !strings.Contains(said, "postgresql.conf") || !strings.Contains(said, "the rebuilt bundle is sha256:") {
		t.Errorf("exit %d:\n%s", code, tail(said, 8<<10))
	}
	t.Log(tail(said, 1<<10))
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }
