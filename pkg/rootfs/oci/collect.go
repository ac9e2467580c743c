package oci

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Item is what can be written: a v1.Image or a v1.ImageIndex.
type Item interface {
	RawManifest() ([]byte, error)
	MediaType() (types.MediaType, error)
	Digest() (v1.Hash, error)
}

// part is one blob of an item.
type part struct {
	desc v1.Descriptor
	open func() (io.ReadCloser, error)
}

// parts are all blobs of an item, by digest.
type parts map[v1.Hash]part

// sorted lists the parts by digest.
func (p parts) sorted() []part {
	return slices.SortedFunc(maps.Values(p), func(a, b part) int { return strings.Compare(a.desc.Digest.String(), b.desc.Digest.String()) })
}

// collect finds every blob of an item and the descriptor of its manifest.
func collect(item Item) (v1.Descriptor, parts, error) {
	p := parts{}
	top, err := p.item(item)
	return top, p, err
}

func (p parts) item(item Item) (v1.Descriptor, error) {
	raw, err := item.RawManifest()
	if err != nil {
		return v1.Descriptor{}, err
	}
	top := v1.Descriptor{Size: int64(len(raw))}
	if top.MediaType, err = item.MediaType(); err != nil {
		return top, err
	}
	if top.Digest, err = item.Digest(); err != nil {
		return top, err
	}
	p.bytes(top, raw)
	switch item := item.(type) {
	case v1.Image:
		return top, p.image(&top, item)
	case v1.ImageIndex:
		return top, p.index(item)
	}
	return top, fault.Errorf(fault.Internal, "%T is neither image nor index", item)
}

func (p parts) bytes(d v1.Descriptor, b []byte) {
	p[d.Digest] = part{d, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }}
}

func (p parts) image(top *v1.Descriptor, img v1.Image) error {
	m, err := img.Manifest()
	if err != nil {
		return err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	p.bytes(m.Config, config)
	if m.Config.MediaType.IsConfig() {
		if c, err := img.ConfigFile(); err == nil {
			top.Platform = c.Platform()
		}
	}
	top.ArtifactType = m.ArtifactType
	for _, d := range m.Layers {
		l, err := img.LayerByDigest(d.Digest)
		if err != nil {
			return err
		}
		p[d.Digest] = part{d, l.Compressed}
	}
	return nil
}

func (p parts) index(index v1.ImageIndex) error {
	m, err := index.IndexManifest()
	if err != nil {
		return err
	}
	for _, d := range m.Manifests {
		var item Item
		switch {
		case d.MediaType.IsImage():
			item, err = index.Image(d.Digest)
		case d.MediaType.IsIndex():
			item, err = index.ImageIndex(d.Digest)
		default:
			err = fault.Errorf(fault.Source, "index: %s has the media type %q, which is neither image nor index", d.Digest, d.MediaType)
		}
		if err != nil {
			return err
		}
		if _, err := p.item(item); err != nil {
			return err
		}
	}
	return nil
}

// layoutFiles are the two small files of a layout that holds one item, under
// the name ref if that is not empty.
func layoutFiles(top v1.Descriptor, ref string) (layout, index []byte, err error) {
	if ref != "" {
		top.Annotations = map[string]string{specs.AnnotationRefName: ref}
	}
	index, err = json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{top}})
	if err != nil {
		return nil, nil, fmt.Errorf("layout: %w", err)
	}
	layout, err = json.Marshal(specs.ImageLayout{Version: specs.ImageLayoutVersion})
	return layout, index, err
}
