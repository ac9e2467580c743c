package build

import (
	"fmt"
	"io/fs"

	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// readDir is a directory of a checkout as a tree: owned by root, modes reduced
// to whether a file is executable, since version control carries no more.
func readDir(dir recipe.Ref) (*rootfs.Tree, error) {
	files, err := dir.Sub()
	if err != nil {
		return nil, fault.Wrap(fault.Usage, err)
	}
	t := rootfs.New()
	err = fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
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
			return fault.Errorf(fault.Usage, "%s: only files, directories and symbolic links can be part of a port", dir.Join(name))
		}
		return t.Add(e)
	})
	if err != nil {
		return nil, fault.Wrap(fault.Usage, fmt.Errorf("%s: %w", dir, err))
	}
	return t, nil
}
