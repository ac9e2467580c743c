package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/registry"
)

// maxManifest bounds each manifest, index and configuration, in bytes.
const maxManifest = registry.MaxManifest

// Image is one image for one platform, opened for reading.
type Image struct {
	// Name is the source it was opened from, for messages.
	Name string
	// Digest is that of its manifest; zero for docker save's archives, which
	// hold no manifest of the image.
	Digest v1.Hash
	// Annotations are the manifest's.
	Annotations map[string]string
	// Config is the image's configuration, with its platform.
	Config v1.ConfigFile

	layers []layer
	close  func() error
}

// Close frees what Open has opened; trees made of the image stay valid.
func (i *Image) Close() error {
	if i.close == nil {
		return nil
	}
	return i.close()
}

// layer is one layer that can be opened; what is read from it is verified
// against its digest, if it has one.
type layer struct {
	digest v1.Hash // zero in docker save's archives
	diffID v1.Hash
	size   int64 // bytes, compressed
	open   func(context.Context) (io.ReadCloser, error)
}

func (l layer) label() string {
	if l.digest == (v1.Hash{}) {
		return l.diffID.String()
	}
	return l.digest.String()
}

// blobs is where an image's parts come from: a layout or a registry.
type blobs interface {
	// openBlob opens what d describes; the reader ends in an error of class
	// fault.Verification if the bytes are not d's.
	openBlob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error)
	// holds says whether it is there: docker saves the index of an image for
	// many platforms whole, with what was pulled of it.
	holds(d v1.Descriptor) bool
}

// readBlob reads a small blob.
func readBlob(ctx context.Context, b blobs, d v1.Descriptor) ([]byte, error) {
	if d.Size < 0 || d.Size > maxManifest {
		return nil, fault.Errorf(fault.Source, "%s: %d bytes, more than %d", d.Digest, d.Size, maxManifest)
	}
	rc, err := b.openBlob(ctx, d)
	if err != nil {
		return nil, err
	}
	defer rc.Close() // only read
	return io.ReadAll(rc)
}

var errArtifact = errors.New("not an image but an artifact")

// readConfig reads the manifest that d describes, and the configuration it
// names.
func readConfig(ctx context.Context, b blobs, d v1.Descriptor) (*v1.Manifest, *v1.ConfigFile, error) {
	raw, err := readBlob(ctx, b, d)
	if err != nil {
		return nil, nil, err
	}
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, nil, fault.Errorf(fault.Source, "manifest %s: %w", d.Digest, err)
	}
	if !m.Config.MediaType.IsConfig() {
		return nil, nil, fault.Errorf(fault.Source, "manifest %s: %w (%q)", d.Digest, errArtifact, m.Config.MediaType)
	}
	if raw, err = readBlob(ctx, b, m.Config); err != nil {
		return nil, nil, err
	}
	config, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil {
		return nil, nil, fault.Errorf(fault.Source, "image configuration %s: %w", m.Config.Digest, err)
	}
	return m, config, nil
}

// newImage makes the image of a manifest.
func newImage(name string, b blobs, d v1.Descriptor, m *v1.Manifest, config *v1.ConfigFile) (*Image, error) {
	if len(m.Layers) != len(config.RootFS.DiffIDs) {
		return nil, fault.Errorf(fault.Source, "%s: the manifest has %d layers and the configuration %d", name, len(m.Layers), len(config.RootFS.DiffIDs))
	}
	i := &Image{Name: name, Digest: d.Digest, Annotations: m.Annotations, Config: *config}
	for n, l := range m.Layers {
		if err := checkLayer(l); err != nil {
			return nil, fault.Errorf(fault.Source, "%s: layer %d: %w", name, n+1, err)
		}
		i.layers = append(i.layers, layer{
			digest: l.Digest,
			diffID: config.RootFS.DiffIDs[n],
			size:   l.Size,
			open:   func(ctx context.Context) (io.ReadCloser, error) { return b.openBlob(ctx, l) },
		})
	}
	return i, nil
}

// Media types of layers that the library has no names for. Which compression
// one says does not matter: the first bytes do.
const (
	dockerLayerZstd     types.MediaType = "application/vnd.docker.image.rootfs.diff.tar.zstd"
	dockerForeignPlain  types.MediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar"
	restrictedLayerZstd types.MediaType = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
)

// checkLayer refuses what is not a layer, such as an encrypted one.
func checkLayer(d v1.Descriptor) error {
	switch d.MediaType {
	case types.OCILayer, types.OCILayerZStd, types.OCIUncompressedLayer, types.DockerLayer, types.DockerUncompressedLayer, dockerLayerZstd,
		types.OCIRestrictedLayer, types.OCIUncompressedRestrictedLayer, restrictedLayerZstd, types.DockerForeignLayer, dockerForeignPlain:
	default:
		return fmt.Errorf("media type %q is not that of a layer this program reads", d.MediaType)
	}
	if d.Size < 0 || d.Digest.Algorithm != "sha256" {
		return fmt.Errorf("digest %s of %d bytes is not one this program verifies", d.Digest, d.Size)
	}
	return nil
}

// From opens an image of go-containerregistry's. Its parts are verified as if
// they came from a registry.
func From(ctx context.Context, name string, img v1.Image) (*Image, error) {
	raw, err := img.RawManifest()
	if err != nil {
		return nil, fault.Wrap(fault.Source, fmt.Errorf("%s: %w", name, err))
	}
	digest, err := img.Digest()
	if err != nil {
		return nil, fault.Wrap(fault.Source, fmt.Errorf("%s: %w", name, err))
	}
	b := imageBlobs{img: img, manifest: raw}
	d := v1.Descriptor{Digest: digest, Size: int64(len(raw))}
	m, config, err := readConfig(ctx, b, d)
	if err != nil {
		return nil, fault.Wrap(fault.Source, fmt.Errorf("%s: %w", name, err))
	}
	return newImage(name, b, d, m, config)
}

// imageBlobs are the parts of a v1.Image.
type imageBlobs struct {
	img      v1.Image
	manifest []byte
}

func (b imageBlobs) openBlob(_ context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	verified := func(rc io.ReadCloser) io.ReadCloser {
		return readCloser{registry.Verify(rc, d.Digest.String(), d), rc}
	}
	if digest, err := b.img.Digest(); err != nil || digest == d.Digest {
		return verified(io.NopCloser(bytes.NewReader(b.manifest))), err
	}
	if name, err := b.img.ConfigName(); err != nil || name == d.Digest {
		raw, rawErr := b.img.RawConfigFile()
		if err == nil {
			err = rawErr
		}
		return verified(io.NopCloser(bytes.NewReader(raw))), err
	}
	l, err := b.img.LayerByDigest(d.Digest)
	if err != nil {
		return nil, err
	}
	rc, err := l.Compressed()
	if err != nil {
		return nil, err
	}
	return verified(rc), nil
}

func (b imageBlobs) holds(v1.Descriptor) bool { return true }

type readCloser struct {
	io.Reader
	io.Closer
}
