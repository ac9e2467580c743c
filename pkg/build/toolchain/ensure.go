package toolchain

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/flock"
	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// recipeVersion changes whenever this package would make another image of the
// same lock.
const recipeVersion = 1

// Ensure returns the image made of the locked packages, which must be in the
// store. It is made in cacheDir/toolchain/KEY, where KEY is of the packages'
// digests and the date; when it is there already, and what it consists of has
// its digests, Ensure returns it; a damaged one is made again. Epoch is the upper bound of all times in it, in seconds
// since 1970.
//
// The digest is the image's as made; whether it equals the lock's
// Toolchain.Image is for the caller to judge.
func Ensure(ctx context.Context, st *store.Store, l lock.Toolchain, epoch int64, cacheDir string) (engine.Image, error) {
	arch, err := architecture(l)
	if err != nil {
		return engine.Image{}, err
	}
	key, err := Key(l, epoch)
	if err != nil {
		return engine.Image{}, err
	}
	parent := filepath.Join(cacheDir, "toolchain")
	dir := filepath.Join(parent, key)
	if image, err := openLayout(ctx, dir); err == nil {
		return image, nil
	}

	if err := os.MkdirAll(parent, 0o755); err != nil {
		return engine.Image{}, fault.Errorf(fault.Environment, "toolchain: %w", err)
	}
	guard, err := flock.Acquire(ctx, filepath.Join(parent, "lock"), flock.Exclusive)
	if err != nil {
		return engine.Image{}, fmt.Errorf("toolchain: %w", err)
	}
	defer guard.Close()
	// Another process may have made it while we waited.
	image, err := openLayout(ctx, dir)
	if err == nil {
		return image, nil
	}
	if err := context.Cause(ctx); err != nil {
		return engine.Image{}, err
	}
	// What is there and does not open is damaged; what else is there is left
	// from a crash, since we hold the lock.
	leftovers, err := filepath.Glob(filepath.Join(parent, ".build-*"))
	if err != nil {
		return engine.Image{}, err
	}
	for _, d := range append(leftovers, dir) {
		if err := os.RemoveAll(d); err != nil {
			return engine.Image{}, fault.Errorf(fault.Environment, "toolchain: %w", err)
		}
	}

	work, err := os.MkdirTemp(parent, ".build-")
	if err != nil {
		return engine.Image{}, fault.Errorf(fault.Environment, "toolchain: %w", err)
	}
	image, err = build(ctx, st, l, arch, epoch, work, filepath.Join(parent, key+".log"))
	if err == nil {
		err = atomicfile.SyncTree(image.Layout)
	}
	if err == nil {
		err = atomicfile.Rename(image.Layout, dir)
		image.Layout = dir
	}
	if cleanErr := os.RemoveAll(work); err == nil {
		err = cleanErr
	}
	if err != nil {
		return engine.Image{}, err
	}
	return image, nil
}

// build makes the image in work.
func build(ctx context.Context, st *store.Store, l lock.Toolchain, arch string, epoch int64, work, log string) (engine.Image, error) {
	repo, err := newRepository(work)
	if err != nil {
		return engine.Image{}, err
	}
	defer repo.close()
	if err := repo.fill(ctx, st, l.Packages); err != nil {
		return engine.Image{}, err
	}
	layout := filepath.Join(work, "layout")
	layer, err := newLayer(layout)
	if err != nil {
		return engine.Image{}, err
	}
	if err := bootstrap(ctx, repo, l, arch, epoch, work, log, layer.copyFrom); err != nil {
		return engine.Image{}, errors.Join(err, layer.abort())
	}
	if err := layer.finish(); err != nil {
		return engine.Image{}, err
	}
	return writeLayout(layout, layer, arch, epoch)
}

// Key is of everything the image depends on: the name of its directory.
func Key(l lock.Toolchain, epoch int64) (string, error) {
	text, err := json.Marshal(struct {
		Version  int
		Epoch    int64
		Suite    string
		Packages []lock.DebPackage
	}{recipeVersion, epoch, l.Suite, l.Packages})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return fmt.Sprintf("%x", sum[:12]), nil
}

// architecture is the one all packages but the independent ones are for.
func architecture(l lock.Toolchain) (string, error) {
	arch := ""
	for _, p := range l.Packages {
		switch {
		case p.Arch == "all" || p.Arch == arch:
		case arch == "":
			arch = p.Arch
		default:
			return "", lock.NotLocked(lock.ToolchainName, "", fault.Errorf(fault.Usage, "the locked toolchain has packages for %s and for %s (%s)", arch, p.Arch, p.Name))
		}
	}
	if arch == "" {
		return "", lock.NotLocked(lock.ToolchainName, "", fault.Errorf(fault.Usage, "the locked toolchain has no packages"))
	}
	return arch, nil
}
