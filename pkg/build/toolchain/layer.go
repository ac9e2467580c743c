package toolchain

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
)

// unneeded are the directories a compiler does without, with a slash at the
// end, and single large files.
func unneeded() []string {
	return []string{
		"usr/share/doc/", "usr/share/man/", "usr/share/info/", "usr/share/locale/",
		"usr/share/lintian/", "usr/share/bug/", "usr/share/doc-base/",
		"usr/lib/llvm-19/bin/llvm-exegesis", // 47 MB, measures processors
	}
}

// perishable are directories and files that hold the state of the making:
// times, paths and names of the machine.
func perishable() []string {
	return []string{
		"dev/", "var/log/", "var/cache/", "var/lib/apt/", "var/backups/", "run/", "tmp/",
		"etc/apt/sources.list", "etc/apt/apt.conf.d/99mmdebstrap",
		"etc/hostname", "etc/resolv.conf", "etc/machine-id", "var/lib/dpkg/status-old", "var/lib/dpkg/diversions-old",
		"var/lib/dpkg/statoverride-old", "var/lib/dpkg/lock", "var/lib/dpkg/lock-frontend", "var/lib/dpkg/triggers/Lock",
	}
}

// layer is the image's one layer while it is written into the layout, and a
// v1.Layer after. It is compressed with zstd at its fastest level: the full
// image's tar of 730 MB becomes 220 MB for 4 s of one core, which layout,
// transfer and the engine's own copy all save.
type layer struct {
	blobs  string // directory
	f      *os.File
	enc    *zstd.Encoder
	tw     *tar.Writer
	plain  hash.Hash // of the tar
	zipped hash.Hash // of the file
	size   int64
}

func newLayer(layout string) (*layer, error) {
	l := &layer{blobs: filepath.Join(layout, "blobs", "sha256"), plain: sha256.New(), zipped: sha256.New()}
	if err := os.MkdirAll(l.blobs, 0o755); err != nil {
		return nil, err
	}
	f, err := os.Create(filepath.Join(l.blobs, ".layer"))
	if err != nil {
		return nil, err
	}
	l.f = f
	l.enc, err = zstd.NewWriter(io.MultiWriter(f, l.zipped, (*counter)(&l.size)), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	l.tw = tar.NewWriter(io.MultiWriter(l.enc, l.plain))
	return l, nil
}

// counter counts what is written to it.
type counter int64

// Write implements io.Writer.
func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

// copyFrom adds the entries of a tar stream but what steps do not need, what
// differs from run to run, and device nodes, which BuildKit makes itself and a
// rootless one could not unpack.
func (l *layer) copyFrom(r io.Reader) error {
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read mmdebstrap's tar: %w", err)
		}
		name := strings.TrimPrefix(h.Name, "./")
		if name == "" || dropped(name) || h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock || h.Typeflag == tar.TypeFifo {
			continue
		}
		out := &tar.Header{
			Typeflag: h.Typeflag, Name: name, Linkname: h.Linkname, Size: h.Size, Mode: h.Mode,
			Uid: h.Uid, Gid: h.Gid, ModTime: h.ModTime.Truncate(1e9),
		}
		if h.Typeflag == tar.TypeLink {
			out.Linkname = strings.TrimPrefix(h.Linkname, "./")
		}
		for k, v := range h.PAXRecords {
			if strings.HasPrefix(k, "SCHILY.xattr.") {
				if out.PAXRecords == nil {
					out.PAXRecords = map[string]string{}
				}
				out.PAXRecords[k] = v
			}
		}
		if err := l.tw.WriteHeader(out); err != nil {
			return fmt.Errorf("layer: %s: %w", name, err)
		}
		if _, err := io.Copy(l.tw, in); err != nil {
			return fmt.Errorf("layer: %s: %w", name, err)
		}
	}
}

// dropped tells whether an entry is left out; directories that are emptied
// stay.
func dropped(name string) bool {
	for _, list := range [][]string{unneeded(), perishable()} {
		for _, d := range list {
			if name == d && !strings.HasSuffix(d, "/") || strings.HasSuffix(d, "/") && strings.HasPrefix(name, d) && name != d {
				return true
			}
		}
	}
	return false
}

// finish ends the layer and gives the file its name.
func (l *layer) finish() error {
	err := errors.Join(l.tw.Close(), l.enc.Close(), l.f.Sync(), l.f.Chmod(0o644), l.f.Close())
	if err != nil {
		return fmt.Errorf("toolchain: layer: %w", err)
	}
	return atomicfile.Rename(l.f.Name(), l.path())
}

func (l *layer) abort() error {
	return errors.Join(l.enc.Close(), l.f.Close())
}

func (l *layer) path() string { return filepath.Join(l.blobs, fmt.Sprintf("%x", l.zipped.Sum(nil))) }

func sum(h hash.Hash) (v1.Hash, error) {
	return v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", h.Sum(nil))}, nil
}

// Digest implements v1.Layer.
func (l *layer) Digest() (v1.Hash, error) { return sum(l.zipped) }

// DiffID implements v1.Layer.
func (l *layer) DiffID() (v1.Hash, error) { return sum(l.plain) }

// Size implements v1.Layer.
func (l *layer) Size() (int64, error) { return l.size, nil }

// MediaType implements v1.Layer.
func (l *layer) MediaType() (types.MediaType, error) { return types.OCILayerZStd, nil }

// Compressed implements v1.Layer.
func (l *layer) Compressed() (io.ReadCloser, error) { return os.Open(l.path()) }

// Uncompressed implements v1.Layer.
func (l *layer) Uncompressed() (io.ReadCloser, error) {
	f, err := os.Open(l.path())
	if err != nil {
		return nil, err
	}
	dec, err := zstd.NewReader(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &decoded{dec, f}, nil
}

// decoded is a decoder, whose goroutines end with it, and its file.
type decoded struct {
	*zstd.Decoder
	f *os.File
}

// Close ends both.
func (d *decoded) Close() error {
	d.Decoder.Close()
	return d.f.Close()
}
