package toolchain

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/source"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

const epoch = 1_700_000_000

// fullEnv asks for the tests with the whole toolchain: 180 MB to fetch and
// some minutes.
const fullEnv = "SOVEREIGN_TEST_TOOLCHAIN"

// locked fetches a suite's packages into a new store. A directory in
// SOVEREIGN_TEST_CACHE keeps them for the next time.
func locked(t *testing.T, packages ...string) (*store.Store, lock.Toolchain) {
	t.Helper()
	for _, tool := range []string{"mmdebstrap", "apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	cache := os.Getenv("SOVEREIGN_TEST_CACHE")
	if cache == "" {
		cache = t.TempDir()
	}
	st, err := store.Open(filepath.Join(cache, "store"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := source.New(source.WithStore(st), source.WithCacheDir(cache))
	if err != nil {
		t.Fatal(err)
	}
	l, err := f.ResolveToolchain(t.Context(), "bookworm", packages)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Debs(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	return st, l
}

// runIn runs a script in the image and returns its output as it came, a tar
// stream.
func runIn(t *testing.T, image engine.Image, script string) string {
	t.Helper()
	daemon, err := filepath.Abs("../../../bin/buildkitd")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(daemon); err != nil || os.Getuid() != 0 {
		t.Skip("bin/buildkitd and root are needed to run a step (make)")
	}
	e, err := engine.Start(t.Context(), engine.WithBuildkitd(daemon), engine.WithStateDir(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}()
	var out bytes.Buffer
	began := time.Now()
	err = e.Run(t.Context(), engine.Step{Name: "try the toolchain", Base: image, Script: script, Output: "/out"}, &out)
	var failed *engine.StepError
	if errors.As(err, &failed) {
		t.Fatalf("%v\n%s", err, strings.Join(failed.Tail, "\n"))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("first step, with a new engine: %v", time.Since(began).Round(time.Millisecond))
	return out.String()
}

// TestEnsure makes a small image twice, in different directories.
func TestEnsure(t *testing.T) {
	if testing.Short() {
		t.Skip("downloads 40 MB and runs mmdebstrap twice")
	}
	st, l := locked(t, "zstd")
	dir := t.TempDir()
	first := ensure(t, st, l, dir)
	second := ensure(t, st, l, filepath.Join(t.TempDir(), "elsewhere"))
	if first.Digest != second.Digest {
		t.Errorf("two makings: %s and %s", first.Digest, second.Digest)
	}
	if again := ensure(t, st, l, dir); again != first {
		t.Errorf("the finished image: %v, want %v", again, first)
	}
	if out := runIn(t, first, "zstd --version > /out/result; test ! -e /usr/share/man/man1/zstd.1.gz"); !strings.Contains(out, "Zstandard CLI") {
		t.Errorf("zstd --version: %q", out)
	}

	t.Run("a damaged image", func(t *testing.T) {
		blobs, err := filepath.Glob(filepath.Join(first.Layout, "blobs", "sha256", "*"))
		if err != nil || len(blobs) != 3 {
			t.Fatalf("blobs %v: %v", blobs, err)
		}
		for _, b := range blobs {
			if err := os.Truncate(b, 1); err != nil {
				t.Fatal(err)
			}
		}
		// Ensure makes anew what does not open.
		if image, err := openLayout(t.Context(), first.Layout); err == nil {
			t.Errorf("opened %v", image)
		}
	})

	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		dir := t.TempDir()
		_, err := Ensure(ctx, st, l, epoch+1, dir)
		if err == nil {
			t.Skip("faster than two seconds")
		}
		left, globErr := filepath.Glob(filepath.Join(dir, "toolchain", ".build-*"))
		if globErr != nil || len(left) != 0 {
			t.Errorf("left behind: %v %v", left, globErr)
		}
	})

	t.Run("a package that is not the locked one", func(t *testing.T) {
		wrong := l
		wrong.Packages = append([]lock.DebPackage(nil), l.Packages...)
		wrong.Packages[0].Version = "0"
		_, err := Ensure(t.Context(), st, wrong, epoch, t.TempDir())
		if fault.ClassOf(err) != fault.Verification {
			t.Errorf("got %v", err)
		}
	})

	t.Run("a package that is not in the store", func(t *testing.T) {
		empty, err := store.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		_, err = Ensure(t.Context(), empty, l, epoch, t.TempDir())
		if fault.ClassOf(err) != fault.Source {
			t.Errorf("got %v", err)
		}
	})
}

func ensure(t *testing.T, st *store.Store, l lock.Toolchain, dir string) engine.Image {
	t.Helper()
	began := time.Now()
	image, err := Ensure(t.Context(), st, l, epoch, dir)
	if err != nil {
		t.Fatal(err)
	}
	var size int64
	err = filepath.Walk(image.Layout, func(_ string, fi os.FileInfo, err error) error {
		if err == nil && fi.Mode().IsRegular() {
			size += fi.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d packages, %s, %.1f MB, %v", len(l.Packages), image.Digest, float64(size)/1e6, time.Since(began).Round(time.Millisecond))
	return image
}

// TestFull makes the image of image.yaml and tries every tool of it.
func TestFull(t *testing.T) {
	if os.Getenv(fullEnv) == "" {
		t.Skipf("set %s=1 to make the whole toolchain image", fullEnv)
	}
	spec, err := realSpec()
	if err != nil {
		t.Fatal(err)
	}
	st, l := locked(t, spec.Packages...)
	image := ensure(t, st, l, t.TempDir())
	if again := ensure(t, st, l, t.TempDir()); again.Digest != image.Digest {
		t.Errorf("two makings: %s and %s", image.Digest, again.Digest)
	}
	out := runIn(t, image, `
		for tool in "clang-19" "ld.lld-19" "llvm-ar-19" "cmake" "ninja" "python3" "zic" "make" "bison" "flex" "bc" "rsync" "openssl version;" "perl" "pkgconf" "file" "zstd"; do
			case $tool in *";") eval "$tool" ;; *) "$tool" --version ;; esac >> /out/result
		done
		/sbin/ldconfig -p | head -1 >> /out/result
		printf 'int main(void){return 0;}' > t.c
		clang-19 -fuse-ld=lld t.c -o t && ./t && echo compiled >> /out/result`)
	for _, want := range []string{"clang version 19", "LLD 19", "cmake version 3.25", "Python 3.11", "libs found in cache", "compiled"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing", want)
		}
	}
}
