package upkeep

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/bundle"
)

// LockRoot is a lock as a root of the store; path is absolute.
func LockRoot(path string, l *lock.Lock) store.Root {
	r := store.Root{Kind: store.LockRoot, Path: path}
	for _, b := range l.Inputs() {
		r.Digests = append(r.Digests, b.Digest)
	}
	return r
}

// BundleRoot is the bundle in a directory as a root; dir is absolute.
func BundleRoot(dir string, m *bundle.Manifest) store.Root {
	r := store.Root{Kind: store.BundleRoot, Path: dir}
	for _, a := range m.Artifacts {
		r.Digests = append(r.Digests, store.Digest(a.Digest))
	}
	return r
}

// named returns what a root names now; fs.ErrNotExist says that it is gone. A
// lock is returned as well.
func named(r store.Root) ([]store.Digest, *lock.Lock, error) {
	file := r.Path
	if r.Kind == store.BundleRoot {
		file = filepath.Join(r.Path, bundle.ManifestFile)
	}
	if _, err := os.Stat(file); errors.Is(err, syscall.ENOTDIR) {
		return nil, nil, fs.ErrNotExist // a file stands where a directory was
	} else if err != nil {
		return nil, nil, err
	}
	switch r.Kind {
	case store.LockRoot:
		l, err := lock.Load(r.Path)
		if err != nil {
			return nil, nil, err
		}
		return LockRoot(r.Path, l).Digests, l, nil
	case store.BundleRoot:
		m, err := bundle.Load(r.Path)
		if err != nil {
			return nil, nil, err
		}
		return BundleRoot(r.Path, m).Digests, nil, nil
	}
	return slices.Clone(r.Digests), nil, nil // of a newer version of this program
}
