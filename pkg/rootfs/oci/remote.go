package oci

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sovereign-build/sovereign/pkg/fault"
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

// holds is not asked of a registry: that costs a request for each.
func (b *remoteBlobs) holds(v1.Descriptor) bool { return true }

// Remote finds what a registry's reference names: for a zero platform all of
// it, an image or an index, else the image for the platform. Its parts are
// read when they are wanted, within ctx.
func Remote(ctx context.Context, client *registry.Client, ref string, platform v1.Platform) (Item, error) {
	parsed, err := registry.Parse(ref)
	if err != nil {
		return nil, err
	}
	d, err := client.Get(ctx, parsed)
	if err != nil {
		return nil, err
	}
	if platform.OS != "" {
		b := &remoteBlobs{client: client, repo: parsed.Context(), top: d.Digest, manifest: d.Manifest}
		found, err := candidates(ctx, b, []v1.Descriptor{d.Descriptor}, 0, nil)
		if err != nil {
			return nil, fault.Wrap(fault.Source, fmt.Errorf("%s: %w", ref, err))
		}
		one, err := pick(ref, found, platform)
		if err != nil {
			return nil, err
		}
		if d, err = client.Get(ctx, parsed.Context().Digest(one.Digest.String())); err != nil {
			return nil, err
		}
	}
	var item Item
	if d.MediaType.IsIndex() {
		item, err = d.ImageIndex()
	} else {
		item, err = d.Image()
	}
	if err != nil {
		return nil, fault.Wrap(fault.Source, fmt.Errorf("%s: %w", ref, err))
	}
	return item, nil
}
