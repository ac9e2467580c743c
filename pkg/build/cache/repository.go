package cache

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/registry"
)

// Types by which registries and clients know an entry.
const (
	// Type is the artifactType of the manifest, and the type of the signed entry,
	// which is its configuration.
	Type = "application/vnd.sovereign.step.v1"
	// outputType is that of an output, a layer.
	outputType types.MediaType = "application/vnd.sovereign.step.output.v1"
)

// repository is a Place in a registry: an artifact for each step, whose tag is
// the step's key.
type repository struct {
	repo   name.Repository
	client *registry.Client
}

func openRegistry(ref string, client *registry.Client) (Place, error) {
	r, err := registry.Parse(ref)
	if err != nil {
		return nil, err
	}
	if r.Context().Name() != ref {
		return nil, fault.Errorf(fault.Usage, "cache %s%s names a tag or a digest, and a cache is a whole repository", prefix, ref).
			Hintf("write it as %s%s", prefix, r.Context().Name())
	}
	return repository{r.Context(), client}, nil
}

// String implements Place.
func (r repository) String() string { return prefix + r.repo.Name() }

// Remote implements Place.
func (repository) Remote() bool { return true }

// Entry implements Place.
func (r repository) Entry(ctx context.Context, key string) ([]byte, error) {
	m, err := r.manifest(ctx, key)
	if err != nil {
		return nil, err
	}
	if m.ArtifactType != Type || m.Config.Size > MaxEntry {
		return nil, fault.Errorf(fault.Verification, "its manifest is of %q, with an entry of %d bytes: it is no entry", m.ArtifactType, m.Config.Size)
	}
	var text []byte
	err = r.client.Blob(ctx, r.repo, m.Config, func(from io.Reader) (err error) {
		text, err = readEntry(from)
		return err
	})
	return text, gone(err)
}

// manifest is that of a step's key.
func (r repository) manifest(ctx context.Context, key string) (*v1.Manifest, error) {
	d, err := r.client.Get(ctx, r.repo.Tag(key))
	if missing(err) {
		return nil, fs.ErrNotExist
	}
	if err != nil {
		return nil, err
	}
	var m v1.Manifest
	if err := json.Unmarshal(d.Manifest, &m); err != nil {
		return nil, fault.Errorf(fault.Verification, "its manifest: %w", err)
	}
	return &m, nil
}

// missing says whether the registry has answered that it has no such thing.
func missing(err error) bool {
	var answer *transport.Error
	return errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound
}

// gone makes an entry's error of that of a blob that is not there.
func gone(err error) error {
	if missing(err) {
		return fault.Errorf(fault.Verification, "a part of it is not there: %w", err)
	}
	return err
}

// Blob implements Place.
func (r repository) Blob(ctx context.Context, d store.Digest, size int64, read func(io.Reader) error) error {
	h, err := v1.NewHash(d.String())
	if err != nil {
		return fault.Wrap(fault.Internal, err)
	}
	return gone(r.client.Blob(ctx, r.repo, v1.Descriptor{Digest: h, Size: size, MediaType: outputType}, read))
}

// Whole implements Place: a registry keeps what a manifest names.
func (repository) Whole(*Entry) bool { return true }

// Put implements Place.
func (r repository) Put(ctx context.Context, e *Entry, signed []byte, path func(store.Digest) string) error {
	h, n, err := v1.SHA256(bytes.NewReader(signed))
	if err != nil {
		return fault.Wrap(fault.Internal, err)
	}
	config := registry.File{Descriptor: v1.Descriptor{Digest: h, Size: n, MediaType: Type}, Data: signed}
	m := v1.Manifest{ArtifactType: Type, Config: config.Descriptor, Annotations: map[string]string{specs.AnnotationTitle: e.Step}}
	files := []registry.File{config}
	for _, title := range slices.Sorted(maps.Keys(e.Outputs)) {
		o := e.Outputs[title]
		h, err := v1.NewHash(o.Digest.String())
		if err != nil {
			return fault.Wrap(fault.Internal, err)
		}
		d := v1.Descriptor{Digest: h, Size: o.Size, MediaType: outputType, Annotations: map[string]string{specs.AnnotationTitle: strings.TrimPrefix(title, "/")}}
		m.Layers = append(m.Layers, d)
		files = append(files, registry.File{Descriptor: d, Path: path(o.Digest)})
	}
	artifact, err := registry.NewArtifact(m, files...)
	if err != nil {
		return err
	}
	_, err = r.client.Push(ctx, r.repo.Tag(e.Key), artifact)
	return err
}
