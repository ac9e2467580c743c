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

// childEnv makes the test binary build one root image and end: both programs
// are measured as processes of their own.
const childEnv = "SOVEREIGN_ROOT_IMAGE"

func TestMain(m *testing.M) {
	if args := os.Getenv(childEnv); args != "" {
		f := strings.Fields(args)
		if err := rootImage(context.Background(), f[0], f[1], f[2], f[3:]); err != nil {
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
	if _, err := erofs.Write(ctx, f, tree, erofs.Options{Epoch: epoch, TempDir: filepath.Dir(out)}); err != nil {
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
// has its cache filled before and is spared the SBOM and looking for a VCS.
func BenchmarkRootImage(b *testing.B) {
	apkoProgram := filepath.Join(b.TempDir(), "apko")
	if out, err := exec.Command("go", "build", "-o", apkoProgram, "chainguard.dev/apko").CombinedOutput(); err != nil {
		b.Fatalf("go build apko: %v\n%s", err, out)
	}
	b.Run("go toolchain", func(b *testing.B) {
		dir, key, world := toolchainRepository(b)
		compare(b, apkoProgram, dir, key, world)
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
	theirs := func() *exec.Cmd {
		cmd := exec.Command(apkoProgram, "build", "--sbom=false", "--vcs=false", "--log-level=error", "--cache-dir", filepath.Join(work, "cache"), config, "root:bench", filepath.Join(work, "root.tar"))
		cmd.Dir = work
		cmd.Env = append(os.Environ(), fmt.Sprintf("SOURCE_DATE_EPOCH=%d", epoch), "TMPDIR="+work)
		return cmd
	}
	ours := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+strings.Join(append([]string{dir, key, filepath.Join(work, "root.erofs")}, world...), " "))
		return cmd
	}
	var warm, we, they cost
	warm.add(b, theirs())
	warm.add(b, ours())
	b.ResetTimer()
	for b.Loop() {
		we.add(b, ours())
		they.add(b, theirs())
	}
	n := float64(b.N)
	b.ReportMetric(0, "ns/op") // of both together: says nothing
	b.ReportMetric(we.wall.Seconds()/n, "ours-s")
	b.ReportMetric(they.wall.Seconds()/n, "apko-s")
	b.ReportMetric(we.cpu.Seconds()/n, "ours-cpu-s")
	b.ReportMetric(they.cpu.Seconds()/n, "apko-cpu-s")
	b.ReportMetric(float64(we.peak)/(1<<20), "ours-MiB")
	b.ReportMetric(float64(they.peak)/(1<<20), "apko-MiB")
	b.ReportMetric(they.wall.Seconds()/we.wall.Seconds(), "times-faster")
	b.ReportMetric(they.cpu.Seconds()/we.cpu.Seconds(), "times-less-cpu")
}

// toolchainRepository makes packages of the Go toolchain that runs the test:
// programs of many megabytes and thousands of small files.
func toolchainRepository(b *testing.B) (dir, key string, world []string) {
	b.Helper()
	signing, err := apk.GenerateKey("bench")
	if err != nil {
		b.Fatal(err)
	}
	dir = b.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "x86_64"), 0o755); err != nil {
		b.Fatal(err)
	}
	var metas []apk.Meta
	for _, part := range []string{"bin", "pkg", "src", "test", "api"} {
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
			b.Fatal(err)
		}
		m := apk.Meta{Name: "go-" + part, Version: "1-r0", Arch: "x86_64", License: "BSD-3-Clause"}
		var data bytes.Buffer
		if m, err = apk.Write(&data, m, tree, signing, epoch); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "x86_64", m.FileName()), data.Bytes(), 0o644); err != nil {
			b.Fatal(err)
		}
		metas, world = append(metas, m), append(world, m.Name)
	}
	var index bytes.Buffer
	if err := apk.WriteIndex(&index, metas, signing, epoch); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "x86_64", apk.IndexName), index.Bytes(), 0o644); err != nil {
		b.Fatal(err)
	}
	if _, err := signing.Save(dir); err != nil {
		b.Fatal(err)
	}
	return dir, filepath.Join(dir, signing.Name), world
}
