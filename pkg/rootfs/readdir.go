package rootfs

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ReadDir is a directory of the host as a tree: modes, owners, extended
// attributes, symbolic links and device nodes as they are, names of one inode
// as hard links, whatever is mounted below included. Contents are opened when
// they are used, and are not copied.
//
// Symbolic links are not followed, dir itself excepted. Attributes in the
// namespace "trusted" are there for root only.
func ReadDir(ctx context.Context, dir string) (*Tree, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s is not a directory", dir)
	}
	r := dirReader{ctx: ctx, tree: New(), base: dir, first: map[fileID]string{}, buf: make([]byte, MaxXattrs)}
	// The slash makes lstat follow dir itself.
	if err := r.add(Root, dir+"/"); err != nil {
		return nil, err
	}
	return r.tree, r.readDir(Root)
}

type dirReader struct {
	ctx   context.Context
	tree  *Tree
	base  string
	first map[fileID]string // name of each file that has more than one
	buf   []byte            // for extended attributes
}

// fileID is what the names of one file have in common.
type fileID struct{ dev, inode uint64 }

func (r *dirReader) readDir(dir string) error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	list, err := os.ReadDir(filepath.Join(r.base, dir)) // sorted
	if err != nil {
		return err
	}
	for _, d := range list {
		name := path.Join(dir, d.Name())
		if err := r.add(name, filepath.Join(r.base, name)); err != nil {
			return err
		}
		if d.IsDir() {
			if err := r.readDir(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// add adds what is at full to the tree.
func (r *dirReader) add(name, full string) error {
	var st unix.Stat_t
	if err := unix.Lstat(full, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: full, Err: err}
	}
	e := Entry{Path: name, Mode: ModeFromUnix(st.Mode), UID: st.Uid, GID: st.Gid}
	if id := (fileID{uint64(st.Dev), st.Ino}); st.Nlink > 1 && !e.IsDir() {
		if first, ok := r.first[id]; ok {
			return r.put(Hardlink(name, first))
		}
		r.first[id] = name
	}
	var err error
	switch {
	case e.IsRegular():
		e.Size, e.Content = st.Size, File(full)
	case e.IsSymlink():
		e.Link, err = os.Readlink(full)
	case e.IsDevice():
		e.Major, e.Minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
	}
	if err != nil {
		return err
	}
	if e.Xattrs, err = r.xattrs(full); err != nil {
		return err
	}
	return r.put(e)
}

func (r *dirReader) put(e Entry) error {
	if err := r.tree.Add(e); err != nil {
		return fmt.Errorf("%s: %w", r.base, err)
	}
	return nil
}

func (r *dirReader) xattrs(full string) (map[string][]byte, error) {
	n, err := unix.Llistxattr(full, r.buf)
	if err == unix.ENOTSUP || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "llistxattr", Path: full, Err: err}
	}
	names := strings.Split(strings.TrimSuffix(string(r.buf[:n]), "\x00"), "\x00")
	attrs := make(map[string][]byte, len(names))
	for _, name := range names {
		n, err := unix.Lgetxattr(full, name, r.buf)
		if err != nil {
			return nil, &os.PathError{Op: "lgetxattr " + name, Path: full, Err: err}
		}
		attrs[name] = append([]byte{}, r.buf[:n]...)
	}
	return attrs, nil
}
