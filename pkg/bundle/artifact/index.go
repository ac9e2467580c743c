package artifact

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	digests "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	specsv1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/registry"
)

// index is bundles of one name for several architectures; it implements
// v1.ImageIndex.
type index struct {
	raw    []byte
	images map[v1.Hash]v1.Image
}

// PushIndex verifies bundles of one recipe for different architectures and
// pushes them to the tag ref as one index, each with its signature and what
// describes it. The index depends on the bundles and the version alone.
//
// Errors are those of Push.
func PushIndex(ctx context.Context, client *registry.Client, dirs []string, version, ref string) (name.Digest, error) {
	to, err := registry.Parse(ref)
	if err != nil {
		return name.Digest{}, err
	}
	out := specsv1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: specsv1.MediaTypeImageIndex, ArtifactType: Type}
	ix := &index{images: map[v1.Hash]v1.Image{}}
	made := map[string]string{}
	var newest int64
	title := ""
	for _, dir := range slices.Sorted(slices.Values(dirs)) {
		img, m, err := open(ctx, dir)
		if err != nil {
			return name.Digest{}, err
		}
		switch {
		case title != "" && m.Name != title:
			return name.Digest{}, fault.Errorf(fault.Usage, "%s is of %s, and an index of bundles is of one recipe, here %s", dir, m.Name, title)
		case made[m.Arch] != "":
			return name.Digest{}, fault.Errorf(fault.Usage, "%s and %s are both for %s", made[m.Arch], dir, m.Arch)
		}
		title, made[m.Arch], newest = m.Name, dir, max(newest, m.SourceDate)
		d, err := partial.Descriptor(img)
		if err != nil {
			return name.Digest{}, fault.Wrap(fault.Internal, err)
		}
		ix.images[d.Digest] = img
		out.Manifests = append(out.Manifests, specsv1.Descriptor{
			MediaType: string(d.MediaType), ArtifactType: Type, Digest: digests.Digest(d.Digest.String()), Size: d.Size,
			Platform:    &specsv1.Platform{OS: "linux", Architecture: m.Arch},
			Annotations: map[string]string{specsv1.AnnotationTitle: m.Name + "-" + m.Arch},
		})
	}
	if title == "" {
		return name.Digest{}, fault.Errorf(fault.Usage, "there is no bundle to push")
	}
	out.Annotations = map[string]string{
		specsv1.AnnotationTitle:   title,
		specsv1.AnnotationVersion: version,
		specsv1.AnnotationCreated: time.Unix(newest, 0).UTC().Format(time.RFC3339),
	}
	if ix.raw, err = json.Marshal(out); err != nil {
		return name.Digest{}, fmt.Errorf("index of bundles: %w", err)
	}
	pushed, err := client.Push(ctx, to, ix)
	if err != nil {
		return pushed, err
	}
	for _, img := range ix.images {
		d, err := partial.Descriptor(img)
		if err != nil {
			return pushed, fault.Wrap(fault.Internal, err)
		}
		for _, m := range out.Manifests {
			if m.Digest.String() != d.Digest.String() {
				continue
			}
			if err := attach(ctx, client, to.Context(), img, made[m.Platform.Architecture]); err != nil {
				return pushed, err
			}
		}
	}
	return pushed, nil
}

// Bundles are the bundles of an index, by architecture; ok is false for what is
// none.
func Bundles(manifest []byte) (archs []string, ok bool) {
	m, err := v1.ParseIndexManifest(bytes.NewReader(manifest))
	if err != nil || m.MediaType != types.OCIImageIndex {
		return nil, false
	}
	for _, d := range m.Manifests {
		if d.ArtifactType == Type && d.Platform != nil {
			archs = append(archs, d.Platform.Architecture)
		}
	}
	return archs, len(archs) > 0
}

// MediaType implements v1.ImageIndex.
func (x *index) MediaType() (types.MediaType, error) { return types.OCIImageIndex, nil }

// Digest implements v1.ImageIndex.
func (x *index) Digest() (v1.Hash, error) { return partial.Digest(x) }

// Size implements v1.ImageIndex.
func (x *index) Size() (int64, error) { return int64(len(x.raw)), nil }

// RawManifest implements v1.ImageIndex.
func (x *index) RawManifest() ([]byte, error) { return x.raw, nil }

// IndexManifest implements v1.ImageIndex.
func (x *index) IndexManifest() (*v1.IndexManifest, error) {
	return v1.ParseIndexManifest(bytes.NewReader(x.raw))
}

// Image implements v1.ImageIndex.
func (x *index) Image(h v1.Hash) (v1.Image, error) {
	img, ok := x.images[h]
	if !ok {
		return nil, fault.Errorf(fault.Internal, "index of bundles: no manifest %s", h)
	}
	return img, nil
}

// ImageIndex implements v1.ImageIndex.
func (x *index) ImageIndex(h v1.Hash) (v1.ImageIndex, error) {
	return nil, fault.Errorf(fault.Internal, "index of bundles: no index %s", h)
}

var _ v1.ImageIndex = (*index)(nil)
