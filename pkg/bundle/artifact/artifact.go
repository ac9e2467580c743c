package artifact

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Types by which registries and clients know a bundle.
const (
	// Type is the artifactType of the manifest.
	Type = "application/vnd.sovereign.bundle.v1"
	// manifestType is that of the bundle's manifest.json, fileType that of
	// every other file.
	manifestType types.MediaType = "application/vnd.sovereign.bundle.manifest.v1+json"
	fileType     types.MediaType = "application/vnd.sovereign.bundle.file.v1"
	emptyType    types.MediaType = specs.MediaTypeEmptyJSON
)

// artifact is a bundle as go-containerregistry wants to have what it pushes;
// it implements partial.CompressedImageCore.
type artifact struct {
	manifest []byte
	files    map[v1.Hash]file
}

// Types of what says something about a bundle: each is an artifact of its own
// with one file, whose subject is the bundle's.
const (
	SignatureType = "application/vnd.sovereign.bundle.signature.v1"
	SPDXType      = "application/spdx+json"
	CycloneDXType = "application/vnd.cyclonedx+json"
	StatementType = "application/vnd.in-toto+json"
	EnvelopeType  = "application/vnd.dsse.envelope.v1+json"
)

// descriptionTypes are the types of the files that a bundle's directory has
// beside the bundle's own.
var descriptionTypes = map[string]string{
	signature.FileName:    SignatureType,
	bundle.SPDXFile:       SPDXType,
	bundle.CycloneDXFile:  CycloneDXType,
	bundle.ProvenanceFile: StatementType,
	bundle.EnvelopeFile:   EnvelopeType,
}

// about makes the artifact of a file that says something about another artifact.
func about(subject v1.Descriptor, name, kind string, text []byte) (v1.Image, error) {
	a := &artifact{files: map[v1.Hash]file{}}
	config, err := digestOf(specs.DescriptorEmptyJSON.Digest.String())
	if err != nil {
		return nil, err
	}
	// The configuration has the type as well: registries that do not know of
	// artifactType list an artifact by that.
	a.files[config] = file{desc: v1.Descriptor{Digest: config, Size: 2, MediaType: types.MediaType(kind)}, data: specs.DescriptorEmptyJSON.Data}
	h, _, err := v1.SHA256(bytes.NewReader(text))
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err)
	}
	d := v1.Descriptor{MediaType: types.MediaType(kind), Digest: h, Size: int64(len(text)), Annotations: map[string]string{specs.AnnotationTitle: name}}
	a.files[h] = file{desc: d, data: text}
	out := v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: kind, Config: a.files[config].desc,
		Layers: []v1.Descriptor{d}, Subject: &v1.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
		Annotations: map[string]string{specs.AnnotationTitle: name},
	}
	if a.manifest, err = json.Marshal(out); err != nil {
		return nil, fmt.Errorf("artifact of %s: %w", name, err)
	}
	return partial.CompressedToImage(a)
}

// image makes the artifact of a bundle whose files have been verified.
func image(dir string, m *bundle.Manifest, digest string, size int64) (v1.Image, error) {
	a := &artifact{files: map[v1.Hash]file{}}
	config, err := digestOf(specs.DescriptorEmptyJSON.Digest.String())
	if err != nil {
		return nil, err
	}
	a.files[config] = file{desc: v1.Descriptor{Digest: config, Size: 2, MediaType: emptyType}, data: specs.DescriptorEmptyJSON.Data}
	out := v1.Manifest{
		SchemaVersion: 2,
		MediaType:     types.OCIManifestSchema1,
		ArtifactType:  Type,
		Config:        a.files[config].desc,
		Annotations: map[string]string{
			specs.AnnotationTitle:   m.Name + "-" + m.Arch,
			specs.AnnotationCreated: time.Unix(m.SourceDate, 0).UTC().Format(time.RFC3339),
		},
	}
	add := func(name, digest string, size int64, mediaType types.MediaType) error {
		h, err := digestOf(digest)
		if err != nil {
			return err
		}
		d := v1.Descriptor{MediaType: mediaType, Digest: h, Size: size, Annotations: map[string]string{specs.AnnotationTitle: name}}
		a.files[h] = file{desc: d, path: filepath.Join(dir, name)}
		out.Layers = append(out.Layers, d)
		return nil
	}
	if err := add(bundle.ManifestFile, digest, size, manifestType); err != nil {
		return nil, err
	}
	for _, f := range m.Artifacts {
		if err := add(f.File, f.Digest, f.Size, fileType); err != nil {
			return nil, err
		}
	}
	if a.manifest, err = json.Marshal(out); err != nil {
		return nil, fmt.Errorf("bundle artifact: %w", err)
	}
	return partial.CompressedToImage(a)
}

func digestOf(s string) (v1.Hash, error) {
	h, err := v1.NewHash(s)
	if err != nil {
		return h, fault.Errorf(fault.Internal, "bundle artifact: %w", err)
	}
	return h, nil
}

// RawManifest implements partial.CompressedImageCore.
func (a *artifact) RawManifest() ([]byte, error) { return a.manifest, nil }

// RawConfigFile implements partial.CompressedImageCore.
func (a *artifact) RawConfigFile() ([]byte, error) { return specs.DescriptorEmptyJSON.Data, nil }

// MediaType implements partial.CompressedImageCore.
func (a *artifact) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

// LayerByDigest implements partial.CompressedImageCore.
func (a *artifact) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	f, ok := a.files[h]
	if !ok {
		return nil, fault.Errorf(fault.Internal, "bundle artifact: no file %s", h)
	}
	return f, nil
}

// file is one blob; it implements partial.CompressedLayer.
type file struct {
	desc v1.Descriptor
	path string
	data []byte // in place of a path
}

// Digest implements partial.CompressedLayer.
func (f file) Digest() (v1.Hash, error) { return f.desc.Digest, nil }

// Size implements partial.CompressedLayer.
func (f file) Size() (int64, error) { return f.desc.Size, nil }

// MediaType implements partial.CompressedLayer.
func (f file) MediaType() (types.MediaType, error) { return f.desc.MediaType, nil }

// Compressed implements partial.CompressedLayer.
func (f file) Compressed() (io.ReadCloser, error) {
	if f.path == "" {
		return io.NopCloser(bytes.NewReader(f.data)), nil
	}
	return os.Open(f.path)
}
