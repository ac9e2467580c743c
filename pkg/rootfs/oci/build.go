package oci

import (
	"context"
	"fmt"
	"maps"
	"path"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// Info is what an image says of itself, as the standard annotations
// (annotations.md). Empty fields are left out.
type Info struct {
	Title, Description, Version string
	Revision                    string // of the source, in its version control
	Source, URL, Documentation  string // URLs
	Licenses                    string // an SPDX expression
	Vendor, Authors             string
	BaseName                    string
	BaseDigest                  string
}

func (i Info) annotations() map[string]string {
	all := map[string]string{
		specs.AnnotationTitle: i.Title, specs.AnnotationDescription: i.Description, specs.AnnotationVersion: i.Version,
		specs.AnnotationRevision: i.Revision, specs.AnnotationSource: i.Source, specs.AnnotationURL: i.URL,
		specs.AnnotationDocumentation: i.Documentation, specs.AnnotationLicenses: i.Licenses,
		specs.AnnotationVendor: i.Vendor, specs.AnnotationAuthors: i.Authors,
		specs.AnnotationBaseImageName: i.BaseName, specs.AnnotationBaseImageDigest: i.BaseDigest,
	}
	maps.DeleteFunc(all, func(_, v string) bool { return v == "" })
	return all
}

// Spec describes an image beside its contents.
type Spec struct {
	// Platform has at least OS and Architecture.
	Platform v1.Platform
	// Config is how a container is run: Entrypoint, Cmd, Env, User,
	// WorkingDir, ExposedPorts, Labels and so on.
	Config v1.Config
	// Epoch is the time of the image and of every file in it, in seconds
	// since 1970.
	Epoch int64
	Info  Info
	// Annotations are further ones; they win over Info's.
	Annotations map[string]string
	// Zstd compresses layers with zstd instead of gzip, which is smaller and
	// faster and not read by Docker before 23.
	Zstd bool
}

func (s Spec) check() error {
	switch {
	case s.Platform.OS == "" || s.Platform.Architecture == "":
		return fault.Errorf(fault.Usage, "image: platform %q has no operating system or architecture", s.Platform)
	case s.Epoch < 0 || s.Epoch > 1<<33:
		return fault.Errorf(fault.Usage, "image: epoch %d is not from 0 to %d", s.Epoch, int64(1<<33))
	}
	for _, kv := range s.Config.Env {
		if name, _, ok := strings.Cut(kv, "="); !ok || name == "" || strings.ContainsRune(kv, 0) {
			return fault.Errorf(fault.Usage, "image: environment %q is not NAME=VALUE", kv)
		}
	}
	return nil
}

// New makes an image whose layers are the trees, lowest first. The compressed
// layers go to the spool, and the image is valid until that is closed. The
// same trees and spec give the same digest.
//
// A tree adds to those below it and hides nothing; a socket, which tar cannot
// hold, and a name that would be a whiteout are errors.
func New(ctx context.Context, spool *rootfs.Spool, spec Spec, layers ...*rootfs.Tree) (v1.Image, error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	created := v1.Time{Time: time.Unix(spec.Epoch, 0).UTC()}
	config := &v1.ConfigFile{
		OS: spec.Platform.OS, OSVersion: spec.Platform.OSVersion, OSFeatures: spec.Platform.OSFeatures,
		Architecture: spec.Platform.Architecture, Variant: spec.Platform.Variant,
		Author: spec.Info.Authors, Created: created, Config: spec.Config,
		RootFS: v1.RootFS{Type: "layers"},
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.ConfigFile(img, config)
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	for _, t := range layers {
		if err := checkNames(t); err != nil {
			return nil, err
		}
		l, err := writeLayer(ctx, spool, t, spec.Epoch, spec.Zstd)
		if err != nil {
			return nil, fmt.Errorf("image: %w", err)
		}
		img, err = mutate.Append(img, mutate.Addendum{
			Layer:   l,
			History: v1.History{Created: created, CreatedBy: "sovereign"},
		})
		if err != nil {
			return nil, fmt.Errorf("image: %w", err)
		}
	}
	annotations := spec.Info.annotations()
	annotations[specs.AnnotationCreated] = created.Format(time.RFC3339)
	maps.Copy(annotations, spec.Annotations)
	annotated, ok := mutate.Annotations(img, annotations).(v1.Image)
	if !ok {
		return nil, fault.Errorf(fault.Internal, "image: annotating gave %T", annotated)
	}
	return annotated, nil
}

// checkNames refuses files whose names would hide others.
func checkNames(t *rootfs.Tree) error {
	for e := range t.All() {
		if strings.HasPrefix(path.Base(e.Path), whiteoutPrefix) {
			return fault.Errorf(fault.Usage, "image: %s: a name that begins with %s is a whiteout in a layer; rename the file", e.Path, whiteoutPrefix)
		}
	}
	return nil
}

// NewIndex makes the index of images for several platforms, each by its
// configuration's; two for one platform are an error. The order of the images
// does not matter.
func NewIndex(info Info, images ...v1.Image) (v1.ImageIndex, error) {
	byPlatform := map[string]mutate.IndexAddendum{}
	for _, img := range images {
		config, err := img.ConfigFile()
		if err != nil {
			return nil, fmt.Errorf("index: %w", err)
		}
		platform := config.Platform()
		if platform == nil {
			return nil, fault.Errorf(fault.Usage, "index: an image does not say its platform")
		}
		if _, ok := byPlatform[platform.String()]; ok {
			return nil, fault.Errorf(fault.Usage, "index: two images for %s", platform)
		}
		byPlatform[platform.String()] = mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: platform}}
	}
	var all []mutate.IndexAddendum
	for _, name := range sortedKeys(byPlatform) {
		all = append(all, byPlatform[name])
	}
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), all...)
	if annotations := info.annotations(); len(annotations) > 0 {
		annotated, ok := mutate.Annotations(index, annotations).(v1.ImageIndex)
		if !ok {
			return nil, fault.Errorf(fault.Internal, "index: annotating gave %T", annotated)
		}
		index = annotated
	}
	return index, nil
}
