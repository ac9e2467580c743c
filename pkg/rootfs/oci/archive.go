package oci

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/decompress"
	"github.com/sovereign-build/sovereign/internal/magic"
	"github.com/sovereign-build/sovereign/internal/stream"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Bounds of an archive: files in it, and bytes after decompression.
const (
	maxArchiveFiles = 10_000
	maxArchiveBytes = 64 << 30
)

// dockerFile lists the images of docker save's archives.
const dockerFile = "manifest.json"

// archive is a tar archive whose members can be opened at random.
type archive struct {
	f     *os.File
	files map[string]member
}

type member struct {
	offset, size int64
	link         string // of a symbolic or hard link: the member's name
}

// openArchive opens an image of a tar archive.
func openArchive(ctx context.Context, name string, want choice, platform v1.Platform) (*Image, error) {
	a, err := readArchive(ctx, name)
	if err != nil {
		return nil, layerError(ctx, name, err)
	}
	var i *Image
	// docker save writes both kinds at once; the layout has digests.
	if _, ok := a.files[indexFile]; ok {
		i, err = layoutBlobs{name: name, open: a.open}.image(ctx, want, platform)
	} else {
		i, err = a.dockerImage(name, want, platform)
	}
	if err != nil {
		return nil, errors.Join(err, a.f.Close())
	}
	i.close = a.f.Close
	return i, nil
}

// readArchive finds the members of an archive. A compressed one is
// decompressed into a nameless temporary file first.
func readArchive(ctx context.Context, name string) (_ *archive, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	head := make([]byte, 512)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch format := magic.Of(head[:n]); {
	case n < 4:
		return nil, fault.Errorf(fault.Usage, "it is neither an OCI layout nor a tar archive")
	case format.Kind == magic.Gzip || format.Kind == magic.Zstd:
		whole, err := unpacked(stream.WithContext(ctx, f))
		if err != nil {
			return nil, err
		}
		if err := f.Close(); err != nil {
			return nil, errors.Join(err, whole.Close())
		}
		f = whole
	case format.Kind == magic.Compressed:
		return nil, fault.Errorf(fault.Source, "%w", &decompress.UnsupportedError{Format: format}).
			Hintf("decompress it first, with %s %s", format.Unpack, name)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	a := &archive{f: f, files: map[string]member{}}
	return a, a.scan(ctx)
}

// unpacked writes what r holds to a temporary file without a name.
func unpacked(r io.Reader) (*os.File, error) {
	plain, err := decompress.New(r)
	if err != nil {
		return nil, err
	}
	defer plain.Close() // a decoder without state of its own
	f, err := atomicfile.Scratch("")
	if err != nil {
		return nil, err
	}
	var n int64
	if n, err = io.Copy(f, io.LimitReader(plain, maxArchiveBytes+1)); err == nil && n > maxArchiveBytes {
		err = fmt.Errorf("it has more than %d bytes when uncompressed", int64(maxArchiveBytes))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// scan notes where each member is. The reader skips contents by seeking.
func (a *archive) scan(ctx context.Context) error {
	tr := tar.NewReader(a.f)
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("not a tar archive of an image: %w", err)
		}
		if n >= maxArchiveFiles {
			return fmt.Errorf("more than %d files, which no archive of an image has", maxArchiveFiles)
		}
		name := path.Clean("/" + h.Name)[1:]
		switch h.Typeflag {
		case tar.TypeReg:
			offset, err := a.f.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			a.files[name] = member{offset: offset, size: h.Size}
		case tar.TypeSymlink: // docker save, for layers that several images share
			a.files[name] = member{link: path.Join("/", path.Dir(name), h.Linkname)[1:]}
		case tar.TypeLink:
			a.files[name] = member{link: path.Clean("/" + h.Linkname)[1:]}
		}
	}
}

// open opens a member, following one link.
func (a *archive) open(name string) (io.ReadCloser, int64, error) {
	m, ok := a.files[path.Clean("/" + name)[1:]]
	if ok && m.link != "" {
		m, ok = a.files[m.link]
	}
	if !ok || m.link != "" {
		return nil, 0, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return io.NopCloser(io.NewSectionReader(a.f, m.offset, m.size)), m.size, nil
}

// dockerEntry is one image of manifest.json.
type dockerEntry struct {
	Config   string   `json:"Config"`
	RepoTags []string `json:"RepoTags"`
	Layers   []string `json:"Layers"`
}

// dockerImage opens an image of docker save's format, whose layers are
// verified by diff ID alone.
func (a *archive) dockerImage(name string, want choice, platform v1.Platform) (*Image, error) {
	files := layoutBlobs{name: name, open: a.open}
	raw, err := files.readFile(dockerFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Errorf(fault.Usage, "%s is not an archive of an image: it holds neither %s nor %s", name, indexFile, dockerFile)
	}
	if err != nil {
		return nil, fault.Wrap(fault.Source, fmt.Errorf("%s: %w", name, err))
	}
	var entries []dockerEntry
	if err := json.Unmarshal(raw, &entries); err != nil {
		return nil, fault.Errorf(fault.Source, "%s: %s: %w", name, dockerFile, err)
	}
	if len(entries) > maxManifests {
		return nil, fault.Errorf(fault.Source, "%s: more than %d images", name, maxManifests)
	}
	var found []candidate
	var tags []string
	var missing error // the first image that is not whole
	images := map[v1.Hash]*Image{}
	for n, e := range entries {
		tags = append(tags, e.RepoTags...)
		if want.name != "" && !slices.ContainsFunc(e.RepoTags, func(tag string) bool { return sameTag(tag, want.name) }) {
			continue
		}
		i, id, err := a.dockerEntry(files, name, e)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			found = append(found, candidate{missing: true})
			missing = cmp.Or(missing, fault.Wrap(fault.Source, fmt.Errorf("%s: image %d: %w", name, n+1, err)))
			continue
		case err != nil:
			return nil, fault.Wrap(fault.Source, fmt.Errorf("%s: image %d: %w", name, n+1, err))
		case want.digest != (v1.Hash{}) && want.digest != id:
			continue
		}
		images[id] = i
		c := candidate{
			desc:     v1.Descriptor{Digest: id},
			platform: normal(v1.Platform{OS: i.Config.OS, Architecture: i.Config.Architecture, Variant: i.Config.Variant}),
		}
		if len(e.RepoTags) > 0 {
			c.name = e.RepoTags[0]
		}
		found = append(found, c)
	}
	if len(images) == 0 && missing != nil {
		return nil, missing
	}
	if len(images) == 0 && !want.isZero() {
		return nil, notThere(name, want, tags)
	}
	d, err := pick(name, found, platform)
	if err != nil {
		return nil, err
	}
	return images[d.Digest], nil
}

// dockerEntry opens one image. Its identity is the digest of its configuration,
// as docker shows it.
func (a *archive) dockerEntry(files layoutBlobs, name string, e dockerEntry) (*Image, v1.Hash, error) {
	raw, err := files.readFile(e.Config)
	if err != nil {
		return nil, v1.Hash{}, err
	}
	config, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil {
		return nil, v1.Hash{}, fmt.Errorf("%s: %w", e.Config, err)
	}
	if len(e.Layers) != len(config.RootFS.DiffIDs) {
		return nil, v1.Hash{}, fmt.Errorf("%s names %d layers and %s %d", dockerFile, len(e.Layers), e.Config, len(config.RootFS.DiffIDs))
	}
	i := &Image{Name: name, Config: *config}
	for n, file := range e.Layers {
		i.layers = append(i.layers, layer{
			diffID: config.RootFS.DiffIDs[n],
			open: func(context.Context) (io.ReadCloser, error) {
				rc, _, err := a.open(file)
				if err != nil {
					return nil, fault.Wrap(fault.Source, err)
				}
				return rc, nil
			},
		})
	}
	id, _, err := v1.SHA256(bytes.NewReader(raw))
	return i, id, err
}
