package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// maxJSON bounds the manifest and the configuration of an image, in bytes.
const maxJSON = 4 << 20

// blobs is what a solve may read of this machine: the blobs of one OCI layout
// and the step's input files, by digest. It is a read-only content.Store; the
// engine checks every digest at its end.
type blobs struct {
	layout string
	files  map[digest.Digest]string
}

func newBlobs(layout string) *blobs {
	return &blobs{layout: layout, files: map[digest.Digest]string{}}
}

// add makes a file readable under its digest.
func (b *blobs) add(d digest.Digest, path string) error {
	fi, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fault.Errorf(fault.Source, "%s (%s) is not there", path, d).Hintf("run the build again: missing sources are fetched")
	case err != nil:
		return err
	case !fi.Mode().IsRegular():
		return fault.Errorf(fault.Usage, "%s is not a regular file", path)
	}
	b.files[d] = path
	return nil
}

func (b *blobs) path(d digest.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	if p, ok := b.files[d]; ok {
		return p, nil
	}
	p := filepath.Join(b.layout, "blobs", d.Algorithm().String(), d.Encoded())
	if _, err := os.Stat(p); err != nil {
		return "", fmt.Errorf("%w: blob %s", errdefs.ErrNotFound, d)
	}
	return p, nil
}

// Info implements content.Store.
func (b *blobs) Info(_ context.Context, d digest.Digest) (content.Info, error) {
	p, err := b.path(d)
	if err != nil {
		return content.Info{}, err
	}
	fi, err := os.Stat(p)
	if err != nil {
		return content.Info{}, err
	}
	return content.Info{Digest: d, Size: fi.Size(), CreatedAt: fi.ModTime(), UpdatedAt: fi.ModTime()}, nil
}

// ReaderAt implements content.Store.
func (b *blobs) ReaderAt(_ context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	p, err := b.path(desc.Digest)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(p)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return blobReader{f, fi.Size()}, nil
}

type blobReader struct {
	*os.File
	size int64
}

func (r blobReader) Size() int64 { return r.size }

func readOnly() error {
	return fmt.Errorf("%w: the client's content store is read-only", errdefs.ErrPermissionDenied)
}

// The rest of content.Store writes, lists or deletes: a solve needs none of it.

func (b *blobs) Update(context.Context, content.Info, ...string) (content.Info, error) {
	return content.Info{}, readOnly()
}
func (b *blobs) Walk(context.Context, content.WalkFunc, ...string) error { return readOnly() }
func (b *blobs) Delete(context.Context, digest.Digest) error             { return readOnly() }
func (b *blobs) Status(context.Context, string) (content.Status, error) {
	return content.Status{}, readOnly()
}
func (b *blobs) ListStatuses(context.Context, ...string) ([]content.Status, error) {
	return nil, readOnly()
}
func (b *blobs) Abort(context.Context, string) error { return readOnly() }
func (b *blobs) Writer(context.Context, ...content.WriterOpt) (content.Writer, error) {
	return nil, readOnly()
}

// platform reads for which machine the image is made, and by that finds out
// early whether manifest and configuration are there.
func (im Image) platform() (ocispecs.Platform, error) {
	b := newBlobs(im.Layout)
	var manifest ocispecs.Manifest
	if err := b.readJSON(digest.Digest(im.Digest), &manifest); err != nil {
		return ocispecs.Platform{}, fmt.Errorf("base image %s in %s: %w", im.Digest, im.Layout, err)
	}
	var config ocispecs.Image
	if err := b.readJSON(manifest.Config.Digest, &config); err != nil {
		return ocispecs.Platform{}, fmt.Errorf("configuration of base image %s in %s: %w", im.Digest, im.Layout, err)
	}
	if config.OS == "" || config.Architecture == "" {
		return ocispecs.Platform{}, fault.Errorf(fault.Usage, "base image %s in %s names no platform", im.Digest, im.Layout)
	}
	return config.Platform, nil
}

func (b *blobs) readJSON(d digest.Digest, v any) error {
	p, err := b.path(d)
	if err != nil {
		return fault.Wrap(fault.Source, err)
	}
	fi, err := os.Stat(p)
	if err != nil {
		return err
	}
	if fi.Size() > maxJSON {
		return fault.Errorf(fault.Verification, "%s is %d bytes long, at most %d are allowed", p, fi.Size(), maxJSON)
	}
	text, err := os.ReadFile(p)
	if err != nil {
		return err
	}
	if got := d.Algorithm().FromBytes(text); got != d {
		return fault.Errorf(fault.Verification, "%s: expected %s, got %s", p, d, got).Hintf("delete the image's directory; the build makes it anew")
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fault.Errorf(fault.Verification, "%s: %w", p, err)
	}
	return nil
}
