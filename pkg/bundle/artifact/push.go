package artifact

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/registry"
)

// Push verifies the bundle in dir and pushes it to the tag ref,
// "HOST/NAME:TAG". It returns the reference by digest. Files the registry has
// already are not sent again. The bundle's signature and what describes it are
// pushed as well, each as an artifact of its own that refers to the bundle's:
// the bundle's digest stays the same, whoever signs it.
//
// Errors: fault.Verification for a bundle that is not as its manifest says,
// fault.Usage for a directory or reference that is none, fault.Source for a
// registry that fails.
func Push(ctx context.Context, client *registry.Client, dir, ref string) (name.Digest, error) {
	to, err := registry.Parse(ref)
	if err != nil {
		return name.Digest{}, err
	}
	img, _, err := open(ctx, dir)
	if err != nil {
		return name.Digest{}, err
	}
	pushed, err := client.Push(ctx, to, img)
	if err != nil {
		return pushed, err
	}
	return pushed, attach(ctx, client, to.Context(), img, dir)
}

// open verifies the bundle in dir and makes its artifact.
func open(ctx context.Context, dir string) (v1.Image, *bundle.Manifest, error) {
	if err := bundle.Verify(ctx, dir); err != nil {
		return nil, nil, err
	}
	m, err := bundle.Load(dir)
	if err != nil {
		return nil, nil, err
	}
	digest, err := bundle.Digest(dir)
	if err != nil {
		return nil, nil, err
	}
	info, err := os.Stat(filepath.Join(dir, bundle.ManifestFile))
	if err != nil {
		return nil, nil, fault.Wrap(fault.Environment, err)
	}
	img, err := image(dir, m, digest, info.Size())
	return img, m, err
}

// attach pushes the signature of a bundle and what describes it. One after the
// other: where the registry keeps no list of referrers, each is added to a tag.
func attach(ctx context.Context, client *registry.Client, repo name.Repository, img v1.Image, dir string) error {
	subject, err := partial.Descriptor(img)
	if err != nil {
		return fault.Wrap(fault.Internal, err)
	}
	for _, name := range slices.Sorted(maps.Keys(descriptionTypes)) {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fault.Wrap(fault.Environment, err)
		}
		if len(text) > bundle.MaxDescription {
			return fault.Errorf(fault.Usage, "%s of %d bytes is larger than %d", name, len(text), bundle.MaxDescription)
		}
		artifact, err := about(*subject, name, descriptionTypes[name], text)
		if err != nil {
			return err
		}
		if _, err := client.Attach(ctx, repo, artifact); err != nil {
			return err
		}
	}
	return nil
}
