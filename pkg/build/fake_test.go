package build

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

// world is a recipe of four ports, everything it is made from in a store, and
// an engine that makes up what steps leave.
type world struct {
	t       *testing.T
	dir     string // the recipe's
	cache   string
	output  string
	mu      sync.Mutex
	ran     []string // steps, in the order in which they began
	running int
	most    int // steps that ran at once
	// step, if not nil, is asked before each.
	step func(ctx context.Context, name string) error
}

const fakeRecipe = `schema: 1
name: demo
summary: what a fake engine makes
architectures: [amd64]
toolchain: toolchain
ports: ports
sources: sources.yaml
kernel:
  source: linux
  fragments: [base.config]
packages: [sovereign-init, program]
vm: {memory: 64MiB, cpus: 1, data: 1GiB}
users: [{name: web, uid: 80}]
services:
  - {name: web, user: web, command: [/usr/share/program], health: {command: [/bin/true]}}
`

func newWorld(t *testing.T) *world {
	t.Helper()
	root := t.TempDir()
	w := &world{t: t, dir: filepath.Join(root, "recipe"), cache: filepath.Join(root, "cache"), output: filepath.Join(root, "dist")}
	port := func(name, rest string) string {
		return "name: " + name + "\nsummary: x\nlicense: MIT\nurl: https://example.invalid/\nrelease: 1\n" + rest
	}
	for name, text := range map[string]string{
		"recipe.yaml":          fakeRecipe,
		"base.config":          "# A kernel.\n\n# Networking.\nCONFIG_NET=y\n",
		"toolchain/image.yaml": "suite: bookworm\npackages: [make]\n",
		"sources.yaml":         "linux:\n  debian: {suite: trixie, source: linux}\ntarball:\n  debian: {suite: trixie, source: tarball}\n",
		"ports/lib/port.yaml": port("lib", `sources: [tarball]
packages:
  - {name: lib-dev, files: ["usr/include/**"], depends: ["lib=${version}", "headers"]}
  - {name: lib, files: ["**"]}
`),
		"ports/headers/port.yaml":        port("headers", "version: \"1\"\npackages:\n  - {name: headers, files: [\"**\"]}\n"),
		"ports/program/port.yaml":        port("program", "version: \"2\"\nbuild: [lib-dev]\npackages:\n  - {name: program, files: [\"**\"], depends: [\"lib\"]}\n"),
		"ports/sovereign-init/port.yaml": port("sovereign-init", "version: \"1\"\npackages:\n  - {name: sovereign-init, files: [\"**\"]}\n"),
	} {
		w.write(name, text)
	}
	for _, name := range []string{"lib", "headers", "program", "sovereign-init"} {
		w.write("ports/"+name+"/build.sh", "true\n")
	}

	st, err := store.Open(filepath.Join(w.cache, "store"))
	if err != nil {
		t.Fatal(err)
	}
	l := &lock.Lock{
		Schema: lock.Schema, SourceDate: 1_700_000_000,
		Toolchain: lock.Toolchain{Suite: "bookworm", Packages: []lock.DebPackage{{
			Name: "make", Version: "1", Arch: "amd64", File: "pool/main/m/make/make_1_amd64.deb", Digest: store.FromBytes([]byte("make")), Size: 4,
		}}},
		Go: lock.Go{Version: goVersion, Modules: []lock.Module{{
			Name: "golang.org/toolchain", Version: "v0.0.1-" + goVersion + ".linux-amd64", Sum: "h1:" + strings.Repeat("A", 43) + "=",
			Digest: store.FromBytes([]byte("go")), Size: 2,
		}}},
	}
	for _, name := range []string{"linux", "tarball"} {
		d, n, err := st.Put(t.Context(), strings.NewReader("the source of "+name), "")
		if err != nil {
			t.Fatal(err)
		}
		l.Sources = append(l.Sources, lock.Source{
			Name: name, Version: "1.0", File: name + ".tar.gz", Digest: d, Size: n, Mirrors: []string{"debian:trixie/" + name + "=1.0-1"},
		})
	}
	if err := lock.New(filepath.Join(w.dir, LockFile)).Save(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	w.useKey(0)
	return w
}

// keys of several users; making one takes seconds.
var keys = [2]func() (*apk.SigningKey, error){
	sync.OnceValues(func() (*apk.SigningKey, error) { return apk.GenerateKey(keyName) }),
	sync.OnceValues(func() (*apk.SigningKey, error) { return apk.GenerateKey(keyName) }),
}

// useKey makes a key that of the user who builds.
func (w *world) useKey(n int) {
	w.t.Helper()
	key, err := keys[n]()
	if err != nil {
		w.t.Fatal(err)
	}
	config := w.t.TempDir()
	dir := filepath.Join(config, "sovereign", "keys")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		w.t.Fatal(err)
	}
	if _, err := key.Save(dir); err != nil {
		w.t.Fatal(err)
	}
	w.t.Setenv("XDG_CONFIG_HOME", config)
}

// write writes a file of the recipe.
func (w *world) write(name, text string) {
	w.t.Helper()
	path := filepath.Join(w.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// build builds the recipe, offline.
func (w *world) build(ctx context.Context, opts ...Option) (*Result, error) {
	w.mu.Lock()
	w.ran, w.most = nil, 0
	w.mu.Unlock()
	return Build(ctx, w.dir, append(w.options(), opts...)...)
}

// options are those of every build.
func (w *world) options() []Option {
	return []Option{
		WithArch("amd64"), WithCacheDir(w.cache), WithOutput(w.output), WithOffline(true), WithOwnEngine(w),
		func(o *options) error {
			o.image = func() (engine.Image, error) {
				return engine.Image{Layout: w.dir, Digest: store.FromBytes([]byte("image"))}, nil
			}
			return nil
		},
	}
}

// Run implements Engine.
func (w *world) Run(ctx context.Context, s engine.Step, tarball io.Writer) error {
	name, _, _ := strings.Cut(s.Name, " (")
	w.mu.Lock()
	w.ran = append(w.ran, name)
	w.running++
	w.most = max(w.most, w.running)
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.running--
		w.mu.Unlock()
	}()
	if w.step != nil {
		if err := w.step(ctx, name); err != nil {
			return err
		}
	}
	files := map[string]string{}
	switch name {
	case "kernel config 1.0":
		files["kernel.config"], files["kconfig.notes"] = "CONFIG_NET=y\n", ""
	case "kernel 1.0":
		files["kernel.config"], files["bzImage"] = "CONFIG_NET=y\n", "a kernel"
	case "lib 1.0-r1":
		files["usr/include/lib.h"], files["usr/share/lib"] = "h", "lib"
	case "headers 1-r1":
		files["usr/include/headers.h"] = "h"
	case "program 2-r1":
		files["usr/share/program"] = "program"
	case "sovereign-init 1-r1":
		files["sbin/sovereign-init"] = "init"
	default:
		return fmt.Errorf("the fake engine knows no step %q", name)
	}
	t := tar.NewWriter(tarball)
	dirs := map[string]bool{}
	for _, path := range slices.Sorted(func(yield func(string) bool) {
		for path := range files {
			if !yield(path) {
				return
			}
		}
	}) {
		for i, c := range path {
			if dir := path[:i]; c == '/' && !dirs[dir] {
				dirs[dir] = true
				if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}); err != nil {
					return err
				}
			}
		}
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path, Mode: 0o755, Size: int64(len(files[path]))}); err != nil {
			return err
		}
		if _, err := io.WriteString(t, files[path]); err != nil {
			return err
		}
	}
	return t.Close()
}

func TestBuildByFakeEngine(t *testing.T) {
	w := newWorld(t)
	first, err := w.build(t.Context(), WithJobs(3))
	if err != nil {
		t.Fatal(err)
	}
	if first.StepsRun != 6 || first.StepsCached != 0 {
		t.Errorf("ran %d, cached %d", first.StepsRun, first.StepsCached)
	}
	if err := bundle.Verify(t.Context(), first.Bundle); err != nil {
		t.Error(err)
	}
	if i, j := slices.Index(w.ran, "program 2-r1"), slices.Index(w.ran, "headers 1-r1"); i < j || i < slices.Index(w.ran, "lib 1.0-r1") {
		t.Errorf("the program was built before what is in its sysroot: %v", w.ran)
	}

	// Another output directory, nothing else: everything is in the cache.
	second, err := w.build(t.Context(), WithOutput(filepath.Join(t.TempDir(), "dist")))
	if err != nil {
		t.Fatal(err)
	}
	if len(w.ran) != 0 || second.StepsCached != 6 || second.Digest != first.Digest || len(second.Reasons) != 0 {
		t.Errorf("ran %v; %+v, first %s", w.ran, second, first.Digest)
	}

	// Another cache, one job: the same bytes.
	third := newWorld(t)
	third.useKey(1)
	other, err := third.build(t.Context(), WithJobs(1))
	if err != nil {
		t.Fatal(err)
	}
	if other.Digest != first.Digest {
		t.Errorf("with another cache and signing key the bundle is %s, not %s", other.Digest, first.Digest)
	}

	w.write("ports/lib/build.sh", "true # changed\n")
	changed, err := w.build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// The port is built again. It comes out the same, so nothing follows.
	if want := []string{"lib 1.0-r1"}; !slices.Equal(w.ran, want) || changed.Digest != first.Digest {
		t.Errorf("after a change of lib: ran %v, %s; want %v, %s", w.ran, changed.Digest, want, first.Digest)
	}
}

func TestBuildFailsAndGoesOn(t *testing.T) {
	w := newWorld(t)
	w.step = func(_ context.Context, name string) error {
		if name == "lib 1.0-r1" {
			return fault.Errorf(fault.Step, "the compiler does not like it")
		}
		return nil
	}
	_, err := w.build(t.Context(), WithJobs(1))
	if fault.ClassOf(err) != fault.Step || !strings.Contains(err.Error(), "the compiler") {
		t.Errorf("a step that fails: %v", err)
	}
	if slices.Contains(w.ran, "program 2-r1") {
		t.Errorf("what needs it was built: %v", w.ran)
	}
	w.step = nil
	done := slices.Clone(w.ran)
	if _, err := w.build(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range w.ran {
		if name != "lib 1.0-r1" && slices.Contains(done, name) {
			t.Errorf("%s was finished and ran again", name)
		}
	}
}

func TestBuildCancelled(t *testing.T) {
	w := newWorld(t)
	why := fmt.Errorf("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	w.step = func(ctx context.Context, _ string) error {
		cancel(why)
		<-ctx.Done()
		return context.Cause(ctx)
	}
	if _, err := w.build(ctx); err != why { //nolint:errorlint // the very error
		t.Errorf("ended with %v", err)
	}
	if entries, err := os.ReadDir(w.output); err == nil && len(entries) > 0 {
		t.Errorf("it left %v", entries)
	}
}

func TestDryRunDoesNothing(t *testing.T) {
	w := newWorld(t)
	r, err := w.build(t.Context(), WithDryRun(true))
	if err != nil {
		t.Fatal(err)
	}
	if len(w.ran) != 0 || len(r.Reasons) == 0 {
		t.Errorf("ran %v, would run %v", w.ran, r.Reasons)
	}
	if _, err := w.build(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(w.output); err != nil {
		t.Fatal(err)
	}
	r, err = w.build(t.Context(), WithDryRun(true))
	if err != nil {
		t.Fatal(err)
	}
	if len(w.ran) != 0 {
		t.Errorf("ran %v", w.ran)
	}
	if _, err := os.Stat(w.output); !os.IsNotExist(err) {
		t.Errorf("a dry run wrote the output: %v", err)
	}
	if len(r.Reasons) != 1 || !strings.Contains(r.Reasons[0], "bundle") {
		t.Errorf("it says %v", r.Reasons)
	}
	if left, err := os.ReadDir(filepath.Join(w.cache, "tmp")); err != nil || len(left) != 0 {
		t.Errorf("it left %v, %v", left, err)
	}
}

// A program that goes on after a build holds nothing of the store, whose
// collection would wait for it.
func TestBuildLetsGoOfTheStore(t *testing.T) {
	w := newWorld(t)
	check := func(what string) {
		t.Helper()
		st, err := store.Open(filepath.Join(w.cache, "store"))
		if err != nil {
			t.Fatal(err)
		}
		quiet, err := st.Quiet(t.Context(), func() error { return nil })
		if err := errors.Join(err, st.Close()); err != nil || !quiet {
			t.Errorf("after %s the store is in use: %v", what, err)
		}
	}
	if _, err := w.build(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("a build")
	if _, err := CheckLock(w.dir, WithCacheDir(w.cache), WithOffline(true)); err != nil {
		t.Fatal(err)
	}
	check("a look at the lock")
	w.write(LockFile, "nonsense")
	if _, err := w.build(t.Context()); err == nil {
		t.Error("a lock of nonsense was taken")
	}
	check("a build that was refused")
	if _, err := CheckLock(w.dir, WithCacheDir(w.cache), WithOffline(true)); err == nil {
		t.Error("a lock of nonsense was taken")
	}
	check("a lock that was refused")
}
