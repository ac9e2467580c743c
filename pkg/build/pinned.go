package build

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

// repositoryAt is where a repository of the recipe is: a URL as it stands, a
// directory below the recipe's.
func (b *Builder) repositoryAt(location string) string {
	if strings.Contains(location, "://") || filepath.IsAbs(location) {
		return location
	}
	return b.recipe.Resolve(location).String()
}

// ofRecipe says whether the recipe still has the repository of a pin.
func (b *Builder) ofRecipe(p lock.Package) bool {
	return slices.ContainsFunc(b.recipe.Repositories, func(r string) bool {
		tag, location := recipe.SplitTag(r)
		return tag == p.Tag && location == p.Repository
	})
}

// pinnedRepositories are repositories of just the packages that the lock pins
// out of the recipe's, one for each tag. A repository moves; what is in these
// is what was chosen when the lock was made, by digest, and needs no network
// once it is in the store, which the packages are read from.
//
// A lock without such packages for the architecture gets those that the
// repositories have now, and so does one of whose packages one is missing,
// where the options say so.
func (b *Builder) pinnedRepositories(ctx context.Context, local apk.Repository, keys apk.Keyring) ([]apk.Repository, error) {
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
	if b.planning {
		if i := slices.IndexFunc(resolved, func(p lock.Package) bool { return !b.store.Has(p.Digest) }); i >= 0 {
			b.miss("packages "+b.arch.Apk, resolved[i].File()+" is not in the store", false)
			return nil, errPlanned
		}
	}
	if err := b.fetcher.Packages(ctx, resolved); err != nil {
		return nil, err
	}
	var repositories []apk.Repository
	for _, tag := range sortedKeys(byTag) {
		r, err := b.pinnedRepository(tag, byTag[tag], keys)
		if err != nil {
			return nil, err
		}
		repositories = append(repositories, r)
	}
	return repositories, nil
}

// tagged is a location as OpenRepository takes it.
func tagged(tag, location string) string {
	if tag == "" {
		return location
	}
	return "@" + tag + " " + location
}

// pinPackages solves the recipe's packages with what the repositories have now
// and locks those that are from them.
func (b *Builder) pinPackages(ctx context.Context, local apk.Repository, keys apk.Keyring) ([]lock.Package, error) {
	if b.planning {
		b.miss("packages "+b.arch.Apk, "not locked yet", false)
		return nil, errPlanned
	}
	if err := b.frozen("the packages for " + b.arch.Apk + " are not locked"); err != nil {
		return nil, err
	}
	opts := []apk.RepositoryOption{apk.WithCache(filepath.Join(b.opts.cacheDir, "apk")), apk.WithClient(b.fetcher.Client())}
	if b.opts.offline {
		opts = append(opts, apk.Offline())
	}
	repositories := []apk.Repository{local}
	given := map[string]string{} // where it is, to what the recipe says
	for _, repository := range b.recipe.Repositories {
		tag, location := recipe.SplitTag(repository)
		at := b.repositoryAt(location)
		if at != location && b.recipe.FS != nil {
			return nil, fault.Errorf(fault.Usage, "%s: repository %s is a directory of a recipe that is not on this machine's disk", b.name(), location).
				Hintf("give its URL or its absolute path")
		}
		given[at] = location
		r, err := apk.OpenRepository(ctx, tagged(tag, at), b.arch.Apk, keys, opts...)
		if err != nil {
			return nil, err
		}
		repositories = append(repositories, r)
	}
	selected, err := apk.Solve(ctx, b.recipe.Packages, repositories)
	if err != nil {
		return nil, fmt.Errorf("%s: packages: %w", b.name(), err)
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
	if err := b.relockTo(updated); err != nil {
		return nil, err
	}
	b.repin = false
	b.mu.Lock()
	b.result.Changed = b.lock.Changed()
	b.mu.Unlock()
	b.tell(PackagesLocked{len(pins), b.arch.Apk, b.recipe.Repositories})
	for _, n := range notes {
		b.tell(LockRemark{n})
	}
	return pins, nil
}

// comparePins holds new pins against those in whose place they come, and marks
// those that the machine replaced by itself. It says which became older, as
// with a mirror that replays an index of long ago, and which were replaced.
func (b *Builder) comparePins(pins []lock.Package) (notes []string) {
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
func (b *Builder) keepPackage(ctx context.Context, s apk.Selected, p *lock.Package) error {
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

// pinnedRepository is a repository of pinned packages, each verified by the keys
// of the repository it was chosen from.
func (b *Builder) pinnedRepository(tag string, pins []lock.Package, keys apk.Keyring) (apk.Repository, error) {
	var metas []apk.Meta
	files := map[string]store.Digest{}
	for _, p := range pins {
		m, err := apk.ReadMeta(b.store.Path(p.Digest), keys.For(b.repositoryAt(p.Repository)))
		if err != nil {
			return apk.Repository{}, fmt.Errorf("%s of %s: %w", p.File(), p.Repository, err)
		}
		if m.Name != p.Name || m.Version != p.Version {
			return apk.Repository{}, fault.Errorf(fault.Verification, "%s: %s says that it is %s", b.lock, p.File(), m.ID())
		}
		metas = append(metas, m)
		files[m.ID()] = p.Digest
	}
	return apk.NewRepository("the lock", tag, b.arch.Apk, metas, b.packageFile(files)), nil
}

// packageFile finds packages in the store, given their digests by ID.
func (b *Builder) packageFile(digests map[string]store.Digest) func(apk.Meta) (string, error) {
	return func(m apk.Meta) (string, error) {
		d, ok := digests[m.ID()]
		if !ok {
			return "", fault.Errorf(fault.Internal, "package %s is not among those in the store", m.ID())
		}
		return b.store.Path(d), nil
	}
}
