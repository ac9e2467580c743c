package kernel

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

const recipes = "../../recipes/kernel"

// fragments are those of the repository for an architecture.
func fragments(t *testing.T, a Arch) []*Config {
	t.Helper()
	var paths []string
	for _, pattern := range []string{"*.config", filepath.Join("arch", a.Linux+"*.config")} {
		found, err := filepath.Glob(filepath.Join(recipes, pattern))
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, found...)
	}
	if len(paths) < 10 {
		t.Fatalf("only %d fragments in %s", len(paths), recipes)
	}
	var out []*Config
	for _, p := range paths {
		name, err := filepath.Rel(recipes, p)
		if err != nil {
			t.Fatal(err)
		}
		c, err := ReadFragment(p, name)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
	return out
}

func arches(t *testing.T) []Arch {
	t.Helper()
	var out []Arch
	for _, name := range []string{"amd64", "arm64"} {
		a, err := ArchOf(name)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, a)
	}
	return out
}

// Every symbol of the repository has a reason, every file a topic, and no file
// quietly undoes another.
func TestFragmentsHaveReasons(t *testing.T) {
	for _, a := range arches(t) {
		fs := fragments(t, a)
		for _, f := range fs {
			if f.Topic == "" {
				t.Errorf("%s: no topic in its first lines", f.File)
			}
			for s := range f.All() {
				if s.Reason == "" {
					t.Errorf("%s: CONFIG_%s has no reason above it", s.Pos(), s.Symbol)
				}
			}
		}
		if _, overrides := Merge(fs...); len(overrides) > 0 {
			t.Errorf("%s: %v", a.Go, overrides)
		}
	}
}

func TestRequirementSets(t *testing.T) {
	names, err := RequirementSets()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(names, " "); got != "crosvm-arm64 no-android pkvm-guest postgresql tailscale verity virtio" {
		t.Errorf("sets: %s", got)
	}
	for _, n := range names {
		set, err := Require(n)
		if err != nil {
			t.Fatal(err)
		}
		if set.Topic == "" || set.Len() == 0 {
			t.Errorf("%s: topic %q, %d symbols", n, set.Topic, set.Len())
		}
		for s := range set.All() {
			if s.Reason == "" {
				t.Errorf("%s: CONFIG_%s has no reason", s.Pos(), s.Symbol)
			}
		}
	}
	virtio, err := Require("virtio")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"VIRTIO_PCI", "VIRTIO_MMIO", "VIRTIO_BLK", "VIRTIO_NET", "VSOCKETS", "VIRTIO_VSOCKETS", "VIRTIO_CONSOLE", "VIRTIO_BALLOON", "HW_RANDOM_VIRTIO"} {
		if virtio.Value(s) != "y" {
			t.Errorf("the virtio set does not require %s", s)
		}
	}
}

// The golden files are what the config step made of the fragments with the
// kernel of the lock (6.12.107): nothing got lost, and every set is met.
func TestGoldenConfigs(t *testing.T) {
	for _, a := range arches(t) {
		final, err := ReadConfig(filepath.Join("testdata", a.Linux+".config"))
		if err != nil {
			t.Fatal(err)
		}
		m, _ := Merge(fragments(t, a)...)
		if err := VerifyError(m, final, Notes{}); err != nil {
			t.Error(err)
		}
		sets := []string{"virtio", "verity", "postgresql", "tailscale", "no-android"}
		if a.Go == "arm64" {
			sets = append(sets, "crosvm-arm64", "pkvm-guest")
		}
		r, err := Check(final, sets...)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Err(); err != nil {
			t.Error(err)
		}
		if final.Value("MODULES") != Off || final.Value("DEBUG_INFO_NONE") != "y" {
			t.Errorf("%s: modules or debug information are on", a.Go)
		}
	}
}

func TestGoldenDiff(t *testing.T) {
	x86, err := ReadConfig("testdata/x86.config")
	if err != nil {
		t.Fatal(err)
	}
	arm, err := ReadConfig("testdata/arm64.config")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := WriteDiff(&b, Diff(x86, arm)); err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "x86-arm64.diff")
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != b.String() {
		t.Errorf("the diff of the two golden configurations changed; look at it, then go test ./pkg/kernel -run GoldenDiff -update")
	}
}

func TestScripts(t *testing.T) {
	for _, a := range arches(t) {
		for name, text := range map[string]string{"config": ConfigScript(a), "build": BuildScript(a)} {
			for _, part := range []string{"KARCH=" + a.Linux + "\n", "LLVM=-19", "KBUILD_BUILD_TIMESTAMP=", ConfigFile, NotesFile} {
				if !strings.Contains(text, part) {
					t.Errorf("%s script of %s lacks %q", name, a.Go, part)
				}
			}
		}
		if !strings.Contains(BuildScript(a), `"$out/`+a.Image+`"`) || !strings.Contains(BuildScript(a), ReleaseFile) {
			t.Errorf("build script of %s does not leave %s and %s", a.Go, a.Image, ReleaseFile)
		}
	}
	if _, err := ArchOf("mips"); err == nil {
		t.Error("took mips")
	}
}
