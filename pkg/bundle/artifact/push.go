package artifact

import (
	"context"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/registry"
)

// Push verifies the bundle in dir and pushes it to the tag ref,
// "HOST/NAME:TAG". It returns the reference by digest. Files the registry has
// already are not sent again.
//
// Errors: fault.Verification for a bundle that is not as its manifest says,
// fault.Usage for a directory or reference that is none, fault.Source for a
// registry that fails.
func Push(ctx context.Context, client *registry.Client, dir, ref string) (name.Digest, error) {
	to, err := registry.Parse(ref)
	if err != nil {
		return name.Digest{}, err
	}
	if err := bundle.Verify(ctx, dir); err != nil {
		return name.Digest{}, err
	}
	m, err := bundle.Load(dir)
	if err != nil {
		return name.Digest{}, err
	}
	digest, err := bundle.Digest(dir)
	if err != nil {
		return name.Digest{}, err
	}
	info, err := os.Stat(filepath.Join(dir, bundle.ManifestFile))
	if err != nil {
		return name.Digest{}, fault.Wrap(fault.Environment, err)
	}
	img, err := image(dir, m, digest, info.Size())
	if err != nil {
		return name.Digest{}, err
	}
	return client.Push(ctx, to, img)
}
