package oci

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"maps"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/sovereign-build/sovereign/internal/decompress"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// spooled is a compressed layer in a spool; it implements v1.Layer.
type spooled struct {
	content        rootfs.Content
	size           int64
	digest, diffID v1.Hash
	mediaType      types.MediaType
}

// writeLayer compresses the tree's tar stream into the spool, and hashes both
// on the way.
func writeLayer(ctx context.Context, spool *rootfs.Spool, t *rootfs.Tree, epoch int64, useZstd bool) (*spooled, error) {
	l := &spooled{mediaType: types.OCILayer}
	if useZstd {
		l.mediaType = types.OCILayerZStd
	}
	diffID, digest := sha256.New(), sha256.New()
	pr, pw := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := compressTree(ctx, pw, t, epoch, useZstd, diffID)
		done <- err
		pw.CloseWithError(err) // nil is io.EOF
	}()
	var err error
	l.content, l.size, err = spool.Add(io.TeeReader(pr, digest))
	pr.CloseWithError(io.ErrClosedPipe) // ends a writer whose reader has failed
	if werr := <-done; werr != nil && !errors.Is(werr, io.ErrClosedPipe) {
		err = werr
	}
	if err != nil {
		return nil, err
	}
	l.digest, l.diffID = hashOf(digest), hashOf(diffID)
	return l, nil
}

func compressTree(ctx context.Context, w io.Writer, t *rootfs.Tree, epoch int64, useZstd bool, diffID io.Writer) error {
	var z io.WriteCloser
	var err error
	if useZstd {
		z, err = zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	} else {
		// Without name and time in its header.
		z, err = gzip.NewWriterLevel(w, gzip.DefaultCompression)
	}
	if err != nil {
		return err
	}
	err = rootfs.WriteTar(io.MultiWriter(&contextWriter{ctx, z}, diffID), t, epoch)
	return errors.Join(err, z.Close())
}

func hashOf(h hash.Hash) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
}

// Digest implements v1.Layer.
func (l *spooled) Digest() (v1.Hash, error) { return l.digest, nil }

// DiffID implements v1.Layer.
func (l *spooled) DiffID() (v1.Hash, error) { return l.diffID, nil }

// Size implements v1.Layer.
func (l *spooled) Size() (int64, error) { return l.size, nil }

// MediaType implements v1.Layer.
func (l *spooled) MediaType() (types.MediaType, error) { return l.mediaType, nil }

// Compressed implements v1.Layer.
func (l *spooled) Compressed() (io.ReadCloser, error) { return l.content.Open() }

// Uncompressed implements v1.Layer.
func (l *spooled) Uncompressed() (io.ReadCloser, error) {
	rc, err := l.content.Open()
	if err != nil {
		return nil, err
	}
	plain, err := decompress.New(rc)
	if err != nil {
		return nil, errors.Join(err, rc.Close())
	}
	return plain, nil
}

type contextWriter struct {
	ctx context.Context
	w   io.Writer
}

// Write implements io.Writer.
func (c *contextWriter) Write(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.w.Write(p)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
