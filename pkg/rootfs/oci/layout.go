package oci

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/registry"
)

// Files of an OCI layout (image-layout.md).
const (
	indexFile  = "index.json"
	layoutFile = "oci-layout"
)

// openLayout opens an image of a layout directory.
func openLayout(ctx context.Context, dir string, want choice, platform v1.Platform) (*Image, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	b := layoutBlobs{name: dir, open: openIn(root)}
	i, err := b.image(ctx, want, platform)
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

// image opens the image for a platform, or of a digest or name.
func (b layoutBlobs) image(ctx context.Context, want choice, platform v1.Platform) (*Image, error) {
	index, err := b.index()
	if err != nil {
		return nil, err
	}
	switch name := b.name + "@" + want.String(); {
	case want.isZero():
		return choose(ctx, b.name, b, index.Manifests, platform)
	case want.name != "":
		descs, names := named(index.Manifests, want.name)
		if len(descs) == 0 {
			return nil, notThere(b.name, want, names)
		}
		return choose(ctx, name, b, descs, platform)
	default:
		d, err := narrow(ctx, b, index.Manifests, want.digest, 0)
		if err != nil {
			return nil, fault.Wrap(fault.Source, fmt.Errorf("%s: %w", name, err))
		}
		if d == nil {
			return nil, fault.Errorf(fault.Source, "%s: no manifest of this digest is in the layout", name)
		}
		return choose(ctx, name, b, []v1.Descriptor{*d}, platform)
	}
}

// containerdName is the annotation that docker save and containerd put an
// image's whole name into; the standard one has the tag alone then.
const containerdName = "io.containerd.image.name"

// named are the descriptors that an index has under a name, and all the names
// it has.
func named(descs []v1.Descriptor, name string) (found []v1.Descriptor, names []string) {
	for _, d := range descs {
		ref, tag := d.Annotations[specs.AnnotationRefName], d.Annotations[containerdName]
		if ref == name || tag != "" && sameTag(tag, name) {
			found = append(found, d)
		}
		if ref = cmp.Or(tag, ref); ref != "" {
			names = append(names, ref)
		}
	}
	return found, names
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
	rc, _, err := b.open(blobPath(d.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Errorf(fault.Source, "blob %s is not there: %w", d.Digest, fs.ErrNotExist).
			Hintf("save or copy the image again, all of it for the platform that is wanted")
	}
	if err != nil {
		return nil, fault.Errorf(fault.Source, "blob %s: %w", d.Digest, err)
	}
	return readCloser{registry.Verify(rc, "blob "+d.Digest.String(), d), rc}, nil
}

func (b layoutBlobs) holds(d v1.Descriptor) bool {
	rc, _, err := b.open(blobPath(d.Digest))
	if err == nil {
		_ = rc.Close() // nothing was read
	}
	return !errors.Is(err, fs.ErrNotExist)
}
