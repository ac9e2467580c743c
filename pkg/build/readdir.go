package build

import (
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// readDir is a directory of a checkout as a tree: owned by root, modes reduced
// to whether a file is executable, since version control carries no more.
func readDir(dir string) (*rootfs.Tree, error) {
	t := rootfs.New()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		e := rootfs.Entry{Path: filepath.ToSlash(rel)}
		switch {
		case d.IsDir():
			e.Mode = fs.ModeDir | 0o755
		case d.Type() == fs.ModeSymlink:
			e.Mode = fs.ModeSymlink | 0o777
			if e.Link, err = os.Readlink(path); err != nil {
				return err
			}
		case d.Type().IsRegular():
			e.Mode, e.Size, e.Content = 0o644, info.Size(), rootfs.File(path)
			if info.Mode()&0o111 != 0 {
				e.Mode = 0o755
			}
		default:
			return fault.Errorf(fault.Usage, "%s: only files, directories and symbolic links can be part of a port", path)
		}
		return t.Add(e)
	})
	if err != nil {
		return nil, fault.Wrap(fault.Usage, err)
	}
	return t, nil
}
