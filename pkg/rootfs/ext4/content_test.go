package ext4

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// ones is contents of that many bytes without a zero in them.
type ones int64

func (n ones) Open() (io.ReadCloser, error) {
	return io.NopCloser(io.LimitReader(oneReader{}, int64(n))), nil
}

type oneReader struct{}

func (oneReader) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 1
	}
	return len(p), nil
}

func contentDigest(t testing.TB, e rootfs.Entry) string {
	t.Helper()
	h := sha256.New()
	if err := e.CopyTo(h); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}
