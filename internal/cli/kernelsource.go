package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sovereign-build/sovereign/pkg/build"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/kernel"
	"github.com/sovereign-build/sovereign/pkg/kernel/kconfig"
)

// kconfig reads the Kconfig tree of a kernel source: a directory, a tarball, or
// a recipe, which stands for the tarball its lock names.
func (s *session) kconfig(ctx context.Context, source string, a kernel.Arch) (*kconfig.Tree, error) {
	files, err := s.kconfigFiles(ctx, source)
	if err != nil {
		return nil, err
	}
	return kernel.Kconfig(files, a)
}

func (s *session) kconfigFiles(ctx context.Context, source string) (fs.FS, error) {
	info, err := os.Stat(source)
	if err != nil {
		return nil, fault.Errorf(fault.Usage, "--source: %w", err)
	}
	if _, err := os.Stat(filepath.Join(source, recipe.FileName)); info.IsDir() && err != nil {
		return kernel.OpenSource(ctx, source)
	}
	st, err := s.contentStore()
	if err != nil {
		return nil, err
	}
	if !isRecipe(source) {
		digest, err := fileDigest(source)
		if err != nil {
			return nil, fault.Errorf(fault.Environment, "--source: %w", err)
		}
		return build.KconfigFiles(ctx, st, source, digest, s.printer().note)
	}
	r, err := recipe.Load(source)
	if err != nil {
		return nil, err
	}
	pins, err := lock.Load(filepath.Join(r.Dir, lock.FileName))
	if err != nil {
		return nil, err
	}
	src, ok := pins.Source(r.Kernel.Source)
	if !ok {
		return nil, fault.Errorf(fault.Usage, "%s: the kernel source %q is not locked", source, r.Kernel.Source).
			Hintf("run sovereign-build lock %s", source)
	}
	if !st.Has(src.Digest) {
		return nil, fault.Errorf(fault.Source, "%s %s is not in the content store", src.Name, src.Version).
			Hintf("build %s once, or give --source", source)
	}
	return build.KconfigFiles(ctx, st, st.Path(src.Digest), src.Digest, s.printer().note)
}

func fileDigest(path string) (store.Digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	_, err = io.Copy(h, f)
	if err := errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	return store.ParseDigest("sha256:" + hex.EncodeToString(h.Sum(nil)))
}

func (s *session) contentStore() (*store.Store, error) {
	dir := s.cacheDir
	if dir == "" {
		var err error
		if dir, err = build.DefaultCacheDir(); err != nil {
			return nil, err
		}
	}
	return store.Open(filepath.Join(dir, "store"))
}
