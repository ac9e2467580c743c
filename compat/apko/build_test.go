package apko

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
	"github.com/sovereign-build/sovereign/pkg/rootfs/erofs"
)

// childEnv makes the test binary build one root image, or make a repository,
// and end: both programs are measured as processes of their own, and a process
// starts with the peak memory of the one that starts it.
const childEnv = "SOVEREIGN_ROOT_IMAGE"

func TestMain(m *testing.M) {
	if args := os.Getenv(childEnv); args != "" {
		f := strings.Fields(args)
		do := func() error { return rootImage(context.Background(), f[0], f[1], f[2], f[3:]) }
		if len(f) == 1 {
			do = func() error { return toolchainRepository(f[0]) }
		}
		if err := do(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// rootImage is the whole way from a repository to an EROFS image.
func rootImage(ctx context.Context, dir, key, out string, world []string) error {
	keys, err := apk.LoadKeyring(key)
	if err != nil {
		return err
	}
	repository, err := apk.OpenRepository(ctx, dir, "x86_64", keys)
	if err != nil {
		return err
	}
	selected, err := apk.Solve(ctx, world, []apk.Repository{repository})
	if err != nil {
		return err
	}
	spool, err := rootfs.NewSpool(filepath.Dir(out))
	if err != nil {
		return err
	}
	defer spool.Close()
	tree := rootfs.New()
	if err := apk.Install(ctx, tree, selected, apk.InstallOptions{Spool: spool, World: world, Arch: "x86_64"}); err != nil {
		return err
	}
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := erofs.Write(ctx, f, tree, erofs.Options{Epoch: epoch}); err != nil {
		return err
	}
	return f.Close()
}

// cost of a process.
type cost struct {
	wall, cpu time.Duration
	peak      int64 // bytes
}

func (c *cost) add(b *testing.B, cmd *exec.Cmd) {
	b.Helper()
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	start := time.Now()
	if err := cmd.Run(); err != nil {
		b.Fatalf("%s: %v\n%s", cmd.Path, err, log.String())
	}
	c.wall += time.Since(start)
	usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	c.cpu += time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	c.peak = max(c.peak, usage.Maxrss<<10)
}

// BenchmarkRootImage goes from cached packages to a finished root image, by
// turns with this module and with `apko build`, and reports how many times
// faster this is. What they make differs as the two tools do: an EROFS image
// that can be mounted as it is, and an OCI image, which is a gzipped tar. apko
// is spared the SBOM and looking for a VCS. It runs twice: with the packages
// as they were fetched, and with a cache that has them unpacked by an earlier
// run ("unpacked"), which this module does not keep.
func BenchmarkRootImage(b *testing.B) {
	apkoProgram := filepath.Join(b.TempDir(), "apko")
	if out, err := exec.Command("go", "build", "-o", apkoProgram, "chainguard.dev/apko").CombinedOutput(); err != nil {
		b.Fatalf("go build apko: %v\n%s", err, out)
	}
	b.Run("go toolchain", func(b *testing.B) {
		dir := b.TempDir()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		var world []string
		for _, part := range toolchainParts {
			world = append(world, "go-"+part)
		}
		compare(b, apkoProgram, dir, filepath.Join(dir, "bench.rsa.pub"), world)
	})
	b.Run("ports", func(b *testing.B) {
		bundle := os.Getenv("SOVEREIGN_E2E")
		if bundle == "" {
			b.Skip("SOVEREIGN_E2E does not name a bundle; run make test-e2e")
		}
		dir := filepath.Join(filepath.Dir(bundle), "packages")
		compare(b, apkoProgram, dir, filepath.Join(dir, "sovereign-local.rsa.pub"),
			[]string{"postgresql17", "postgresql17-contrib", "icu-data-full", "tailscale", "openssl", "e2fsprogs", "sovereign-init"})
	})
}

func compare(b *testing.B, apkoProgram, dir, key string, world []string) {
	work := b.TempDir()
	config := filepath.Join(work, "apko.yaml")
	text := fmt.Sprintf("contents:\n  repositories: [%q]\n  keyring: [%q]\n  packages: [%s]\narchs: [x86_64]\n", dir, key, strings.Join(world, ", "))
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		b.Fatal(err)
	}
	theirs := func(cache string) *exec.Cmd {
		cmd := exec.Command(apkoProgram, "build", "--sbom=false", "--vcs=false", "--log-level=error", "--cache-dir", filepath.Join(work, cache), config, "root:bench", filepath.Join(work, "root.tar"))
		cmd.Dir = work
		cmd.Env = append(os.Environ(), fmt.Sprintf("SOURCE_DATE_EPOCH=%d", epoch), "TMPDIR="+work)
		return cmd
	}
	ours := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+strings.Join(append([]string{dir, key, filepath.Join(work, "root.erofs")}, world...), " "))
		return cmd
	}
	var warm, we, they, unpacked cost
	warm.add(b, theirs("warm"))
	warm.add(b, ours())
	for b.Loop() {
		we.add(b, ours())
		they.add(b, theirs("cold"))
		if err := os.RemoveAll(filepath.Join(work, "cold")); err != nil {
			b.Fatal(err)
		}
		unpacked.add(b, theirs("warm"))
	}
	n := float64(b.N)
	b.ReportMetric(0, "ns/op") // of all together: says nothing
	for name, c := range map[string]cost{"ours": we, "apko": they, "unpacked": unpacked} {
		b.ReportMetric(c.wall.Seconds()/n, name+"-s")
		b.ReportMetric(c.cpu.Seconds()/n, name+"-cpu-s")
		b.ReportMetric(float64(c.peak)/(1<<20), name+"-MiB")
		if name != "ours" {
			b.ReportMetric(c.wall.Seconds()/we.wall.Seconds(), name+"-times-faster")
			b.ReportMetric(c.cpu.Seconds()/we.cpu.Seconds(), name+"-times-less-cpu")
		}
	}
}

var toolchainParts = [...]string{"bin", "pkg", "src", "test", "api"}

// toolchainRepository makes packages of the Go toolchain that runs the test:
// programs of many megabytes and thousands of small files.
func toolchainRepository(dir string) error {
	signing, err := apk.GenerateKey("bench")
	if err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(dir, "x86_64"), 0o755); err != nil {
		return err
	}
	var metas []apk.Meta
	for _, part := range toolchainParts {
		tree := rootfs.New()
		root := runtime.GOROOT() //nolint:staticcheck // the one that runs the test is as good as any
		err := filepath.WalkDir(filepath.Join(root, part), func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !d.Type().IsRegular() {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			name, err := filepath.Rel(root, p)
			if err != nil {
				return err
			}
			return tree.Add(rootfs.Entry{Path: "usr/lib/go/" + filepath.ToSlash(name), Mode: info.Mode().Perm() | 0o600, Size: info.Size(), Content: rootfs.File(p)})
		})
		if err != nil {
			return err
		}
		m := apk.Meta{Name: "go-" + part, Version: "1-r0", Arch: "x86_64", License: "BSD-3-Clause"}
		var data bytes.Buffer
		if m, err = apk.Write(&data, m, tree, signing, epoch); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "x86_64", m.FileName()), data.Bytes(), 0o644); err != nil {
			return err
		}
		metas = append(metas, m)
	}
	var index bytes.Buffer
	if err := apk.WriteIndex(&index, metas, signing, epoch); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "x86_64", apk.IndexName), index.Bytes(), 0o644); err != nil {
		return err
	}
	_, err = signing.Save(dir)
	return err
}
