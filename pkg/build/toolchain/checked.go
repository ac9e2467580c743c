package toolchain

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/stream"
	"github.com/sovereign-build/sovereign/pkg/build/store"
)

// checkedFor is how long a check of a layout's contents is believed while its
// files look the same: reading the 210 MB of the full image takes a second or
// two, which a build of many steps does not notice and one of a single small
// step would.
const checkedFor = 24 * time.Hour

// checkBlobs fails if a blob of the layout is not there or is not what its
// digest says. What it found is remembered in a file beside the layout.
func checkBlobs(ctx context.Context, dir string, blobs []v1.Descriptor) error {
	var looks strings.Builder
	for _, b := range blobs {
		fi, err := os.Stat(blobFile(dir, b.Digest))
		if err != nil {
			return err
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		if !ok || fi.Size() != b.Size {
			return fmt.Errorf("blob %s has %d bytes, want %d", b.Digest, fi.Size(), b.Size)
		}
		fmt.Fprintln(&looks, b.Digest, b.Size, st.Ino, st.Mtim.Nano(), st.Ctim.Nano())
	}
	stamp := dir + ".checked"
	if believed(stamp, looks.String()) {
		return nil
	}
	for _, b := range blobs {
		if err := checkBlob(ctx, blobFile(dir, b.Digest), b); err != nil {
			return err
		}
	}
	// Where it cannot be remembered, a cache directory that is read-only say,
	// it is checked each time.
	_ = atomicfile.Write(stamp, []byte(looks.String()), 0o644)
	return nil
}

func blobFile(dir string, d v1.Hash) string { return filepath.Join(dir, "blobs", d.Algorithm, d.Hex) }

// believed tells whether the stamp is of files that look the same, and not old.
func believed(stamp, looks string) bool {
	fi, err := os.Stat(stamp)
	if err != nil {
		return false
	}
	text, err := os.ReadFile(stamp)
	age := time.Since(fi.ModTime())
	return err == nil && string(text) == looks && age >= 0 && age < checkedFor
}

func checkBlob(ctx context.Context, path string, b v1.Descriptor) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	h := sha256.New()
	_, err = io.Copy(h, stream.WithContext(ctx, f))
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	want, got := store.Digest(b.Digest.String()), store.Digest(fmt.Sprintf("sha256:%x", h.Sum(nil)))
	if got != want {
		return store.Mismatch(path, want, got)
	}
	return nil
}
