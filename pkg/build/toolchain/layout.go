package toolchain

import (
	"context"
	"fmt"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/store"
)

// writeLayout completes the layout the layer lies in.
func writeLayout(dir string, l *layer, arch string, epoch int64) (engine.Image, error) {
	fail := func(err error) (engine.Image, error) {
		return engine.Image{}, fmt.Errorf("toolchain: %s: %w", dir, err)
	}
	made := v1.Time{Time: time.Unix(epoch, 0).UTC()}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err := mutate.ConfigFile(base, &v1.ConfigFile{
		OS: "linux", Architecture: arch, Created: made,
		RootFS: v1.RootFS{Type: "layers"},
	})
	if err != nil {
		return fail(err)
	}
	image, err = mutate.Append(image, mutate.Addendum{Layer: l, MediaType: types.OCILayerZStd, History: v1.History{Created: made, CreatedBy: "mmdebstrap"}})
	if err != nil {
		return fail(err)
	}
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		return fail(err)
	}
	// The layer's file is where it belongs already, so it is not copied.
	if err := p.AppendImage(image); err != nil {
		return fail(err)
	}
	d, err := image.Digest()
	if err != nil {
		return fail(err)
	}
	return engine.Image{Layout: dir, Digest: store.Digest(d.String())}, nil
}

// openLayout returns the one image of a layout made before, if all its files
// are there and right.
func openLayout(ctx context.Context, dir string) (engine.Image, error) {
	fail := func(err error) (engine.Image, error) {
		return engine.Image{}, fmt.Errorf("toolchain: %s: %w", dir, err)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return fail(err)
	}
	manifests, err := index.IndexManifest()
	if err != nil {
		return fail(err)
	}
	if len(manifests.Manifests) != 1 {
		return fail(fmt.Errorf("%d images, want 1", len(manifests.Manifests)))
	}
	manifest := manifests.Manifests[0]
	image, err := index.Image(manifest.Digest)
	if err != nil {
		return fail(err)
	}
	m, err := image.Manifest()
	if err != nil {
		return fail(err)
	}
	if err := checkBlobs(ctx, dir, append(m.Layers, m.Config, manifest)); err != nil {
		return fail(err)
	}
	return engine.Image{Layout: dir, Digest: store.Digest(manifest.Digest.String())}, nil
}
