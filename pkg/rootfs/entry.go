package rootfs

import (
	"fmt"
	"io"
	"io/fs"
	"strings"
)

const (
	// MaxPath is the longest path of an entry in bytes, Linux's PATH_MAX less
	// its NUL.
	MaxPath = 4095
	// MaxName is the longest single name in bytes, Linux's NAME_MAX.
	MaxName = 255
	// MaxXattrs is the largest sum of names and values of one entry's
	// extended attributes in bytes, XATTR_LIST_MAX.
	MaxXattrs = 64 << 10
)

// Root is the path of the tree's root directory.
const Root = "."

// Entry is one path of a tree.
type Entry struct {
	// Path is clean and relative, without a leading or trailing slash:
	// "usr/bin/psql". Like Linux's, it is bytes, UTF-8 or not.
	Path string
	// Mode holds the type, the permission bits, and setuid, setgid, sticky.
	Mode fs.FileMode
	// UID and GID own the entry.
	UID, GID uint32
	// Xattrs are extended attributes by full name ("security.capability").
	Xattrs map[string][]byte
	// Link is the target of a symbolic link, as it is stored.
	Link string
	// Hard is the path of the entry that this one is another name of. Such
	// an entry has no attributes or contents of its own: Add copies those of
	// its target.
	Hard string
	// Major and Minor are the numbers of a device node.
	Major, Minor uint32
	// Size is the length of a regular file in bytes.
	Size int64
	// Content gives exactly Size bytes. nil stands for an empty file.
	Content Content
}

// IsDir says whether the entry is a directory.
func (e Entry) IsDir() bool { return e.Mode.IsDir() }

// IsRegular says whether the entry is a regular file (hard links to one
// included).
func (e Entry) IsRegular() bool { return e.Mode.IsRegular() }

// IsSymlink says whether the entry is a symbolic link.
func (e Entry) IsSymlink() bool { return e.Mode.Type() == fs.ModeSymlink }

// IsDevice says whether the entry is a block or character device.
func (e Entry) IsDevice() bool { return e.Mode&fs.ModeDevice != 0 }

// Open opens the contents of a regular file.
func (e Entry) Open() (io.ReadCloser, error) {
	if !e.IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", e.Path)
	}
	if e.Content == nil {
		return io.NopCloser(strings.NewReader("")), nil
	}
	rc, err := e.Content.Open()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.Path, err)
	}
	return rc, nil
}

// CopyTo writes the contents of a regular file to w. Contents that are not
// exactly Size bytes long are an error: they changed since they were added.
func (e Entry) CopyTo(w io.Writer) error {
	rc, err := e.Open()
	if err != nil {
		return err
	}
	defer rc.Close()
	n, err := io.Copy(w, io.LimitReader(rc, e.Size))
	if err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	var one [1]byte
	more, err := io.ReadFull(rc, one[:])
	if n != e.Size || more != 0 {
		return fmt.Errorf("%s: contents are not the %d bytes the entry has; the file changed while it was read", e.Path, e.Size)
	}
	if err != io.EOF {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	return nil
}

// check says what is wrong with an entry on its own.
func (e Entry) check() error {
	if err := checkPath(e.Path); err != nil {
		return err
	}
	if err := e.checkXattrs(); err != nil {
		return err
	}
	if extra := e.Mode &^ (fs.ModeType | fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky); extra != 0 {
		return fmt.Errorf("%s: mode has unknown bits %#o; setuid, setgid and sticky are fs.ModeSetuid, fs.ModeSetgid and fs.ModeSticky", e.Path, uint32(extra))
	}
	switch t := e.Mode.Type(); {
	case t == 0:
		if e.Size < 0 {
			return fmt.Errorf("%s: size %d is negative", e.Path, e.Size)
		}
		if e.Content == nil && e.Size != 0 {
			return fmt.Errorf("%s: %d bytes without contents", e.Path, e.Size)
		}
		return nil
	case t == fs.ModeSymlink:
		if e.Link == "" || len(e.Link) > MaxPath || strings.IndexByte(e.Link, 0) >= 0 {
			return fmt.Errorf("%s: symbolic link target of %d bytes is not 1 to %d bytes without NUL", e.Path, len(e.Link), MaxPath)
		}
	case t == fs.ModeDir, t == fs.ModeDevice, t == fs.ModeDevice|fs.ModeCharDevice, t == fs.ModeNamedPipe, t == fs.ModeSocket:
	default:
		return fmt.Errorf("%s: unknown file type %v", e.Path, t)
	}
	if e.Content != nil || e.Size != 0 {
		return fmt.Errorf("%s: only a regular file has contents", e.Path)
	}
	return nil
}

// checkXattrs says what is wrong with the extended attributes.
func (e Entry) checkXattrs() error {
	size := 0
	for name, value := range e.Xattrs {
		if name == "" || len(name) > MaxName || !strings.Contains(name, ".") || strings.IndexByte(name, 0) >= 0 {
			return fmt.Errorf("%s: extended attribute name %.300q is not namespace.name of at most %d bytes", e.Path, name, MaxName)
		}
		size += len(name) + 1 + len(value)
	}
	if size > MaxXattrs {
		return fmt.Errorf("%s: extended attributes take %d bytes, more than %d", e.Path, size, MaxXattrs)
	}
	return nil
}

// isClean is fs.ValidPath without its rule that a path be UTF-8: Linux has none.
func isClean(p string) bool {
	if p == Root {
		return true
	}
	for name := range strings.SplitSeq(p, "/") {
		if name == "" || name == "." || name == ".." {
			return false
		}
	}
	return true
}

func checkPath(p string) error {
	switch {
	case !isClean(p):
		return fmt.Errorf("path %q is not clean and relative", p)
	case len(p) > MaxPath:
		return fmt.Errorf("path %.40q… is %d bytes long, more than %d", p, len(p), MaxPath)
	case strings.IndexByte(p, 0) >= 0:
		return fmt.Errorf("path %q holds a NUL", p)
	}
	for name := range strings.SplitSeq(p, "/") {
		if len(name) > MaxName {
			return fmt.Errorf("path %.40q…: the name %.40q… is %d bytes long, more than %d", p, name, len(name), MaxName)
		}
	}
	return nil
}
