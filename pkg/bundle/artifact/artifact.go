package artifact

import (
	"bytes"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/registry"
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

// Types of what says something about a bundle: each is an artifact of its own
// with one file, whose subject is the bundle's.
const (
	SignatureType = "application/vnd.sovereign.bundle.signature.v1"
	SPDXType      = "application/spdx+json"
	CycloneDXType = "application/vnd.cyclonedx+json"
	StatementType = "application/vnd.in-toto+json"
	EnvelopeType  = "application/vnd.dsse.envelope.v1+json"
	LicensesType  = "application/vnd.sovereign.licenses.v1+json"
	TextsType     = "application/vnd.sovereign.licenses.texts.v1"
)

// descriptionTypes are the types of the files that a bundle's directory has
// beside the bundle's own.
var descriptionTypes = map[string]string{
	signature.FileName:      SignatureType,
	bundle.SPDXFile:         SPDXType,
	bundle.CycloneDXFile:    CycloneDXType,
	bundle.ProvenanceFile:   StatementType,
	bundle.EnvelopeFile:     EnvelopeType,
	bundle.LicensesFile:     LicensesType,
	bundle.LicenseTextsFile: TextsType,
}

// about makes the artifact of a file that says something about another artifact.
func about(subject v1.Descriptor, name, kind string, text []byte) (v1.Image, error) {
	config, err := emptyConfig(types.MediaType(kind))
	if err != nil {
		return nil, err
	}
	h, _, err := v1.SHA256(bytes.NewReader(text))
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err)
	}
	d := v1.Descriptor{MediaType: types.MediaType(kind), Digest: h, Size: int64(len(text)), Annotations: map[string]string{specs.AnnotationTitle: name}}
	return registry.NewArtifact(v1.Manifest{
		// The configuration has the type as well: registries that do not know of
		// artifactType list an artifact by that.
		ArtifactType: kind, Config: config.Descriptor,
		Layers: []v1.Descriptor{d}, Subject: &v1.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
		Annotations: map[string]string{specs.AnnotationTitle: name},
	}, config, registry.File{Descriptor: d, Data: text})
}

// emptyConfig is the configuration of what has none.
func emptyConfig(mediaType types.MediaType) (registry.File, error) {
	h, err := digestOf(specs.DescriptorEmptyJSON.Digest.String())
	return registry.File{Descriptor: v1.Descriptor{Digest: h, Size: 2, MediaType: mediaType}, Data: specs.DescriptorEmptyJSON.Data}, err
}

// image makes the artifact of a bundle whose files have been verified.
func image(dir string, m *bundle.Manifest, digest string, size int64) (v1.Image, error) {
	config, err := emptyConfig(emptyType)
	if err != nil {
		return nil, err
	}
	files := []registry.File{config}
	out := v1.Manifest{
		ArtifactType: Type,
		Config:       config.Descriptor,
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
		files = append(files, registry.File{Descriptor: d, Path: filepath.Join(dir, name)})
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
	return registry.NewArtifact(out, files...)
}

func digestOf(s string) (v1.Hash, error) {
	h, err := v1.NewHash(s)
	if err != nil {
		return h, fault.Errorf(fault.Internal, "bundle artifact: %w", err)
	}
	return h, nil
}
