package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/build/toolchain"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/kernel"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// kernelBuild is the kernel step of recipes/sql, to be run in two ways.
type kernelBuild struct {
	image  engine.Image
	script string
	env    []string
	linux  string // path of the source tarball
	source store.Digest
	config string // path of the bundle's kernel.config
	digest store.Digest
	file   string // bzImage or Image
	want   string // its digest in the bundle
	cache  string
}

func newKernelBuild(b *testing.B) *kernelBuild {
	b.Helper()
	dir := needBundle(b)
	if os.Getenv("SOVEREIGN_BENCH_KERNEL") == "" {
		b.Skip("SOVEREIGN_BENCH_KERNEL is not set: two kernels take a quarter of an hour; run make bench-kernel")
	}
	if os.Geteuid() != 0 {
		b.Skip("needs root for the build by hand in a chroot")
	}
	manifest, err := bundle.Load(dir)
	if err != nil {
		b.Fatal(err)
	}
	caches, err := os.UserCacheDir()
	if err != nil {
		b.Fatal(err)
	}
	k := &kernelBuild{cache: filepath.Join(caches, "sovereign")}
	st, err := store.Open(filepath.Join(k.cache, "store"))
	if err != nil {
		b.Fatal(err)
	}
	l, err := lock.Load("../recipes/sql/sovereign.lock")
	if err != nil {
		b.Fatal(err)
	}
	if k.image, err = toolchain.Ensure(b.Context(), st, l.Toolchain, l.SourceDate, k.cache); err != nil {
		b.Fatal(err)
	}
	linux, _ := l.Source("linux")
	k.linux, k.source = st.Path(linux.Digest), linux.Digest
	for _, a := range manifest.Artifacts {
		switch a.Role {
		case bundle.RoleKernelConfig:
			k.config, k.digest = filepath.Join(dir, a.File), store.Digest(a.Digest)
		case bundle.RoleKernel:
			k.file, k.want = a.File, a.Digest
		}
	}
	arch, err := kernel.ArchOf(manifest.Arch)
	if err != nil {
		b.Fatal(err)
	}
	k.script = kernel.BuildScript(arch) + "\ntimes >/out/times\n"
	k.env = []string{"LC_ALL=C", "OUT=/out", "SOURCE_DATE_EPOCH=" + strconv.FormatInt(manifest.SourceDate, 10), "SRC=/src", "TZ=UTC"}
	return k
}

// check compares a kernel with the bundle's.
func (k *kernelBuild) check(b *testing.B, r io.Reader) {
	b.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		b.Fatal(err)
	}
	if got := fmt.Sprintf("sha256:%x", h.Sum(nil)); got != k.want {
		b.Errorf("the kernel is %s, the bundle's is %s", got, k.want)
	}
}

// reportCPU reports the CPU time that the script's children took, which the
// shell's times says in its second line as "12m3.45s 1m2.34s" (user, system).
// On a machine with other work to do it says more than the wall time.
func reportCPU(b *testing.B, times string) {
	b.Helper()
	lines := strings.Split(strings.TrimSpace(times), "\n")
	var total time.Duration
	for _, word := range strings.Fields(lines[len(lines)-1]) {
		d, err := time.ParseDuration(word)
		if err != nil {
			b.Fatalf("times said %q: %v", times, err)
		}
		total += d
	}
	b.ReportMetric(total.Seconds(), "cpu-s/op")
}

// BenchmarkKernelEngine is the kernel step in the engine, BenchmarkKernelHand
// the same script on the same toolchain in a plain chroot. Both make the
// bundle's kernel, byte for byte.
func BenchmarkKernelEngine(b *testing.B) {
	k := newKernelBuild(b)
	e, err := engine.Start(b.Context(), engine.WithBuildkitd("../bin/buildkitd"), engine.WithStateDir(filepath.Join(k.cache, "engine")))
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	for b.Loop() {
		var out bytes.Buffer
		err := e.Run(b.Context(), engine.Step{
			Name: "kernel benchmark", Base: k.image, Env: k.env, Output: "/out",
			// A number of its own keeps the engine from finding it done.
			Script: fmt.Sprintf("# %d\n", time.Now().UnixNano()) + k.script,
			Inputs: []engine.Input{{Dest: kernel.SourceInput, Path: k.linux, Digest: k.source}, {Dest: kernel.FragmentsInput, Path: k.config, Digest: k.digest}},
		}, &out)
		if err != nil {
			b.Fatal(err)
		}
		spool, err := rootfs.NewSpool(b.TempDir())
		if err != nil {
			b.Fatal(err)
		}
		defer spool.Close()
		tree, err := rootfs.ReadTar(b.Context(), &out, spool)
		if err != nil {
			b.Fatal(err)
		}
		k.check(b, strings.NewReader(content(b, tree, k.file)))
		reportCPU(b, content(b, tree, "times"))
	}
}

func content(b *testing.B, tree *rootfs.Tree, path string) string {
	b.Helper()
	e, ok := tree.Lookup(path)
	if !ok {
		b.Fatalf("the step left no %s", path)
	}
	var out strings.Builder
	if err := e.CopyTo(&out); err != nil {
		b.Fatal(err)
	}
	return out.String()
}

func BenchmarkKernelHand(b *testing.B) {
	k := newKernelBuild(b)
	root := k.unpack(b)
	for b.Loop() {
		b.StopTimer()
		for _, dir := range []string{"work", "out"} {
			if err := os.RemoveAll(filepath.Join(root, dir)); err != nil {
				b.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		cmd := exec.CommandContext(b.Context(), "unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc="+filepath.Join(root, "proc"),
			"chroot", root, "/bin/sh", "-eu", "-c", "cd /work\n"+k.script)
		cmd.Env = append(k.env, "HOME=/root", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, tail(string(out), 4<<10))
		}
		b.StopTimer()
		f, err := os.Open(filepath.Join(root, "out", k.file))
		if err != nil {
			b.Fatal(err)
		}
		k.check(b, f)
		f.Close()
		times, err := os.ReadFile(filepath.Join(root, "out", "times"))
		if err != nil {
			b.Fatal(err)
		}
		reportCPU(b, string(times))
		b.StartTimer()
	}
}

// unpack makes a directory of the toolchain image, with the step's inputs.
func (k *kernelBuild) unpack(b *testing.B) string {
	b.Helper()
	hash, err := v1.NewHash(string(k.image.Digest))
	if err != nil {
		b.Fatal(err)
	}
	index, err := layout.ImageIndexFromPath(k.image.Layout)
	if err != nil {
		b.Fatal(err)
	}
	image, err := index.Image(hash)
	if err != nil {
		b.Fatal(err)
	}
	// Beside the engine's own state, so that both are on the same disk.
	root, err := os.MkdirTemp(k.cache, "bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(root) })
	files := mutate.Extract(image)
	defer files.Close()
	cmd := exec.CommandContext(context.WithoutCancel(b.Context()), "tar", "-x", "-C", root)
	cmd.Stdin = files
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	for _, dir := range []string{"src", "proc", "dev"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			b.Fatal(err)
		}
	}
	for _, node := range [][]string{{"null", "1", "3"}, {"zero", "1", "5"}, {"urandom", "1", "9"}} {
		path := filepath.Join(root, "dev", node[0])
		os.Remove(path)
		if out, err := exec.Command("mknod", "-m", "666", path, "c", node[1], node[2]).CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
	}
	for dest, from := range map[string]string{kernel.SourceInput: k.linux, kernel.FragmentsInput: k.config} {
		data, err := os.ReadFile(from)
		if err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, dest), data, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return root
}
