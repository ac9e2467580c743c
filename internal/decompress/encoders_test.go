package decompress

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Images are written with the encoders of the module that this package reads
// with, and have to be the same whatever the machine. The module has assembly
// for some architectures, and none of it decides what an encoder writes: it
// finds how long a match is, and sums and decodes. These digests were the same on
// amd64 with and without it (-tags noasm) and without unaligned reads (-tags
// nounsafe), on 386, and on arm64 with and without it, under QEMU. A new version
// that gives others gives other images; one that gives others on one machine
// must not be taken.
func TestEncodersAreTheSameEverywhere(t *testing.T) {
	data := mixed()
	sum := sha256.Sum256(data)
	if got := hex.EncodeToString(sum[:8]); got != goldenData {
		t.Fatalf("the data themselves are others: %s", got)
	}
	for name, tt := range map[string]struct {
		open func(io.Writer) (io.WriteCloser, error)
		want string
	}{
		// Layers of images and images.tar.gz.
		"gzip": {func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriterLevel(w, gzip.DefaultCompression) }, goldenGzip},
		// Layers of images.
		"zstd": {func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1)) }, goldenZstd},
		// The layer of the toolchain.
		"zstd, fastest": {func(w io.Writer) (io.WriteCloser, error) {
			return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest))
		}, goldenZstdFastest},
		// The initramfs of image cpio --zstd.
		"zstd, better": {func(w io.Writer) (io.WriteCloser, error) {
			return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(4<<20), zstd.WithEncoderCRC(true))
		}, goldenZstdBetter},
	} {
		// How the data come in pieces must not matter either.
		for _, piece := range []int{len(data), 64 << 10, 777} {
			h := sha256.New()
			z, err := tt.open(h)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.CopyBuffer(struct{ io.Writer }{z}, struct{ io.Reader }{bytes.NewReader(data)}, make([]byte, piece)); err != nil {
				t.Fatal(err)
			}
			if err := z.Close(); err != nil {
				t.Fatal(err)
			}
			if got := hex.EncodeToString(h.Sum(nil)[:8]); got != tt.want {
				t.Errorf("%s in pieces of %d: %s, want %s", name, piece, got, tt.want)
			}
		}
	}
}

const (
	goldenData        = "578664601f8e8fc8"
	goldenGzip        = "a60862ca4b1bb569"
	goldenZstd        = "aceb4eff29f48f83"
	goldenZstdBetter  = "b40cf1e45eec08d5"
	goldenZstdFastest = "b9b059637beaaaa0"
)

// mixed is 6 MiB of what compresses well, badly and in between: noise, zeros,
// repeats near and far, text of few letters, numbers that count.
func mixed() []byte {
	r := rand.New(rand.NewPCG(1, 2))
	var b []byte
	for len(b) < 6<<20 {
		n := 1 + r.IntN(40_000)
		switch r.IntN(6) {
		case 0:
			for range n {
				b = append(b, byte(r.Uint32()))
			}
		case 1:
			b = append(b, make([]byte, n)...)
		case 2, 3:
			if len(b) > 0 {
				from := r.IntN(len(b))
				b = append(b, b[from:min(from+n, len(b))]...)
			}
		case 4:
			for range n {
				b = append(b, "etaoin shrdlu\n"[r.IntN(14)])
			}
		default:
			for i := range n / 8 {
				b = binary.LittleEndian.AppendUint64(b, uint64(i*r.IntN(3)))
			}
		}
	}
	return b[:6<<20]
}
