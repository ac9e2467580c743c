package qcow2

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/disk/sparse"
)

// raw makes a disk of size bytes with noise at each offset.
func raw(t testing.TB, size int64, length int, at ...int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk.raw"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	r := rand.NewChaCha8([32]byte{1})
	noise := make([]byte, length)
	for _, off := range at {
		_, _ = r.Read(noise) // never fails
		if _, err := f.WriteAt(noise[:min(int64(length), size-off)], off); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func convert(t testing.TB, r io.ReaderAt, size int64) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk.qcow2")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Write(context.Background(), f, r, size); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestQEMUAccepts(t *testing.T) {
	img, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Skip("qemu-img is not installed (Debian: qemu-utils)")
	}
	for name, disk := range map[string]struct {
		size   int64
		length int
		at     []int64
	}{
		"one sector":    {512, 512, []int64{0}},
		"empty":         {1 << 30, 0, nil},
		"odd size":      {10<<20 + 512, 1000, []int64{0, 4096, 70000, 10 << 20}},
		"two L2 tables": {1 << 30, 200_000, []int64{0, 511<<20 + 950_000, 1<<30 - 100_000}},
		"large":         {5 << 40, 4096, []int64{1 << 20, 3 << 40, 5<<40 - 4096}},
	} {
		t.Run(name, func(t *testing.T) {
			f := raw(t, disk.size, disk.length, disk.at...)
			image := convert(t, f, disk.size)
			if out, err := exec.Command(img, "check", "-f", "qcow2", image).CombinedOutput(); err != nil || !strings.Contains(string(out), "No errors were found") {
				t.Errorf("qemu-img check: %v\n%s", err, out)
			}
			if out, err := exec.Command(img, "compare", "-f", "raw", "-F", "qcow2", f.Name(), image).CombinedOutput(); err != nil || !strings.Contains(string(out), "identical") {
				t.Errorf("qemu-img compare: %v\n%s", err, out)
			}
			out, err := exec.Command(img, "info", "--output=json", image).Output()
			if err != nil {
				t.Fatal(err)
			}
			var info struct {
				Size   int64  `json:"virtual-size"`
				Format string `json:"format"`
				Data   struct {
					Data struct {
						Compat string `json:"compat"`
					} `json:"data"`
				} `json:"format-specific"`
			}
			if err := json.Unmarshal(out, &info); err != nil || info.Size != disk.size || info.Format != "qcow2" || info.Data.Data.Compat != "1.1" {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// TestRefcounts has more clusters than one block of counts covers. Only the
// tables are written: the data would be 2 GiB.
func TestRefcounts(t *testing.T) {
	img, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Skip("qemu-img is not installed (Debian: qemu-utils)")
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "full.qcow2"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Write(context.Background(), tables{f}, full{}, (perRefcounts+1000)*clusterSize); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(img, "check", "-f", "qcow2", f.Name()).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "No errors were found") || !strings.Contains(string(out), "100.00% allocated") {
		t.Errorf("qemu-img check: %v\n%s", err, out)
	}
}

const mark = 0xa5

// full is a disk with one byte in each cluster.
type full struct{}

func (full) ReadAt(b []byte, off int64) (int, error) {
	clear(b)
	for i := (clusterSize - off%clusterSize) % clusterSize; i < int64(len(b)); i += clusterSize {
		b[i] = mark
	}
	return len(b), nil
}

// tables drops the clusters of a full disk.
type tables struct{ *os.File }

func (f tables) WriteAt(b []byte, off int64) (int, error) {
	if b[0] == mark && sparse.IsZero(b[1:]) {
		return len(b), nil
	}
	return f.File.WriteAt(b, off)
}

func TestReproducible(t *testing.T) {
	f := raw(t, 40<<20, 5000, 0, 20<<20, 39<<20)
	data, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	var sums [][32]byte
	for _, r := range []io.ReaderAt{f, bytes.NewReader(data)} { // one with holes, one without
		image, err := os.ReadFile(convert(t, r, int64(len(data))))
		if err != nil {
			t.Fatal(err)
		}
		if len(image) > 2<<20 {
			t.Errorf("an image of %d bytes", len(image))
		}
		sums = append(sums, sha256.Sum256(image))
	}
	if sums[0] != sums[1] {
		t.Error("two images of one disk differ")
	}
	// It changes only when what is written does.
	if got := fmt.Sprintf("%x", sums[0]); got != "d9df0f69e91985dc6e8e9534945c4b24abadd94c52cee8bc71129a2dc18f7385" {
		t.Errorf("digest %s", got)
	}
}

func TestRefusals(t *testing.T) {
	ctx := context.Background()
	for _, size := range []int64{0, -512, 100, MaxSize + 512} {
		if err := Write(ctx, nil, bytes.NewReader(nil), size); err == nil {
			t.Errorf("size %d: accepted", size)
		}
	}
	f := raw(t, 512, 0)
	if err := Write(ctx, f, bytes.NewReader(make([]byte, 100)), 512); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("short disk: %v", err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if err := Write(cancelled, f, bytes.NewReader(make([]byte, 512)), 512); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// BenchmarkWrite converts 256 MiB of data on a disk of 8 GiB.
func BenchmarkWrite(b *testing.B) {
	f := raw(b, 8<<30, 64<<20, 0, 1<<30, 3<<30, 7<<30)
	b.SetBytes(256 << 20)
	for b.Loop() {
		convert(b, f, 8<<30)
	}
}
