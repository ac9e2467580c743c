package rootfs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// xattrPrefix is the PAX key prefix that GNU tar, bsdtar, Docker and apk use.
const xattrPrefix = "SCHILY.xattr."

// Limits bound what ReadTar accepts.
type Limits struct {
	Entries int   // headers read
	Bytes   int64 // sum of the sizes of files and extended attributes
}

// DefaultLimits are far above any root file system and far below what harms a
// machine: a million entries, 64 GiB.
func DefaultLimits() Limits { return Limits{Entries: 1_000_000, Bytes: 64 << 30} }

// TarOption changes how ReadTar reads.
type TarOption func(*tarOptions)

type tarOptions struct {
	limits Limits
	visit  func(*tar.Header, Entry) error
	sum    hash.Hash
}

// WithLimits replaces DefaultLimits.
func WithLimits(l Limits) TarOption { return func(o *tarOptions) { o.limits = l } }

// WithVisitor calls visit for each entry with the tar header it came from,
// after its contents are in the spool and before it is in the tree. An error
// ends the reading and is returned as it is.
func WithVisitor(visit func(*tar.Header, Entry) error) TarOption {
	return func(o *tarOptions) { o.visit = visit }
}

// WithSum sums each file's contents as they pass into the spool: when an entry
// is visited, h has seen its contents and nothing else.
func WithSum(h hash.Hash) TarOption {
	return func(o *tarOptions) { o.sum = h }
}

// ReadTar reads a tar stream to its end into a new tree, contents into the
// spool. A later entry of the same path replaces an earlier one. Names that
// leave the tree, names below anything but a directory (a symbolic link too),
// hard links to what has not come yet, unknown types and whatever exceeds the
// limits are errors of class fault.Source that name the entry.
func ReadTar(ctx context.Context, r io.Reader, spool *Spool, opts ...TarOption) (*Tree, error) {
	o := tarOptions{limits: DefaultLimits()}
	for _, opt := range opts {
		opt(&o)
	}
	t := New()
	tr := tar.NewReader(r)
	var total int64
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := tr.Next()
		if err == io.EOF {
			return t, nil
		}
		if err != nil {
			return nil, readError("tar entry %d: %w", n+1, err)
		}
		if n >= o.limits.Entries {
			return nil, fault.Errorf(fault.Source, "tar: more than %d entries", o.limits.Entries)
		}
		e, err := entryOf(h)
		if err != nil {
			return nil, fault.Errorf(fault.Source, "tar entry %d: %w", n+1, err)
		}
		total += h.Size
		for name, value := range e.Xattrs {
			total += int64(len(name) + len(value))
		}
		if h.Size < 0 || total > o.limits.Bytes || total < 0 {
			return nil, fault.Errorf(fault.Source, "tar: %s: more than %d bytes in all", e.Path, o.limits.Bytes)
		}
		if o.sum != nil {
			o.sum.Reset()
		}
		if e.IsRegular() && e.Hard == "" && h.Size > 0 {
			contents := io.Reader(&contextReader{ctx, tr})
			if o.sum != nil {
				contents = io.TeeReader(contents, o.sum)
			}
			c, err := spool.AddN(contents, h.Size)
			if err != nil {
				return nil, readError("tar: %s: %w", e.Path, err)
			}
			e.Content, e.Size = c, h.Size
		}
		if o.visit != nil {
			if err := o.visit(h, e); err != nil {
				return nil, err
			}
		}
		if err := t.Set(e); err != nil {
			return nil, fault.Errorf(fault.Source, "tar: %w", err)
		}
	}
}

// readError gives broken input the class Source, the machine's own errors (no
// space) Environment, and leaves cancellation as it is.
func readError(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	var pathErr *fs.PathError
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if errors.As(err, &pathErr) {
		return fault.Errorf(fault.Environment, "%w", err).Hintf("check that there is space for the temporary file, or set TMPDIR")
	}
	return fault.Wrap(fault.Source, err)
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// entryOf is the entry of a header, without contents.
func entryOf(h *tar.Header) (Entry, error) {
	name, err := cleanName(h.Name)
	if err != nil {
		return Entry{}, err
	}
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) > 1<<32-2 || int64(h.Gid) > 1<<32-2 {
		return Entry{}, fmt.Errorf("%s: owner %d:%d is out of range", name, h.Uid, h.Gid)
	}
	e := Entry{Path: name, UID: uint32(h.Uid), GID: uint32(h.Gid)}
	e.Mode = ModeFromUnix(uint32(h.Mode)&0o7777 | unixRegular)
	for key, value := range h.PAXRecords {
		if attr, ok := strings.CutPrefix(key, xattrPrefix); ok {
			if e.Xattrs == nil {
				e.Xattrs = map[string][]byte{}
			}
			e.Xattrs[attr] = []byte(value)
		}
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		return e, nil
	case tar.TypeDir:
		e.Mode |= fs.ModeDir
	case tar.TypeSymlink:
		e.Mode = fs.ModeSymlink | 0o777
		e.Link = h.Linkname
	case tar.TypeLink:
		e.Hard, err = cleanName(h.Linkname)
		if err != nil {
			return Entry{}, fmt.Errorf("%s: hard link: %w", name, err)
		}
	case tar.TypeChar, tar.TypeBlock:
		e.Mode |= fs.ModeDevice
		if h.Typeflag == tar.TypeChar {
			e.Mode |= fs.ModeCharDevice
		}
		// Linux has 12 bits of major and 20 of minor number.
		if h.Devmajor < 0 || h.Devmajor >= 1<<12 || h.Devminor < 0 || h.Devminor >= 1<<20 {
			return Entry{}, fmt.Errorf("%s: device %d:%d is out of range", name, h.Devmajor, h.Devminor)
		}
		e.Major, e.Minor = uint32(h.Devmajor), uint32(h.Devminor)
	case tar.TypeFifo:
		e.Mode |= fs.ModeNamedPipe
	default:
		return Entry{}, fmt.Errorf("%s: entry type %q is not known", name, h.Typeflag)
	}
	return e, nil
}

// cleanName turns "./usr/bin/" or "/usr/bin" into "usr/bin". A name with ".."
// is refused even where it would stay inside.
func cleanName(name string) (string, error) {
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("name %q has a .. in it", name)
		}
	}
	clean := strings.TrimPrefix(path.Clean("/"+name), "/")
	if clean == "" {
		clean = Root
	}
	if name == "" {
		return "", fmt.Errorf("empty name")
	}
	return clean, checkPath(clean)
}

// WriteTar writes the tree as a tar stream: sorted, every time epoch (Unix
// seconds), no user names, ustar headers with PAX records where needed. The
// root directory itself is written only where it is not 0755 of root.
func WriteTar(w io.Writer, t *Tree, epoch int64) error {
	tw := tar.NewWriter(w)
	first := map[string]string{} // name → name of its group that comes first
	for target, names := range t.HardLinks() {
		for _, name := range names[1:] {
			first[name] = target
		}
	}
	write := func(e Entry) error {
		if e.Mode.Type() == fs.ModeSocket {
			return fmt.Errorf("tar: %s is a socket, which tar cannot hold; remove it from the tree", e.Path)
		}
		h := HeaderOf(e, epoch)
		if target, ok := first[e.Path]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, target, 0
		}
		if err := tw.WriteHeader(h); err != nil {
			return fmt.Errorf("tar: %s: %w", e.Path, err)
		}
		if h.Typeflag != tar.TypeReg {
			return nil
		}
		if err := e.CopyTo(tw); err != nil {
			return fmt.Errorf("tar: %w", err)
		}
		return nil
	}
	if root := t.nodes[Root].Entry; root.Mode.Perm() != 0o755 || root.UID != 0 || root.GID != 0 || len(root.Xattrs) > 0 {
		if err := write(root); err != nil {
			return err
		}
	}
	for e := range t.All() {
		if err := write(e); err != nil {
			return err
		}
	}
	if err := tw.Close(); err != nil {
		return fmt.Errorf("tar: %w", err)
	}
	return nil
}

// HeaderOf is the tar header of an entry as WriteTar writes it, except that a
// hard link is described as the file it is a name of.
func HeaderOf(e Entry, epoch int64) *tar.Header {
	h := &tar.Header{
		Name:    e.Path,
		Mode:    int64(UnixMode(e.Mode) & 0o7777),
		Uid:     int(e.UID),
		Gid:     int(e.GID),
		ModTime: time.Unix(epoch, 0).UTC(),
	}
	switch e.Mode.Type() {
	case fs.ModeDir:
		h.Typeflag = tar.TypeDir
		h.Name += "/"
	case fs.ModeSymlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.Link
	case fs.ModeDevice:
		h.Typeflag = tar.TypeBlock
	case fs.ModeDevice | fs.ModeCharDevice:
		h.Typeflag = tar.TypeChar
	case fs.ModeNamedPipe:
		h.Typeflag = tar.TypeFifo
	default:
		h.Typeflag, h.Size = tar.TypeReg, e.Size
	}
	if e.IsDevice() {
		h.Devmajor, h.Devminor = int64(e.Major), int64(e.Minor)
	}
	for name, value := range e.Xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[xattrPrefix+name] = string(value)
	}
	return h
}
