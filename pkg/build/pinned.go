package build

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

// repositoryAt is where a repository of the recipe is: a URL as it stands, a
// directory below the recipe's.
func (b *builder) repositoryAt(location string) string {
	if strings.Contains(location, "://") {
		return location
	}
	return b.recipe.Resolve(location)
}

// ofRecipe says whether the recipe still has the repository of a pin.
func (b *builder) ofRecipe(p lock.Package) bool {
	return slices.ContainsFunc(b.recipe.Repositories, func(r string) bool {
		tag, location := recipe.SplitTag(r)
		return tag == p.Tag && location == p.Repository
	})
}

// pinnedRepositories are directories with just the packages that the lock pins
// out of the recipe's repositories, as repositories of their own, one for each
// tag. A repository moves; what is in these is what was chosen when the lock was made, by
// digest, and needs no network once it is in the store.
//
// A lock without such packages for the architecture gets those that the
// repositories have now, and so does one of whose packages one is missing,
// where the options say so.
func (b *builder) pinnedRepositories(ctx context.Context, local apk.Repository, keys apk.Keyring) ([]string, error) {
	pins := b.lock.PackagesOf(b.arch.Apk)
	if len(pins) == 0 || b.repin {
		var err error
		if pins, err = b.pinPackages(ctx, local, keys); err != nil {
			return nil, err
		}
	}
	resolved := slices.Clone(pins)
	byTag := map[string][]lock.Package{}
	for i, p := range pins {
		resolved[i].Repository = b.repositoryAt(p.Repository)
		byTag[p.Tag] = append(byTag[p.Tag], p)
	}
	if b.opts.dryRun {
		if i := slices.IndexFunc(resolved, func(p lock.Package) bool { return !b.store.Has(p.Digest) }); i >= 0 {
			b.miss(fmt.Sprintf("packages %s: %s is not in the store", b.arch.Apk, resolved[i].File()))
			return nil, errDryRun
		}
	}
	if err := b.fetcher.Packages(ctx, resolved); err != nil {
		return nil, err
	}
	var locations []string
	for _, tag := range sortedKeys(byTag) {
		dir, err := b.layOutPinned(ctx, byTag[tag], keys)
		if err != nil {
			return nil, err
		}
		locations = append(locations, tagged(tag, dir))
	}
	return locations, nil
}

// tagged is a location as OpenRepository takes it.
func tagged(tag, location string) string {
	if tag == "" {
		return location
	}
	return "@" + tag + " " + location
}

// pinPackages solves the recipe's packages with what the repositories have now
// and writes those that are from them into the lock.
func (b *builder) pinPackages(ctx context.Context, local apk.Repository, keys apk.Keyring) ([]lock.Package, error) {
	if b.opts.dryRun {
		b.miss(fmt.Sprintf("packages %s: not locked yet", b.arch.Apk))
		return nil, errDryRun
	}
	opts := []apk.RepositoryOption{apk.WithCache(filepath.Join(b.opts.cacheDir, "apk"))}
	if b.opts.offline {
		opts = append(opts, apk.Offline())
	}
	repositories := []apk.Repository{local}
	given := map[string]string{} // where it is, to what the recipe says
	for _, repository := range b.recipe.Repositories {
		tag, location := recipe.SplitTag(repository)
		at := b.repositoryAt(location)
		given[at] = location
		r, err := apk.OpenRepository(ctx, tagged(tag, at), b.arch.Apk, keys, opts...)
		if err != nil {
			return nil, err
		}
		repositories = append(repositories, r)
	}
	selected, err := apk.Solve(ctx, b.recipe.Packages, repositories)
	if err != nil {
		return nil, fmt.Errorf("%s: packages: %w", b.recipe.Path, err)
	}
	var pins []lock.Package
	for _, s := range selected {
		from, ok := given[s.Repository]
		if !ok {
			continue
		}
		p := lock.Package{Name: s.Meta.Name, Version: s.Meta.Version, Arch: b.arch.Apk, Repository: from, Tag: s.Tag}
		if err := b.keepPackage(ctx, s, &p); err != nil {
			return nil, err
		}
		pins = append(pins, p)
	}
	notes := b.comparePins(pins)
	updated := b.lock.Clone()
	updated.DropPackages(b.arch.Apk)
	updated.Packages = append(updated.Packages, pins...)
	if err := b.saveLock(ctx, updated); err != nil {
		return nil, err
	}
	b.repin = false
	b.mu.Lock()
	b.result.Changed = b.lock.Changed()
	b.mu.Unlock()
	b.say("locked %d packages for %s from %s", len(pins), b.arch.Apk, strings.Join(b.recipe.Repositories, ", "))
	for _, n := range notes {
		b.say("%s", n)
	}
	return pins, nil
}

// comparePins holds new pins against those in whose place they come, and marks
// those that the machine replaced by itself. It says which became older, as
// with a mirror that replays an index of long ago, and which were replaced.
func (b *builder) comparePins(pins []lock.Package) (notes []string) {
	previous := map[string]lock.Package{}
	for _, p := range slices.Concat(b.lock.ReleasedOf(b.arch.Apk), b.lock.PackagesOf(b.arch.Apk)) {
		previous[p.Name] = p
	}
	for i, p := range pins {
		old, ok := previous[p.Name]
		if !ok {
			continue
		}
		if b.repin {
			pins[i].Relocked = old.Relocked
			if old.Digest != p.Digest {
				pins[i].Relocked = cmp.Or(old.Relocked, old.Version)
				notes = append(notes, fmt.Sprintf("%s is gone from its repository; locked anew: %s", old.File(), p.Version))
			}
		}
		if apk.CompareVersions(p.Version, old.Version) < 0 {
			notes = append(notes, fmt.Sprintf("%s: %s is older than %s, which was locked: see that %s is what it should be", p.Name, p.Version, old.Version, p.Repository))
		}
	}
	return notes
}

// keepPackage puts a package into the store.
func (b *builder) keepPackage(ctx context.Context, s apk.Selected, p *lock.Package) error {
	path, remove, err := s.File(ctx)
	if err != nil {
		return err
	}
	defer remove()
	f, err := os.Open(path)
	if err != nil {
		return fault.Wrap(fault.Source, err)
	}
	defer f.Close()
	p.Digest, p.Size, err = b.store.Put(ctx, f, "")
	return err
}

// layOutPinned writes the repository. Its index is signed by this machine's
// key; the packages keep their own signatures, which are verified here and
// again when they are installed.
func (b *builder) layOutPinned(ctx context.Context, pins []lock.Package, keys apk.Keyring) (string, error) {
	text, err := json.Marshal(pins)
	if err != nil {
		return "", err
	}
	root := filepath.Join(b.opts.cacheDir, "apk", fmt.Sprintf("pinned-%x", sha256.Sum256(text)))
	dir := filepath.Join(root, b.arch.Apk)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fault.Wrap(fault.Environment, err)
	}
	var metas []apk.Meta
	for _, p := range pins {
		m, err := apk.ReadMeta(b.store.Path(p.Digest), keys.For(b.repositoryAt(p.Repository)))
		if err != nil {
			return "", fmt.Errorf("%s of %s: %w", p.File(), p.Repository, err)
		}
		if m.Name != p.Name || m.Version != p.Version {
			return "", fault.Errorf(fault.Verification, "%s: %s says that it is %s", b.lockPath, p.File(), m.ID())
		}
		metas = append(metas, m)
		path := filepath.Join(root, filepath.FromSlash(p.File()))
		if info, err := os.Stat(path); err == nil && info.Size() == p.Size {
			continue
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fault.Wrap(fault.Environment, err)
		}
		if err := b.export(ctx, p.Digest, path); err != nil {
			return "", err
		}
	}
	var index bytes.Buffer
	if err := apk.WriteIndex(&index, metas, b.key, b.epoch); err != nil {
		return "", err
	}
	return root, atomicfile.Write(filepath.Join(dir, indexFile), index.Bytes(), 0o644)
}
