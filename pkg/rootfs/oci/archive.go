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

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
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
func openArchive(ctx context.Context, name string, digest v1.Hash, platform v1.Platform) (*Image, error) {
	a, err := readArchive(ctx, name)
	if err != nil {
		return nil, layerError(ctx, name, err)
	}
	var i *Image
	// docker save writes both kinds at once; the layout has digests.
	if _, ok := a.files[indexFile]; ok {
		i, err = layoutBlobs{name: name, open: a.open}.image(ctx, digest, platform)
	} else if digest != (v1.Hash{}) {
		err = fault.Errorf(fault.Usage, "%s is not an OCI layout: its images have no digest", name)
	} else {
		i, err = a.dockerImage(name, platform)
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
	plain, err := decompress(&contextReader{ctx, f})
	if err != nil {
		return nil, err
	}
	defer plain.Close() // a decoder without state of its own
	var magic [4]byte
	if _, err := f.ReadAt(magic[:], 0); err != nil {
		return nil, fault.Errorf(fault.Usage, "it is neither an OCI layout nor a tar archive")
	}
	if magic[0] == 0x1f && magic[1] == 0x8b || magic == [4]byte{0x28, 0xb5, 0x2f, 0xfd} {
		whole, err := unpacked(plain)
		if err != nil {
			return nil, err
		}
		if err := f.Close(); err != nil {
			return nil, errors.Join(err, whole.Close())
		}
		f = whole
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	a := &archive{f: f, files: map[string]member{}}
	return a, a.scan(ctx)
}

// unpacked writes r to a temporary file without a name.
func unpacked(r io.Reader) (*os.File, error) {
	f, err := atomicfile.Scratch("")
	if err != nil {
		return nil, err
	}
	left := int64(maxArchiveBytes)
	_, err = io.Copy(f, &boundedReader{r: r, left: &left})
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
func (a *archive) dockerImage(name string, platform v1.Platform) (*Image, error) {
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
	var found []candidate
	images := map[v1.Hash]*Image{}
	for n, e := range entries {
		if n >= maxManifests {
			return nil, fault.Errorf(fault.Source, "%s: more than %d images", name, maxManifests)
		}
		i, err := a.dockerEntry(files, name, e)
		if err != nil {
			return nil, fault.Wrap(fault.Source, fmt.Errorf("%s: image %d: %w", name, n+1, err))
		}
		// Images of this format go by the digest of their configuration; here
		// a number of their own will do.
		id := v1.Hash{Algorithm: "image", Hex: fmt.Sprint(n + 1)}
		images[id] = i
		found = append(found, candidate{
			desc:     v1.Descriptor{Digest: id},
			platform: normal(v1.Platform{OS: i.Config.OS, Architecture: i.Config.Architecture, Variant: i.Config.Variant}),
		})
	}
	d, err := pick(name, found, platform)
	if err != nil {
		return nil, err
	}
	return images[d.Digest], nil
}

func (a *archive) dockerEntry(files layoutBlobs, name string, e dockerEntry) (*Image, error) {
	raw, err := files.readFile(e.Config)
	if err != nil {
		return nil, err
	}
	config, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.Config, err)
	}
	if len(e.Layers) != len(config.RootFS.DiffIDs) {
		return nil, fmt.Errorf("%s names %d layers and %s %d", dockerFile, len(e.Layers), e.Config, len(config.RootFS.DiffIDs))
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
	return i, nil
}
