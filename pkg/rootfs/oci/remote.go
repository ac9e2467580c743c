package oci

import (
	"bytes"
	"context"
	"io"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sovereign-build/sovereign/pkg/registry"
)

// remoteBlobs are the parts of an image in a registry's repository.
type remoteBlobs struct {
	client   *registry.Client
	repo     name.Repository
	top      v1.Hash
	manifest []byte // top's
}

func (b *remoteBlobs) openBlob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	if !d.MediaType.IsIndex() && !d.MediaType.IsImage() {
		return b.client.OpenBlob(ctx, b.repo, d)
	}
	// Registries keep manifests apart from blobs.
	raw := b.manifest
	if d.Digest != b.top {
		got, err := b.client.Get(ctx, b.repo.Digest(d.Digest.String()))
		if err != nil {
			return nil, err
		}
		raw = got.Manifest
	}
	return io.NopCloser(registry.Verify(bytes.NewReader(raw), d.Digest.String(), d)), nil
}
