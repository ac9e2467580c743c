package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

// TestTransfer carries the inputs of a lock to a machine that has nothing: the
// archive of store export goes into a new cache, and the build from it runs in
// a network namespace with nothing in it.
//
// The recipe has an input of each kind: a source, the toolchain image's Debian
// packages, the Go toolchain, a Go module of a port, and a package of an apk
// repository, which the other machine does not have. All are real but the
// kernel's source, a tarball whose makefile makes a stand-in at once; the
// engine, the toolchain image and the steps are those of any build.
func TestTransfer(t *testing.T) {
	needBundle(t)
	if os.Geteuid() != 0 {
		t.Fatal("a network namespace needs root")
	}
	here, there := t.TempDir(), t.TempDir()
	smallRecipe(t, filepath.Join(here, "recipe"))

	archive := filepath.Join(t.TempDir(), "inputs.tar")
	sovereignBuild(t, "", "store", "export", archive, filepath.Join(here, "recipe"))

	// Only the recipe goes along, not the repository that it names.
	if err := os.CopyFS(filepath.Join(there, "recipe"), os.DirFS(filepath.Join(here, "recipe"))); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{filepath.Join(here, "recipe"), filepath.Join(there, "recipe", "repository")} {
		if err := os.RemoveAll(gone); err != nil {
			t.Fatal(err)
		}
	}
	cache, out := filepath.Join(there, "cache"), filepath.Join(there, "out")
	sovereignBuild(t, "", "store", "import", archive, "--cache-dir", cache)
	if err := os.Remove(archive); err != nil {
		t.Fatal(err)
	}
	sovereignBuild(t, "unshare --net", "build", filepath.Join(there, "recipe"), "--offline",
		"--cache-dir", cache, "--output", out, "--progress", "plain")

	dir := filepath.Join(out, "small-"+runtime.GOARCH)
	if err := bundle.Verify(context.Background(), dir); err != nil {
		t.Error(err)
	}
	m, err := bundle.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	var packages []string
	for _, p := range m.Packages {
		packages = append(packages, p.Name)
	}
	slices.Sort(packages)
	if got := strings.Join(packages, " "); got != "extra sovereign-init" {
		t.Errorf("the image has the packages %q", got)
	}
}

// sovereignBuild runs the command line, by another command if one is given.
func sovereignBuild(t *testing.T, by string, args ...string) {
	t.Helper()
	argv := append(strings.Fields(by), "../bin/sovereign-build")
	cmd := exec.Command(argv[0], append(argv[1:], args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sovereign-build %s: %v\n%s", strings.Join(args, " "), err, tail(string(out), 8<<10))
	}
}

// smallRecipe writes a recipe, its lock, its port and its repository to dir,
// and the kernel's stand-in into the content store of this machine.
func smallRecipe(t *testing.T, dir string) {
	t.Helper()
	toolchain, err := filepath.Abs("../recipes/toolchain")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(dir, "toolchain"), os.DirFS(toolchain)); err != nil {
		t.Fatal(err)
	}
	sums, err := os.ReadFile("../go.sum")
	if err != nil {
		t.Fatal(err)
	}
	const module = "golang.org/x/sys"
	var version string
	var moduleSums strings.Builder
	mod, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", module).Output()
	if err != nil {
		t.Fatal(err)
	}
	version = strings.TrimSpace(string(mod))
	for line := range strings.Lines(string(sums)) {
		if strings.HasPrefix(line, module+" "+version) {
			moduleSums.WriteString(line)
		}
	}
	l, err := lock.Load("../recipes/sql/sovereign.lock")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"recipe.yaml": `schema: 1
name: small
summary: An input of every kind
architectures: [` + runtime.GOARCH + `]
toolchain: toolchain
ports: ports
sources: sources.yaml
kernel:
  source: linux
  fragments: [demo.config]
repositories: [repository]
keys: [theirs.rsa.pub]
packages: [sovereign-init, extra]
vm: {memory: 64MiB, cpus: 1, data: 64MiB}
services:
  - name: nothing
    command: [/sbin/sovereign-init]
    user: root
    health: {command: [/sbin/sovereign-init]}
`,
		"sources.yaml": "linux:\n  debian: {suite: trixie, source: linux}\n",
		"demo.config":  "# A stand-in has one symbol.\nCONFIG_DEMO=y\n",
		"ports/sovereign-init/port.yaml": `name: sovereign-init
summary: A stand-in
license: MIT
url: https://github.com/sovereign-build/sovereign
version: "1.0"
release: 0
go:
  source: port
packages:
  - name: sovereign-init
    files: ["sbin/sovereign-init"]
`,
		"ports/sovereign-init/build.sh": `#!/bin/sh -eu
. "$TOOLCHAIN/lib.sh"
mkdir -p "$OUT/sbin" "$WORK/gocache"
cd "$PORT"
GOOS=linux GOARCH=$GOARCH CGO_ENABLED=0 GOCACHE=$WORK/gocache GOMODCACHE=$WORK/gomodcache \
	GOFLAGS="-mod=readonly -trimpath -modcacherw" \
	go build -p "$JOBS" -buildvcs=false -ldflags "-s -w -buildid=" -o "$OUT/sbin/sovereign-init" .
`,
		"ports/sovereign-init/go.mod":  "module example.org/init\n\ngo 1.26.0\n\nrequire " + module + " " + version + "\n",
		"ports/sovereign-init/go.sum":  moduleSums.String(),
		"ports/sovereign-init/main.go": "package main\n\nimport \"golang.org/x/sys/unix\"\n\nfunc main() { unix.Sync() }\n",
	} {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l.Sources = []lock.Source{kernelStandIn(t)}
	l.Packages = []lock.Package{publishExtra(t, dir)}
	if err := lock.New(filepath.Join(dir, lock.FileName)).Save(t.Context(), l); err != nil {
		t.Fatal(err)
	}
}

// kernelStandIn puts a source that is configured and compiled as Linux is, and
// at once, into the content store that export reads.
func kernelStandIn(t *testing.T) lock.Source {
	t.Helper()
	const makefile = `all:
allnoconfig:
	@cp $(KCONFIG_ALLCONFIG) .config
olddefconfig:
bzImage Image:
	@mkdir -p arch/x86/boot arch/arm64/boot
	@echo a stand-in | tee arch/x86/boot/bzImage >arch/arm64/boot/Image
kernelrelease:
	@echo 6.12.1-sovereign
`
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range []struct{ name, text string }{{"linux/Makefile", makefile}, {"linux/Kconfig", "config DEMO\n\tbool\n"}, {"linux/scripts/none", ""},
		{"linux/arch/x86/x.config", ""}, {"linux/arch/x86/configs/none", ""}, {"linux/arch/x86/tools/none", ""}, {"linux/Kbuild", ""}} {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(f.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	digest, size := keep(t, b.Bytes())
	return lock.Source{Name: "linux", Version: "6.12.1", File: "linux.tar", Digest: digest, Size: size, Mirrors: []string{"debian:trixie/linux=6.12.1-1"}}
}

// keep puts a file into the content store of this machine.
func keep(t *testing.T, data []byte) (store.Digest, int64) {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(filepath.Join(cache, "sovereign", "store"))
	if err != nil {
		t.Fatal(err)
	}
	digest, size, err := s.Put(t.Context(), bytes.NewReader(data), "")
	if err != nil {
		t.Fatal(err)
	}
	return digest, size
}

// publishExtra writes a repository with one package, and its key.
func publishExtra(t *testing.T, dir string) lock.Package {
	t.Helper()
	key, err := apk.GenerateKey("theirs")
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.PublicPEM()
	if err != nil {
		t.Fatal(err)
	}
	tree := rootfs.New()
	if err := tree.Add(rootfs.Regular("usr/share/extra", 0o644, []byte("extra"))); err != nil {
		t.Fatal(err)
	}
	arch := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	var b, index bytes.Buffer
	m, err := apk.Write(&b, apk.Meta{Name: "extra", Version: "1.0-r0", Arch: arch, License: "MIT"}, tree, key, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := apk.WriteIndex(&index, []apk.Meta{m}, key, 1); err != nil {
		t.Fatal(err)
	}
	repository := filepath.Join(dir, "repository", arch)
	if err := os.MkdirAll(repository, 0o755); err != nil {
		t.Fatal(err)
	}
	for path, data := range map[string][]byte{
		filepath.Join(repository, m.FileName()): b.Bytes(), filepath.Join(repository, apk.IndexName): index.Bytes(), filepath.Join(dir, key.Name): public,
	} {
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return lock.Package{Name: m.Name, Version: m.Version, Arch: arch, Repository: "repository", Digest: store.FromBytes(b.Bytes()), Size: int64(b.Len())}
}
