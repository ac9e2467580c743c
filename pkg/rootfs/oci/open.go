package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/registry"
)

// Open opens the image for a platform from a source: the directory of an OCI
// layout, a tar archive of one or of docker save (gzip and zstd are
// understood), or a registry's HOST/NAME:TAG. Each may end in "@sha256:…",
// which picks a manifest or index by digest; in docker save's format, where
// images have no manifest, that of the configuration. A directory or archive
// may end in "@NAME", a tag ("app:1.2") or the name that a layout's index has
// for the image. A zero platform takes the only image there is.
//
// Errors: fault.Usage for a source that is none of these or an ambiguous
// choice; fault.Source where the platform is not there (the error lists those
// that are), for a broken image and for a registry that fails;
// fault.Verification for wrong bytes.
func Open(ctx context.Context, client *registry.Client, source string, platform v1.Platform) (*Image, error) {
	name, want, err := splitChoice(source)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return openRemote(ctx, client, source, platform)
	case err != nil:
		return nil, fault.Wrap(fault.Environment, err)
	case info.IsDir():
		return openLayout(ctx, name, want, platform)
	case info.Mode().IsRegular():
		return openArchive(ctx, name, want, platform)
	}
	return nil, fault.Errorf(fault.Usage, "%s is neither a directory nor a file", name)
}

// openRemote opens an image of a registry.
func openRemote(ctx context.Context, client *registry.Client, source string, platform v1.Platform) (*Image, error) {
	ref, err := registry.Parse(source)
	if err != nil {
		return nil, fault.Errorf(fault.Usage, "%s is no directory or file here, and no reference: %w", source, err)
	}
	top, err := client.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	b := &remoteBlobs{client: client, repo: ref.Context(), top: top.Digest, manifest: top.Manifest}
	return choose(ctx, source, b, []v1.Descriptor{top.Descriptor}, platform)
}

// choose opens the image of a platform among what the descriptors lead to.
func choose(ctx context.Context, name string, b blobs, descs []v1.Descriptor, platform v1.Platform) (*Image, error) {
	found, err := candidates(ctx, b, descs, 0, nil)
	if err != nil {
		return nil, fault.Wrap(fault.Source, fmt.Errorf("%s: %w", name, err))
	}
	d, err := pick(name, found, platform)
	if err != nil {
		return nil, err
	}
	m, config, err := readConfig(ctx, b, d)
	if err != nil {
		return nil, fault.Wrap(fault.Source, fmt.Errorf("%s: %w", name, err))
	}
	return newImage(name, b, d, m, config)
}

// narrow leaves, of an index's descriptors, the one of the digest, looked for
// in nested indexes too.
func narrow(ctx context.Context, b blobs, descs []v1.Descriptor, digest v1.Hash, depth int) (*v1.Descriptor, error) {
	for _, d := range descs {
		if d.Digest == digest {
			return &d, nil
		}
	}
	for _, d := range descs {
		if !d.MediaType.IsIndex() || depth >= maxNesting {
			continue
		}
		raw, err := readBlob(ctx, b, d)
		if err != nil {
			return nil, err
		}
		index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
		if err != nil {
			return nil, fault.Errorf(fault.Source, "index %s: %w", d.Digest, err)
		}
		if len(index.Manifests) > maxManifests {
			return nil, fault.Errorf(fault.Source, "index %s: more than %d manifests", d.Digest, maxManifests)
		}
		if found, err := narrow(ctx, b, index.Manifests, digest, depth+1); found != nil || err != nil {
			return found, err
		}
	}
	return nil, nil
}
