package build

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
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
		"ports/headers/port.yaml":        port("headers", "version: \"1\"\nnoarch: true\npackages:\n  - {name: headers, files: [\"**\"]}\n"),
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
		d, n, err := st.Put(t.Context(), bytes.NewReader(fakeSource(t, name)), "")
		if err != nil {
			t.Fatal(err)
		}
		l.Sources = append(l.Sources, lock.Source{
			Name: name, Version: "1.0", File: name + ".tar.gz", Digest: d, Size: n, Mirrors: []string{"debian:trixie/" + name + "=1.0-1"},
		})
	}
	if err := lock.New(filepath.Join(w.dir, lock.FileName)).Save(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	w.useKey(0)
	return w
}

// fakeSource is an archive with a licence in it.
func fakeSource(t *testing.T, name string) []byte {
	t.Helper()
	tree := rootfs.New()
	for _, e := range []rootfs.Entry{rootfs.Dir(name+"-1.0", 0o755), rootfs.Regular(name+"-1.0/COPYING", 0o644, []byte("Do with "+name+" what you like.\n"))} {
		if err := tree.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := rootfs.WriteTar(&b, tree, 0); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
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

// openDir makes a Builder of the recipe in a directory and the lock beside it,
// which is closed at the end of the test.
func openDir(t *testing.T, dir string, opts ...Option) (*Builder, *lock.Lock) {
	t.Helper()
	r, err := recipe.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	l, err := lock.Load(filepath.Join(dir, lock.FileName))
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(r, l, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b, l
}

// options are those of every build here: offline, by the fake engine.
func (w *world) options(opts ...Option) []Option {
	return append([]Option{
		WithArch("amd64"), WithCacheDir(w.cache), WithOutput(w.output), WithOffline(true), WithEngine(w),
		func(o *options) error {
			o.image = func() (engine.Image, error) {
				return engine.Image{Layout: w.dir, Digest: store.FromBytes([]byte("image"))}, nil
			}
			return nil
		},
	}, opts...)
}

// open makes a Builder of the recipe.
func (w *world) open(opts ...Option) *Builder {
	w.t.Helper()
	w.forget()
	b, _ := openDir(w.t, w.dir, w.options(opts...)...)
	return b
}

// forget begins to count steps anew.
func (w *world) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ran, w.most = nil, 0
}

// build makes the bundle.
func (w *world) build(ctx context.Context, opts ...Option) (*Result, error) {
	w.t.Helper()
	b := w.open(opts...)
	r, err := b.Bundle(ctx)
	return r, errors.Join(err, b.Close())
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
	if s.Log != nil {
		if _, err := fmt.Fprintf(s.Log, "making %s\n", name); err != nil {
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
	if _, err := w.open().Bundle(ctx); err != why { //nolint:errorlint // the very error
		t.Errorf("ended with %v", err)
	}
	if entries, err := os.ReadDir(w.output); err == nil && len(entries) > 0 {
		t.Errorf("it left %v", entries)
	}
}

// contents are the files below a directory with what they hold, without the
// store's own notes of who uses it now.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "sessions" {
			return fs.SkipDir
		}
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		files[path] = string(text)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return files
}

func TestPlanHasNoEffects(t *testing.T) {
	w := newWorld(t)
	t.Setenv("XDG_CONFIG_HOME", t.TempDir()) // no signing key yet, and none is made
	w.open()                                 // which makes the cache's directories
	plan := func() *Plan {
		t.Helper()
		b := w.open()
		before, lock := contents(t, filepath.Dir(w.dir)), textOf(t, b.Lock())
		p, err := b.Plan(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(before, contents(t, filepath.Dir(w.dir))); d != "" || textOf(t, b.Lock()) != lock || len(w.ran) != 0 {
			t.Errorf("a plan had effects: ran %v, %s", w.ran, d)
		}
		return p
	}
	p := plan()
	want := []PlannedStep{
		{Step: "kernel config amd64", Reason: "not built before", Engine: true},
		{Step: "port headers noarch", Reason: "not built before", Engine: true},
		{Step: "port lib amd64", Reason: "not built before", Engine: true},
		{Step: "port program amd64", Reason: "after headers", Engine: true},
		{Step: "port sovereign-init amd64", Reason: "not built before", Engine: true},
	}
	if d := cmp.Diff(want, p.Steps); d != "" || p.Name != "demo" || p.Arch != "amd64" || p.Bundle != "" || p.Digest != "" {
		t.Errorf("%+v %s", p, d)
	}
	if entries, err := os.ReadDir(os.Getenv("XDG_CONFIG_HOME")); err != nil || len(entries) != 0 {
		t.Errorf("a plan made %v, %v", entries, err)
	}

	w.useKey(0)
	made, err := w.build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if p := plan(); len(p.Reasons()) != 0 || len(p.Steps) != 7 || p.Digest != made.Digest || p.Bundle != made.Bundle {
		t.Errorf("after a build: %+v", p)
	}
	if err := os.RemoveAll(w.output); err != nil {
		t.Fatal(err)
	}
	if p := plan(); len(p.Reasons()) != 1 || p.Reasons()[0] != "bundle: "+made.Bundle+" is to be written" || p.Digest != made.Digest {
		t.Errorf("without the bundle: %+v", p)
	}
	w.write("ports/lib/build.sh", "true # changed\n")
	if p := plan(); !slices.Equal(p.Reasons(), []string{"port lib amd64: port files changed", "port program amd64: after lib"}) {
		t.Errorf("after a change of lib: %v", p.Reasons())
	}
	if left, err := os.ReadDir(filepath.Join(w.cache, "tmp")); err != nil || len(left) != 0 {
		t.Errorf("it left %v, %v", left, err)
	}
}

// Each phase by itself, from what the others left.
func TestPhases(t *testing.T) {
	w := newWorld(t)
	b := w.open()
	kernel, err := b.Kernel(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"kernel config 1.0", "kernel 1.0"}; !slices.Equal(w.ran, want) {
		t.Errorf("a kernel took %v, want %v", w.ran, want)
	}
	image, err := readBlob(b.Store(), kernel.Image)
	if err != nil || string(image) != "a kernel" {
		t.Errorf("the kernel is %q, %v", image, err)
	}

	w.forget()
	packages, err := b.Packages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range packages {
		names = append(names, p.Meta.Name)
		if !b.Store().Has(p.Digest) {
			t.Errorf("%s is not in the store", p.Meta.ID())
		}
	}
	if want := []string{"headers", "lib", "lib-dev", "program", "sovereign-init"}; !slices.Equal(names, want) || len(w.ran) != 4 {
		t.Errorf("packages %v, want %v; ran %v", names, want, w.ran)
	}

	w.forget()
	tree, err := b.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := content(t, tree, "usr/share/program"); got != "program" || len(w.ran) != 0 {
		t.Errorf("the root's program is %q; ran %v", got, w.ran)
	}
	if err := tree.Set(rootfs.Regular("etc/motd", 0o644, []byte("changed"))); err != nil {
		t.Fatal(err)
	}
	again, err := b.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := again.Lookup("etc/motd"); ok {
		t.Error("a tree that was given out is given out again")
	}
	if _, err := os.Stat(w.output); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("phases wrote the output: %v", err)
	}

	made, err := b.Bundle(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(w.ran) != 0 || made.StepsCached != 6 || made.StepsRun != 0 {
		t.Errorf("ran %v, %+v", w.ran, made)
	}
	// The same from nothing at once.
	other := newWorld(t)
	whole, err := other.build(t.Context())
	if err != nil || whole.Digest != made.Digest {
		t.Errorf("in one go it is %+v, %v; by phases %s", whole, err, made.Digest)
	}
}

// A port for every architecture is built for the first, and is the others' too.
func TestNoArchIsBuiltOnce(t *testing.T) {
	w := newWorld(t)
	w.write("recipe.yaml", strings.Replace(fakeRecipe, "[amd64]", "[amd64, arm64]", 1))
	var made []Package
	for i, arch := range []string{"amd64", "arm64"} {
		packages, err := w.open(WithArch(arch)).Packages(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if ran := slices.Contains(w.ran, "headers 1-r1"); ran != (i == 0) || !slices.Contains(w.ran, "program 2-r1") {
			t.Errorf("%s: ran %v", arch, w.ran)
		}
		for _, p := range packages {
			if forAll := p.Meta.Arch == apk.NoArch; forAll != (p.Meta.Name == "headers") {
				t.Errorf("%s is for %s", p.Meta.ID(), p.Meta.Arch)
			} else if forAll {
				made = append(made, p)
			}
		}
	}
	if len(made) != 2 || made[0].Digest != made[1].Digest {
		t.Errorf("the package of both is %+v", made)
	}
}

// The exported packages are nobody's input: an image is made of the store.
func TestExportIsNoInput(t *testing.T) {
	w := newWorld(t)
	made, err := w.build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// A directory that nothing can be read from, and another recipe's packages.
	packages := filepath.Join(w.output, "packages", "x86_64")
	entries, err := os.ReadDir(packages)
	if err != nil || len(entries) != 6 {
		t.Fatalf("exported %v, %v", entries, err)
	}
	for _, e := range entries {
		if err := os.WriteFile(filepath.Join(packages, e.Name()), []byte("nonsense"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	w.write("recipe.yaml", strings.Replace(fakeRecipe, "cpus: 1", "cpus: 2", 1))
	if _, err := w.open().Root(t.Context()); err != nil {
		t.Errorf("with nonsense in the export: %v", err)
	}
	w.write("recipe.yaml", fakeRecipe)
	again, err := w.build(t.Context())
	if err != nil || again.Digest != made.Digest {
		t.Errorf("%+v, %v", again, err)
	}
	text, err := os.ReadFile(filepath.Join(packages, "program-2-r1.apk"))
	if err != nil || string(text) == "nonsense" {
		t.Errorf("the export was not mended: %v", err)
	}
}

// A recipe made in Go of files in an fs.FS is the one in YAML on the disk.
func TestBundleWithoutYAML(t *testing.T) {
	w := newWorld(t)
	want, err := w.build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, l := openDir(t, w.dir, w.options()...)
	made := &recipe.Recipe{
		Name: "demo", Architectures: []string{"amd64"}, FS: os.DirFS(w.dir),
		Toolchain: "toolchain", Ports: "ports", Sources: "sources.yaml",
		Kernel:   recipe.Kernel{Source: "linux", Fragments: []string{"base.config"}},
		Packages: []string{"sovereign-init", "program"},
		VM:       recipe.VM{Memory: 64 * recipe.MiB, CPUs: 1, Data: recipe.GiB},
		Users:    []recipe.User{{Name: "web", UID: 80}},
		Services: []recipe.Service{{Name: "web", User: "web", Command: []string{"/usr/share/program"}, Health: recipe.Health{Command: []string{"/bin/true"}}}},
	}
	l.Path = "" // made in Go too, for all anybody knows
	w.forget()
	b, err := New(made, l, w.options()...)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	got, err := b.Bundle(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got.Digest != want.Digest || len(w.ran) != 0 {
		t.Errorf("the bundle is %s, in YAML %s; ran %v", got.Digest, want.Digest, w.ran)
	}

	made.VM, made.Kernel, made.Packages = recipe.VM{}, recipe.Kernel{}, nil
	nothing, err := New(made, l, w.options()...)
	if err != nil {
		t.Fatal(err)
	}
	defer nothing.Close()
	_, kernel := nothing.Kernel(t.Context())
	_, root := nothing.Root(t.Context())
	_, bundle := nothing.Bundle(t.Context())
	for _, err := range []error{kernel, root, bundle} {
		if fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "recipe demo has nothing to make a") {
			t.Errorf("%v", err)
		}
	}
}

// An image of a repository's packages alone compiles nothing, and the lock it
// was made from makes it again.
func TestRootOfARepository(t *testing.T) {
	w := newWorld(t)
	if _, err := w.build(t.Context()); err != nil {
		t.Fatal(err)
	}
	repository := filepath.Join(w.output, "packages")
	made := &recipe.Recipe{Name: "demo", Architectures: []string{"amd64"}, Repositories: []string{repository}, Packages: []string{"program"}}
	w.forget()
	var said []string
	root := func(l *lock.Lock, opts ...Option) (*lock.Lock, error) {
		t.Helper()
		b, err := New(made, l, w.options(append(opts, WithEvents(func(e Event) { said = append(said, e.String()) }))...)...)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		tree, err := b.Root(t.Context())
		if err == nil && content(t, tree, "usr/share/lib") != "lib" {
			t.Error("the root has no library")
		}
		return b.Lock(), err
	}
	empty := &lock.Lock{Schema: lock.Schema, SourceDate: 1}
	if _, err := root(empty, WithFrozenLock(true)); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "are not locked") {
		t.Errorf("frozen: %v", err)
	}
	l, err := root(empty)
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Packages) != 2 || len(empty.Packages) != 0 || len(w.ran) != 0 {
		t.Errorf("locked %v; what New was given has %v; ran %v", l.Packages, empty.Packages, w.ran)
	}
	if want := "locked 2 packages for x86_64 from " + repository; !slices.Contains(said, want) {
		t.Errorf("said %q", said)
	}
	if err := os.RemoveAll(repository); err != nil {
		t.Fatal(err)
	}
	if _, err := root(l, WithFrozenLock(true)); err != nil {
		t.Errorf("from the lock alone: %v", err)
	}
	for what, opt := range map[string]Option{"repository": WithRepositories([]string{repository}, nil), "files": WithFiles(rootfs.New())} {
		if _, err := root(l, WithFrozenLock(true), opt); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), what) {
			t.Errorf("frozen, with %s: %v", what, err)
		}
	}
	if _, err := New(made, l, w.options(WithFrozenLock(true), WithRelockMissing(true))...); fault.ClassOf(err) != fault.Usage {
		t.Errorf("frozen and to be locked anew: %v", err)
	}
}

// Every step begins and ends with an event, and what its script prints comes in
// between.
func TestEvents(t *testing.T) {
	w := newWorld(t)
	type story struct{ missed, started, done, cached, log string }
	steps := map[string]*story{}
	var written []string
	listen := WithEvents(func(e Event) { // never two at once
		of := func(step string) *story {
			if steps[step] == nil {
				steps[step] = &story{}
			}
			return steps[step]
		}
		switch e := e.(type) {
		case StepMissed:
			of(e.Step).missed = e.Reason
		case StepStarted:
			of(e.Step).started = of(e.Step).missed
		case StepLog:
			of(e.Step).log += string(e.Data)
		case StepDone:
			of(e.Step).done = of(e.Step).started
		case StepCached:
			of(e.Step).cached = "yes"
		case Writing:
			written = append(written, e.Dir)
		}
	})
	made, err := w.build(t.Context(), listen, WithJobs(3))
	if err != nil {
		t.Fatal(err)
	}
	// The steps and the root, and the licences: of both sources, and of all.
	if len(steps) != 10 || !slices.Equal(written, []string{made.Bundle}) {
		t.Errorf("told of %d steps, and of writing %v", len(steps), written)
	}
	for name, s := range steps {
		if s.done != "not built before" || s.cached != "" || (strings.HasPrefix(name, "root") || strings.HasPrefix(name, "licenses")) != (s.log == "") {
			t.Errorf("%s: %+v", name, s)
		}
	}
	if log := steps["port lib amd64"].log; log != "making lib 1.0-r1\n" {
		t.Errorf("the log of lib is %q", log)
	}
	clear(steps)
	if _, err := w.build(t.Context(), listen); err != nil {
		t.Fatal(err)
	}
	for name, s := range steps {
		if *s != (story{cached: "yes"}) {
			t.Errorf("the second time %s: %+v", name, s)
		}
	}
	w.write("ports/lib/build.sh", "false\n")
	w.step = func(context.Context, string) error { return fault.Errorf(fault.Step, "broken") }
	var failed []string
	if _, err := w.build(t.Context(), WithEvents(func(e Event) {
		if e, ok := e.(PartFailed); ok {
			failed = append(failed, e.String())
		}
	})); err == nil || !slices.Equal(failed, []string{"port lib failed, what runs is finished and kept: broken"}) {
		t.Errorf("%v, told of %q", err, failed)
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
	w.write("base.config", "CONFIG_LOST=y\n")
	if _, err := w.build(t.Context()); err == nil {
		t.Error("a kernel that lost a symbol was taken")
	}
	check("a build that failed")
	r, err := recipe.Load(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	r.Name = "No Name"
	if _, err := New(r, nil, w.options()...); fault.ClassOf(err) != fault.Usage {
		t.Errorf("a recipe of nonsense: %v", err)
	}
	check("a recipe that was refused")
}
