package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// File is a blob of an artifact: the file at Path or, where that is empty, Data.
type File struct {
	v1.Descriptor
	Path string
	Data []byte
}

// NewArtifact makes what Push and Attach take, of a manifest in OCI's form and of
// the files that its configuration and its layers name. The manifest's bytes
// depend on m alone. Files are read when they are sent.
func NewArtifact(m v1.Manifest, files ...File) (v1.Image, error) {
	m.SchemaVersion, m.MediaType = 2, types.OCIManifestSchema1
	a := &artifact{files: map[v1.Hash]File{}}
	for _, f := range files {
		a.files[f.Digest] = f
	}
	for _, d := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		if _, ok := a.files[d.Digest]; !ok {
			return nil, fault.Errorf(fault.Internal, "artifact: there is no file for %s", d.Digest)
		}
	}
	a.config = a.files[m.Config.Digest].Data
	var err error
	if a.manifest, err = json.Marshal(m); err != nil {
		return nil, fmt.Errorf("artifact: %w", err)
	}
	return partial.CompressedToImage(a)
}

// artifact implements partial.CompressedImageCore.
type artifact struct {
	manifest, config []byte
	files            map[v1.Hash]File
}

// RawManifest implements partial.CompressedImageCore.
func (a *artifact) RawManifest() ([]byte, error) { return a.manifest, nil }

// RawConfigFile implements partial.CompressedImageCore.
func (a *artifact) RawConfigFile() ([]byte, error) { return a.config, nil }

// MediaType implements partial.CompressedImageCore.
func (a *artifact) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

// LayerByDigest implements partial.CompressedImageCore.
func (a *artifact) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	f, ok := a.files[h]
	if !ok {
		return nil, fault.Errorf(fault.Internal, "artifact: no file %s", h)
	}
	return layer{f}, nil
}

// layer is one blob; it implements partial.CompressedLayer.
type layer struct{ file File }

// Digest implements partial.CompressedLayer.
func (l layer) Digest() (v1.Hash, error) { return l.file.Digest, nil }

// Size implements partial.CompressedLayer.
func (l layer) Size() (int64, error) { return l.file.Size, nil }

// MediaType implements partial.CompressedLayer.
func (l layer) MediaType() (types.MediaType, error) { return l.file.MediaType, nil }

// Compressed implements partial.CompressedLayer.
func (l layer) Compressed() (io.ReadCloser, error) {
	if l.file.Path == "" {
		return io.NopCloser(bytes.NewReader(l.file.Data)), nil
	}
	return os.Open(l.file.Path)
}
