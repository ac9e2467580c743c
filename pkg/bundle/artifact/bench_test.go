package artifact

import (
	"io"
	"log"
	"math/rand/v2"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ociregistry "github.com/google/go-containerregistry/pkg/registry"
	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/registry"
)

// benchSize is about that of recipes/sql.
const benchSize = 128 << 20

// large writes a bundle whose root is of a size, of bytes that nothing shrinks.
func large(b *testing.B, dir string, seed uint64) {
	b.Helper()
	w, err := bundle.Create(dir)
	if err != nil {
		b.Fatal(err)
	}
	var key [32]byte
	key[0] = byte(seed)
	for name, f := range map[string]struct {
		role string
		r    io.Reader
	}{
		"root.img": {bundle.RoleRoot, io.LimitReader(rand.NewChaCha8(key), benchSize)},
		"bzImage":  {bundle.RoleKernel, strings.NewReader("kernel")}, "initramfs": {bundle.RoleInitramfs, strings.NewReader("cpio")},
	} {
		if err := w.Add(b.Context(), name, f.role, f.r); err != nil {
			b.Fatal(err)
		}
	}
	_, err = w.Commit(b.Context(), bundle.Manifest{
		Schema: bundle.Schema, Name: "sql", Arch: "amd64", SourceDate: 1700000000,
		Lock: bundle.Lock{Digest: "sha256:" + strings.Repeat("a", 64)},
		Root: bundle.Root{Serial: "root", Hash: strings.Repeat("b", 64)},
		VM:   bundle.VM{MemoryMiB: 512, CPUs: 2, Cmdline: "x", Data: bundle.Data{Serial: "data", Size: 8 << 30}},
	})
	if err != nil {
		b.Fatal(err)
	}
}

// cpu is what the benchmark took of this process, the registry's part included: on
// a machine that is busy with other things wall time says little.
func cpu(b *testing.B, began time.Duration) {
	b.ReportMetric(float64((onCPU(b)-began).Milliseconds())/float64(b.N), "cpu-ms/op")
}

func onCPU(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchHost(b *testing.B) string {
	b.Helper()
	server := httptest.NewServer(ociregistry.New(ociregistry.Logger(log.New(io.Discard, "", 0)), ociregistry.WithBlobHandler(ociregistry.NewDiskBlobHandler(b.TempDir()))))
	b.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func BenchmarkPush(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "sql")
	large(b, dir, 1)
	b.SetBytes(benchSize)
	began := onCPU(b)
	for b.Loop() {
		b.StopTimer()
		host := benchHost(b)
		b.StartTimer()
		if _, err := Push(b.Context(), &registry.Client{}, dir, host+"/sql:1"); err != nil {
			b.Fatal(err)
		}
	}
	cpu(b, began)
}

func BenchmarkPushUnchanged(b *testing.B) {
	dir, host := filepath.Join(b.TempDir(), "sql"), benchHost(b)
	large(b, dir, 1)
	var began time.Duration
	for n := 0; b.Loop(); n++ {
		if n == 1 {
			b.ResetTimer()
			began = onCPU(b)
		}
		if _, err := Push(b.Context(), &registry.Client{}, dir, host+"/sql:1"); err != nil {
			b.Fatal(err)
		}
	}
	cpu(b, began)
}

func BenchmarkPull(b *testing.B) {
	dir, host := filepath.Join(b.TempDir(), "sql"), benchHost(b)
	large(b, dir, 1)
	if _, err := Push(b.Context(), &registry.Client{}, dir, host+"/sql:1"); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(benchSize)
	began := onCPU(b)
	for b.Loop() {
		if _, err := Pull(b.Context(), &registry.Client{}, host+"/sql:1", filepath.Join(b.TempDir(), "pulled"), nil); err != nil {
			b.Fatal(err)
		}
	}
	cpu(b, began)
}

func BenchmarkPullUnchanged(b *testing.B) {
	dir, host := filepath.Join(b.TempDir(), "sql"), benchHost(b)
	large(b, dir, 1)
	if _, err := Push(b.Context(), &registry.Client{}, dir, host+"/sql:1"); err != nil {
		b.Fatal(err)
	}
	began := onCPU(b)
	for b.Loop() {
		if _, err := Pull(b.Context(), &registry.Client{}, host+"/sql:1", dir, nil); err != nil {
			b.Fatal(err)
		}
	}
	cpu(b, began)
}
