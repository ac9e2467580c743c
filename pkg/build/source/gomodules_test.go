package source

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// goModule writes a module that imports x/mod, whose hashes it takes from this
// project's own go.sum; unused is required and not imported.
func goModuleDir(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command on this machine")
	}
	sum, err := os.ReadFile("../../../go.sum")
	if err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile("../../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	text := "module example.com/m\n\ngo 1.26.0\n\nrequire (\n"
	var sums strings.Builder
	for _, want := range []string{"golang.org/x/mod", "github.com/hashicorp/yamux"} {
		for line := range strings.Lines(string(mod)) {
			if w := strings.Fields(line); len(w) >= 2 && w[0] == want {
				text += "\t" + w[0] + " " + w[1] + "\n"
			}
		}
	}
	for line := range strings.Lines(string(sum)) {
		if w := strings.Fields(line); w[0] == "golang.org/x/mod" || w[0] == "github.com/hashicorp/yamux" || strings.HasSuffix(w[1], "/go.mod") {
			sums.WriteString(line)
		}
	}
	dir := t.TempDir()
	for name, content := range map[string]string{
		"go.mod":          text + ")\n",
		"go.sum":          sums.String(),
		"main.go":         "package main\n\nimport \"golang.org/x/mod/semver\"\n\nfunc main() { println(semver.Major(\"v1.2.3\")) }\n",
		"other/other.go":  "package other\n\nimport _ \"github.com/hashicorp/yamux\"\n",
		"testdata/x/x.go": "package x\n\nimport _ \"example.com/nowhere\"\n",
		"main_test.go":    "package main\n\nimport _ \"example.com/nowhere\"\n",
		"more.go":         "//go:build more\n\npackage main\n\nimport _ \"example.com/m/other\"\n",
	} {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func untar(t *testing.T, path, dir string) []string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var names []string
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
		b, err := io.ReadAll(r)
		p := filepath.Join(dir, h.Name)
		if err = errors.Join(err, os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, b, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestGoModules builds from the tar alone in a network namespace without any
// interface.
func TestGoModules(t *testing.T) {
	dir := goModuleDir(t)
	before, err := os.ReadFile(filepath.Join(dir, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	f, _ := fetcher(t)
	d, err := f.GoModules(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	narrow, err := f.GoModules(t.Context(), dir, ".")
	if err != nil {
		t.Fatal(err)
	}
	tagged, err := f.GoModules(t.Context(), dir, "-tags=more", ".")
	if err != nil || tagged == narrow {
		t.Fatalf("a build tag that imports more gives the same modules (%v)", err)
	}
	proxy := t.TempDir()
	names := untar(t, f.store.Path(narrow), proxy)
	for _, n := range names {
		if strings.Contains(n, "yamux") && strings.HasSuffix(n, ".zip") {
			t.Errorf("%s is not needed to build the package", n)
		}
		if ext := filepath.Ext(n); !slices.Contains([]string{".info", ".mod", ".zip", ".ziphash"}, ext) || !strings.HasPrefix(n, "cache/download/") {
			t.Errorf("unexpected file %s", n)
		}
	}
	all := untar(t, f.store.Path(d), t.TempDir())
	if !slices.ContainsFunc(all, func(n string) bool { return strings.Contains(n, "yamux") && strings.HasSuffix(n, ".zip") }) {
		t.Errorf("the closure of go.mod lacks yamux: %v", all)
	}
	after, err := os.ReadFile(filepath.Join(dir, "go.sum"))
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("go.sum was changed: %v", err)
	}

	t.Run("again", func(t *testing.T) {
		again, err := f.GoModules(t.Context(), dir)
		if err != nil || again != d {
			t.Fatalf("%s, %v", again, err)
		}
		if left, err := os.ReadDir(filepath.Join(f.cache, "gomod")); err != nil || len(left) != 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		// From nothing in another store, and a go command that cannot run.
		other, _ := fetcher(t)
		if again, err := other.GoModules(t.Context(), dir); err != nil || again != d {
			t.Errorf("another machine makes %s, want %s (%v)", again, d, err)
		}
		f.goCmd = "/nonexistent/go"
		if again, err := f.GoModules(t.Context(), dir, "."); err != nil || again != narrow {
			t.Errorf("a known closure still runs go: %v", err)
		}
	})
	t.Run("no network", func(t *testing.T) {
		if out, err := exec.Command("unshare", "-n", "true").CombinedOutput(); err != nil {
			t.Skipf("cannot make a network namespace here: %v: %s", err, out)
		}
		work := t.TempDir()
		cmd := exec.Command("unshare", "-n", "go", "build", "-o", filepath.Join(work, "m"), ".")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOPROXY=file://"+proxy+"/cache/download", "GOFLAGS=-mod=readonly -modcacherw", "GONOSUMDB=*", "GONOSUMCHECK=1",
			"GOTOOLCHAIN=local", "GOWORK=off", "GOMODCACHE="+filepath.Join(work, "mod"), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	})
	t.Run("wrong hash", func(t *testing.T) {
		bad := bytes.Replace(before, []byte("golang.org/x/mod v0.42.0 h1:"), []byte("golang.org/x/mod v0.42.0 h1:AAAA"), 1)
		i := bytes.Index(bad, []byte("h1:AAAA"))
		if i < 0 {
			t.Skip("this project's go.sum has another version of x/mod now")
		}
		bad = append(bad[:i+7], bad[i+11:]...)
		if err := os.WriteFile(filepath.Join(dir, "go.sum"), bad, 0o644); err != nil {
			t.Fatal(err)
		}
		other, _ := fetcher(t)
		if _, err := other.GoModules(t.Context(), dir, "."); fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), "golang.org/x/mod@v0.42.0") {
			t.Errorf("class %d: %v", fault.ClassOf(err), err)
		}
	})
}

func TestGoModulesErrors(t *testing.T) {
	f, _ := fetcher(t)
	if _, err := f.GoModules(t.Context(), t.TempDir()); fault.ClassOf(err) != fault.Usage {
		t.Errorf("no go.mod: %v", err)
	}
	dir := goModuleDir(t)
	f.goCmd = "/nonexistent/go"
	if _, err := f.GoModules(t.Context(), dir); fault.ClassOf(err) != fault.Environment {
		t.Errorf("no go: %v", err)
	}
	if _, err := f.GoToolchain(t.Context(), lock.Go{}); fault.ClassOf(err) != fault.Usage {
		t.Errorf("no toolchain in the lock: %v", err)
	}
	f.offline = true
	if _, err := f.GoToolchain(t.Context(), lock.Go{Modules: []lock.Module{{Name: goModule, Version: goModuleVersion("go1.26.8"), Digest: store.FromBytes(nil)}}}); fault.ClassOf(err) != fault.Source {
		t.Errorf("offline: %v", err)
	}
}

// TestGoToolchain downloads the toolchain this project pins, 70 MB, and a
// version that was never released.
func TestGoToolchain(t *testing.T) {
	if testing.Short() {
		t.Skip("downloads 70 MB: not with -short")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command on this machine")
	}
	f, _ := fetcher(t)
	l, err := f.ResolveGo(t.Context(), "go1.26.8")
	if err != nil {
		t.Fatal(err)
	}
	if d, err := f.GoToolchain(t.Context(), l); err != nil || d != l.Modules[0].Digest {
		t.Fatalf("from the store: %s, %v", d, err)
	}
	if left, err := os.ReadDir(filepath.Join(f.cache, "gomod")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	l.Modules[0].Version, l.Modules[0].Digest = goModuleVersion("go1.26.999"), store.FromBytes(nil)
	var missing *MissingError
	if _, err := f.GoToolchain(t.Context(), l); !errors.As(err, &missing) || missing.Names[0] != "go" {
		t.Errorf("no such version: %v", err)
	}
}

// A proxy of files has two newer versions; what is indirect is not asked for.
func TestOutdatedModules(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip(err)
	}
	proxy := t.TempDir()
	for module, versions := range map[string][]string{"example.org/a": {"v1.0.0", "v1.2.0", "v1.3.0-rc.1"}, "example.org/b": {"v0.5.0"}} {
		dir := filepath.Join(proxy, module, "@v")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		files := map[string]string{"list": strings.Join(versions, "\n") + "\n"}
		for _, v := range versions {
			files[v+".info"] = `{"Version": "` + v + `", "Time": "2026-01-01T00:00:00Z"}`
			files[v+".mod"] = "module " + module + "\n"
		}
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Setenv("GOPROXY", "file://"+proxy)
	t.Setenv("GONOSUMDB", "*")
	dir := t.TempDir()
	mod := "module example.org/x\n\ngo 1.26\n\nrequire (\n\texample.org/a v1.0.0\n\texample.org/b v0.5.0\n\texample.org/gone v1.0.0\n\texample.org/other v1.0.0 // indirect\n)\n"
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(mod), 0o600); err != nil {
		t.Fatal(err)
	}
	f, _ := fetcher(t)
	o, notes, err := f.OutdatedModules(t.Context(), dir)
	if err != nil || len(o.Newer) != 1 || !slices.Equal(o.Newer[0].Packages, []string{"example.org/a v1.0.0 → v1.2.0"}) {
		t.Errorf("%+v, %v", o, err)
	}
	if len(notes) != 1 || !strings.HasPrefix(notes[0], "example.org/gone: ") {
		t.Errorf("notes %q", notes)
	}
}
