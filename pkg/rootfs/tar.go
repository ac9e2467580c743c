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
	"unicode/utf8"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// TarOption changes how ReadTar reads.
type TarOption func(*tarOptions)

type tarOptions struct {
	limits Limits
	visit  func(*tar.Header, Entry) error
	sum    hash.Hash
	end    bool
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

// maxSearches, times Limits.Entries, is how many entries replacing others may
// look at: with DefaultLimits that takes a minute, and without a limit days.
const maxSearches = 1000

// WithEnd makes an archive without the mark at its end an error, as one is that
// was cut between two entries. Some programs leave it out.
func WithEnd() TarOption { return func(o *tarOptions) { o.end = true } }

// ReadTar reads a tar stream to its end into a new tree, contents into the
// spool. A later entry of the same path replaces an earlier one; a hard link
// of a path to itself, which tar writes for what its arguments name twice,
// changes nothing. Extended attributes, SELinux labels and ACLs are read from
// the records of GNU tar, bsdtar and star.
//
// Names that leave the tree, names below anything but a directory (a symbolic
// link too), hard links to what has not come yet, unknown types and whatever
// exceeds the limits are errors of class fault.Source that name the entry.
func ReadTar(ctx context.Context, r io.Reader, spool *Spool, opts ...TarOption) (*Tree, error) {
	o := tarOptions{limits: DefaultLimits()}
	for _, opt := range opts {
		opt(&o)
	}
	t := New()
	budget := NewBudget(o.limits)
	tr := NewTarReader(ctx, r, budget)
	for {
		h, e, err := tr.Next()
		if err == io.EOF {
			if o.end && !tr.Ended() {
				return nil, fault.Errorf(fault.Source, "tar: the archive has no end: it is cut short, or was written by a program that failed")
			}
			return t, nil
		}
		if err != nil {
			return nil, err
		}
		if o.sum != nil {
			o.sum.Reset()
		}
		if e.IsRegular() && e.Hard == "" && h.Size > 0 {
			if e.Content, err = tr.Contents(spool, o.sum); err != nil {
				return nil, readError("tar: %s: %w", e.Path, err)
			}
			e.Size = h.Size
		}
		if o.visit != nil {
			if err := o.visit(h, e); err != nil {
				return nil, err
			}
		}
		before := t.Len()
		if err := t.Set(e); err != nil {
			return nil, fault.Errorf(fault.Source, "tar: %w", err)
		}
		if most := maxSearches * int64(o.limits.Entries); t.searched > most {
			return nil, overLimit("tar: %s: entries are replaced too often in too large a tree", e.Path)
		}
		if implied := t.Len() - before - 1; implied > 0 {
			if err := budget.Implied(implied); err != nil {
				return nil, fmt.Errorf("tar: %s: %w", e.Path, err)
			}
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

// EntryOf is the inverse of HeaderOf: the entry a tar header describes, without
// contents. Names that leave the tree, owners and device numbers out of range,
// attributes that cannot be read and types Linux does not have are errors.
func EntryOf(h *tar.Header) (Entry, error) {
	name, err := cleanName(h.Name)
	if err != nil {
		return Entry{}, err
	}
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) > 1<<32-2 || int64(h.Gid) > 1<<32-2 {
		return Entry{}, fmt.Errorf("%s: owner %d:%d is out of range", name, h.Uid, h.Gid)
	}
	e := Entry{Path: name, UID: uint32(h.Uid), GID: uint32(h.Gid)}
	e.Mode = ModeFromUnix(uint32(h.Mode)&0o7777 | unixRegular)
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
	case tar.TypeDir, typeDumpDir:
		e.Mode |= fs.ModeDir
	case tar.TypeSymlink:
		e.Mode = fs.ModeSymlink | 0o777
		e.Link = strings.Clone(h.Linkname)
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
	return e, e.readXattrs(h.PAXRecords)
}

// cleanName turns "./usr/bin/" or "/usr/bin" into "usr/bin". A name with ".."
// is refused even where it would stay inside. The result shares no memory with
// the name, which may be a part of a header of a MiB.
func cleanName(name string) (string, error) {
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("name %q has a .. in it", name)
		}
	}
	if name == "" {
		return "", fmt.Errorf("empty name")
	}
	clean := strings.TrimPrefix(path.Clean("/"+name), "/")
	if clean == "" {
		clean = Root
	}
	if err := checkPath(clean); err != nil {
		return "", err
	}
	return strings.Clone(clean), nil
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
			return fault.Errorf(fault.Usage, "tar: %s is a socket, which tar cannot hold; remove it from the tree", e.Path)
		}
		h := HeaderOf(e, epoch)
		if target, ok := first[e.Path]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, target, 0
			setCharset(h)
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
	writeXattrs(h, e.Xattrs)
	setCharset(h)
	return h
}

// setCharset says of names that are not UTF-8 that they are bytes (POSIX.1-2008,
// pax, hdrcharset); without it readers may convert them.
func setCharset(h *tar.Header) {
	if !utf8.ValidString(h.Name) || !utf8.ValidString(h.Linkname) {
		setRecord(h, "hdrcharset", "BINARY")
	}
}
