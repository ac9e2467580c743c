package oci

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sovereign-build/sovereign/internal/atomicdir"
	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/stream"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/registry"
)

// WriteLayout writes an image or index as an OCI layout directory, under the
// name ref ("latest", or "" for none). dir must be absent, empty or a layout,
// which is replaced in one rename; after an error it is as it was. Every blob
// is verified on the way.
func WriteLayout(ctx context.Context, dir string, item Item, ref string) (err error) {
	if err := replaceable(dir); err != nil {
		return err
	}
	top, all, err := collect(item)
	if err != nil {
		return layerError(ctx, "reading manifests", err)
	}
	layout, index, err := layoutFiles(top, ref)
	if err != nil {
		return err
	}
	temp, err := atomicdir.Create(dir, replaceable)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, temp.Abort()) }()
	blobs := filepath.Join(temp.Path, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	for _, p := range all.sorted() {
		if err := p.writeTo(ctx, func(r io.Reader) error { return writeFile(filepath.Join(blobs, p.desc.Digest.Hex), r) }); err != nil {
			return err
		}
	}
	for name, data := range map[string][]byte{indexFile: index, layoutFile: layout} {
		if err := writeFile(filepath.Join(temp.Path, name), bytes.NewReader(data)); err != nil {
			return fault.Wrap(fault.Environment, err)
		}
	}
	if err := errors.Join(atomicfile.SyncDir(blobs), atomicfile.SyncDir(filepath.Dir(blobs))); err != nil {
		return err
	}
	return temp.Commit()
}

// Verify reads every blob of an item and holds it against its digest.
func Verify(ctx context.Context, item Item) error {
	_, all, err := collect(item)
	if err != nil {
		return layerError(ctx, "reading manifests", err)
	}
	for _, p := range all.sorted() {
		if err := p.writeTo(ctx, func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err }); err != nil {
			return err
		}
	}
	return nil
}

// writeTo gives the part's verified bytes to write.
func (p part) writeTo(ctx context.Context, write func(io.Reader) error) error {
	rc, err := p.open()
	if err == nil {
		err = errors.Join(write(registry.Verify(stream.WithContext(ctx, rc), "blob "+p.desc.Digest.String(), p.desc)), rc.Close())
	}
	if err == nil {
		return nil
	}
	return layerError(ctx, p.desc.Digest.String(), err)
}

// writeFile makes a file and brings its content to the disk.
func writeFile(name string, r io.Reader) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Sync(), f.Close())
}

// replaceable says whether a layout may take the place of what is at dir.
func replaceable(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err == nil {
		if _, err := os.Lstat(filepath.Join(dir, layoutFile)); err == nil {
			return nil
		}
	}
	return fault.Errorf(fault.Usage, "%s is not an OCI layout and will not be replaced by one", dir).
		Hintf("name another directory, or move this one away")
}

// WriteArchive writes an image or index as a tar archive of an OCI layout, the
// same bytes for the same item. An archive of a single image is one of docker
// save's too (docker load, podman load).
func WriteArchive(ctx context.Context, w io.Writer, item Item, ref string) error {
	top, all, err := collect(item)
	if err != nil {
		return layerError(ctx, "reading manifests", err)
	}
	layout, index, err := layoutFiles(top, ref)
	if err != nil {
		return err
	}
	tw := tar.NewWriter(w)
	add := func(name string, size int64, r io.Reader) error {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0)}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		_, err := io.Copy(tw, r)
		return err
	}
	for _, p := range all.sorted() {
		if err := p.writeTo(ctx, func(r io.Reader) error { return add(blobPath(p.desc.Digest), p.desc.Size, r) }); err != nil {
			return err
		}
	}
	files := map[string][]byte{indexFile: index, layoutFile: layout}
	if img, ok := item.(v1.Image); ok {
		if files[dockerFile], err = dockerManifest(img, ref); err != nil {
			return err
		}
	}
	for _, name := range sortedKeys(files) {
		if err := add(name, int64(len(files[name])), bytes.NewReader(files[name])); err != nil {
			return fmt.Errorf("archive: %w", err)
		}
	}
	if err := tw.Close(); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	return nil
}

func blobPath(d v1.Hash) string { return path.Join("blobs", d.Algorithm, d.Hex) }

// dockerManifest is manifest.json of docker save's format for an image whose
// parts lie in a layout.
func dockerManifest(img v1.Image, ref string) ([]byte, error) {
	m, err := img.Manifest()
	if err != nil {
		return nil, err
	}
	e := dockerEntry{Config: blobPath(m.Config.Digest), Layers: []string{}}
	if strings.Contains(ref, ":") { // docker's tags have a name before the colon
		e.RepoTags = []string{ref}
	}
	for _, l := range m.Layers {
		e.Layers = append(e.Layers, blobPath(l.Digest))
	}
	return json.Marshal([]dockerEntry{e})
}
