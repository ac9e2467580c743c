package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/registry"
)

// Files of an OCI layout (image-layout.md).
const (
	indexFile  = "index.json"
	layoutFile = "oci-layout"
)

// openLayout opens an image of a layout directory.
func openLayout(ctx context.Context, dir string, digest v1.Hash, platform v1.Platform) (*Image, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	b := layoutBlobs{name: dir, open: openIn(root)}
	i, err := b.image(ctx, digest, platform)
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	i.close = root.Close
	return i, nil
}

// Layout reads the OCI layout in dir as what it holds: the one image or index
// of its index.json, or that itself where it lists several. See Verify.
func Layout(dir string) (Item, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	index, err := layoutBlobs{name: dir, open: openIn(root)}.index()
	if err = errors.Join(err, root.Close()); err != nil {
		return nil, err
	}
	whole, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, fault.Wrap(fault.Source, fmt.Errorf("%s: %w", dir, err))
	}
	if len(index.Manifests) != 1 {
		return whole, nil
	}
	var one Item
	if d := index.Manifests[0]; d.MediaType.IsIndex() {
		one, err = whole.ImageIndex(d.Digest)
	} else {
		one, err = whole.Image(d.Digest)
	}
	if err != nil {
		return nil, fault.Wrap(fault.Source, fmt.Errorf("%s: %w", dir, err))
	}
	return one, nil
}

// openIn opens files below a directory. A Root keeps symbolic links from
// leading out of it.
func openIn(root *os.Root) func(string) (io.ReadCloser, int64, error) {
	return func(file string) (io.ReadCloser, int64, error) {
		// Asked first: opening a FIFO would wait for a writer.
		info, err := root.Stat(file)
		if err != nil {
			return nil, 0, err
		}
		if !info.Mode().IsRegular() {
			return nil, 0, fmt.Errorf("%s: not a regular file: %w", file, fs.ErrInvalid)
		}
		f, err := root.Open(file)
		return f, info.Size(), err
	}
}

// layoutBlobs are the files of a layout, in a directory or an archive.
type layoutBlobs struct {
	name string
	open func(file string) (io.ReadCloser, int64, error)
}

// image opens the image for a platform, or of a digest.
func (b layoutBlobs) image(ctx context.Context, digest v1.Hash, platform v1.Platform) (*Image, error) {
	index, err := b.index()
	if err != nil {
		return nil, err
	}
	descs, name := index.Manifests, b.name
	if digest != (v1.Hash{}) {
		name += "@" + digest.String()
		d, err := narrow(ctx, b, descs, digest, 0)
		if err != nil {
			return nil, fault.Wrap(fault.Source, fmt.Errorf("%s: %w", name, err))
		}
		if d == nil {
			return nil, fault.Errorf(fault.Source, "%s: no manifest of this digest is in the layout", name)
		}
		descs = []v1.Descriptor{*d}
	}
	return choose(ctx, name, b, descs, platform)
}

func (b layoutBlobs) index() (*v1.IndexManifest, error) {
	raw, err := b.readFile(indexFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Errorf(fault.Usage, "%s is not an OCI layout: it holds no %s", b.name, indexFile)
	}
	if err != nil {
		return nil, fault.Wrap(fault.Source, fmt.Errorf("%s: %w", b.name, err))
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, fault.Errorf(fault.Source, "%s: %s: %w", b.name, indexFile, err)
	}
	return index, nil
}

// readFile reads a small file.
func (b layoutBlobs) readFile(file string) ([]byte, error) {
	rc, size, err := b.open(file)
	if err != nil {
		return nil, err
	}
	defer rc.Close() // only read
	if size > maxManifest {
		return nil, fmt.Errorf("%s: %d bytes, more than %d", file, size, maxManifest)
	}
	return io.ReadAll(io.LimitReader(rc, maxManifest))
}

func (b layoutBlobs) openBlob(_ context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	rc, _, err := b.open(path.Join("blobs", d.Digest.Algorithm, d.Digest.Hex))
	if err != nil {
		return nil, fault.Errorf(fault.Source, "%s: blob %s: %w", b.name, d.Digest, err)
	}
	return readCloser{registry.Verify(rc, "blob "+d.Digest.String(), d), rc}, nil
}
