package source

import (
	"fmt"
	"io/fs"

	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// Checkout is a directory of a checkout as a tree: owned by root, modes reduced
// to whether a file is executable, since version control carries no more.
// Contents are read when they are used. What skip, which may be nil, says is
// left out, by its path in the directory.
func Checkout(dir recipe.Ref, skip func(path string) bool) (*rootfs.Tree, error) {
	files, err := dir.Sub()
	if err != nil {
		return nil, fault.Wrap(fault.Usage, err)
	}
	t := rootfs.New()
	err = fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		if skip != nil && skip(name) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		e := rootfs.Entry{Path: name}
		switch {
		case d.IsDir():
			e.Mode = fs.ModeDir | 0o755
		case d.Type() == fs.ModeSymlink:
			e.Mode = fs.ModeSymlink | 0o777
			if e.Link, err = fs.ReadLink(files, name); err != nil {
				return err
			}
		case d.Type().IsRegular():
			e.Mode, e.Size, e.Content = 0o644, info.Size(), dir.Join(name)
			if info.Mode()&0o111 != 0 {
				e.Mode = 0o755
			}
		default:
			return fault.Errorf(fault.Usage, "%s: only files, directories and symbolic links can be part of a step's input", dir.Join(name))
		}
		return t.Add(e)
	})
	if err != nil {
		return nil, fault.Wrap(fault.Usage, fmt.Errorf("%s: %w", dir, err))
	}
	return t, nil
}
