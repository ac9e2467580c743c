package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/bundle"
)

// rebuilt are the steps that TestRebuild forgets and does again: quick ones of
// each kind (C, Go, data), and the assembly of the root. The toolchain image is
// made anew too.
var rebuilt = []string{"port zlib", "port tzdata", "port ca-certificates", "port sovereign-init", "root sql"}

// TestRebuild builds a second time in another cache, with another engine state,
// output directory, umask, locale, time zone and job count, doing the quick
// steps over, and wants the same bytes. A rebuild of everything is in
// docs/reproducibility.md.
func TestRebuild(t *testing.T) {
	dir := needBundle(t)
	want, err := bundle.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	wantDigest, err := bundle.Digest(dir)
	if err != nil {
		t.Fatal(err)
	}
	caches, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	// On the same file system, so that blobs can be linked instead of copied.
	cache, err := os.MkdirTemp(caches, "sovereign-rebuild-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(cache) })
	forgotten := cloneStore(t, filepath.Join(caches, "sovereign", "store"), filepath.Join(cache, "store"))
	if forgotten < len(rebuilt) {
		t.Fatalf("%d steps to do over, want at least %d", forgotten, len(rebuilt))
	}

	defer syscall.Umask(syscall.Umask(0o077))
	out := filepath.Join(cache, "elsewhere")
	cmd := exec.Command("../bin/sovereign-build", "build", "../recipes/sql", "--arch", want.Arch, "--cache-dir", cache, "--output", out, "--jobs", "1", "--json", "--progress", "plain")
	cmd.Env = append(os.Environ(), "TZ=Pacific/Auckland", "LANG=sv_SE.UTF-8", "LC_ALL=C", "USER=somebody")
	var log strings.Builder
	cmd.Stderr = &log
	line, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, line, tail(log.String(), 4<<10))
	}
	var r buildRun
	if err := json.Unmarshal(line, &r); err != nil {
		t.Fatalf("build --json printed %q: %v", line, err)
	}
	if r.StepsRun != len(rebuilt)-1 {
		t.Errorf("%d steps of the engine ran, want the %d that were forgotten", r.StepsRun, len(rebuilt)-1)
	}
	got, err := bundle.Load(r.Bundle)
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range got.Artifacts {
		if a != want.Artifacts[i] {
			t.Errorf("%s: %s, was %s", a.File, a.Digest, want.Artifacts[i].Digest)
		}
	}
	if gotDigest, err := bundle.Digest(r.Bundle); err != nil || gotDigest != wantDigest {
		t.Errorf("the bundle is %s (%v), was %s", gotDigest, err, wantDigest)
	}
}

// cloneStore links a content store and leaves out the actions to be done over,
// which it counts.
func cloneStore(t *testing.T, from, to string) (forgotten int) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch {
		case rel == "tmp":
			return filepath.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		case strings.HasPrefix(rel, "actions/"):
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			var action store.Action
			if err := json.Unmarshal(text, &action); err != nil {
				return err
			}
			if slices.ContainsFunc(rebuilt, func(step string) bool { return strings.HasPrefix(action.Name+" ", step+" ") }) {
				forgotten++
				return nil
			}
		}
		return os.Link(path, filepath.Join(to, rel))
	})
	if err != nil {
		t.Fatal(err)
	}
	return forgotten
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }
