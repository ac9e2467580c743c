package erofs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	goerofs "github.com/erofs/go-erofs"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// Bounds of what Read takes in: a root file system has some thousand entries,
// and a damaged image must not fill the memory.
const (
	maxEntries = 1 << 18
	maxPaths   = 64 << 20 // bytes of all paths together
)

// Read reads an uncompressed image into a tree. The tree's contents read from
// r when they are opened, so r must stay open as long as the tree is used.
// Damage is an error that names the path it was found at.
func Read(ctx context.Context, r io.ReaderAt) (*rootfs.Tree, error) {
	image, err := goerofs.Open(r)
	if err != nil {
		return nil, fmt.Errorf("erofs: %w", err)
	}
	t := rootfs.New()
	first := map[int64]string{} // first name of each directory, and of each inode that has several
	paths := 0
	err = fs.WalkDir(image, rootfs.Root, func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if paths += len(name); t.Len() >= maxEntries || paths > maxPaths {
			return fmt.Errorf("more than %d entries, or more than %d bytes of paths", maxEntries, maxPaths)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		stat, ok := info.Sys().(*goerofs.Stat)
		if !ok {
			return fmt.Errorf("no attributes in %T", info.Sys())
		}
		e, err := entry(image, name, info, stat)
		if err != nil {
			return err
		}
		if e.IsDir() {
			// A directory below itself would be walked for ever.
			if other, ok := first[stat.Ino]; ok {
				return fmt.Errorf("%.255s is the directory %.255s already", name, other)
			}
			first[stat.Ino] = name
		} else if stat.Nlink > 1 {
			if target, ok := first[stat.Ino]; ok {
				e = rootfs.Hardlink(name, target)
			} else {
				first[stat.Ino] = name
			}
		}
		if name == rootfs.Root {
			return t.Set(e)
		}
		return t.Add(e)
	})
	if err != nil {
		return nil, fmt.Errorf("erofs: %w", err)
	}
	return t, nil
}

func entry(image fs.FS, name string, info fs.FileInfo, stat *goerofs.Stat) (rootfs.Entry, error) {
	// go-erofs gives the type as Go has it and the other bits as the inode
	// has them.
	const regular = 0o100000
	bits := rootfs.ModeFromUnix(uint32(info.Mode())&0o7777 | regular)
	e := rootfs.Entry{Path: name, Mode: info.Mode().Type() | bits, UID: stat.UID, GID: stat.GID}
	for key, value := range stat.Xattrs {
		if e.Xattrs == nil {
			e.Xattrs = map[string][]byte{}
		}
		// go-erofs ends the names that are an index of their own, those of
		// ACLs, with a dot.
		e.Xattrs[strings.TrimSuffix(key, ".")] = []byte(value)
	}
	switch {
	case e.IsRegular():
		e.Size, e.Content = info.Size(), imageFile{image, name}
	case e.IsSymlink():
		links, ok := image.(fs.ReadLinkFS)
		if !ok {
			return e, errors.New("the reader gives no link targets")
		}
		var err error
		if e.Link, err = links.ReadLink(name); err != nil {
			return e, err
		}
	case e.IsDevice():
		// As Linux's new_decode_dev reads it.
		e.Major, e.Minor = stat.Rdev>>8&0xfff, stat.Rdev&0xff|stat.Rdev>>12&0xfff00
	}
	return e, nil
}

// imageFile is the contents of a file of the image.
type imageFile struct {
	image fs.FS
	name  string
}

func (f imageFile) Open() (io.ReadCloser, error) { return f.image.Open(f.name) }
