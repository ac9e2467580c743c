package bundle

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// replaceable says whether a bundle may take the place of what is at dir.
func replaceable(dir string) error {
	info, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	const hint = "name another output directory, or move this one away"
	if !info.IsDir() {
		return fault.Errorf(fault.Usage, "%s is not a directory and will not be replaced by a bundle", dir).Hintf(hint)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	if len(entries) == 0 {
		return nil
	}
	if _, err := os.Lstat(filepath.Join(dir, ManifestFile)); err != nil {
		return fault.Errorf(fault.Usage, "%s holds files and no %s: it will not be replaced by a bundle", dir, ManifestFile).Hintf(hint)
	}
	return nil
}
