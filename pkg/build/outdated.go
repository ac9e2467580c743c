package build

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/source"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

// OutdatedResult says which inputs of a lock have newer versions.
type OutdatedResult struct {
	// Lock is the lock's file, "" for none, and Inputs how many it pins.
	Lock   string `json:"lock"`
	Inputs int    `json:"inputs"`
	// Outdated are the inputs of which newer versions are listed, by name.
	Outdated []source.Outdated `json:"outdated"`
	// Notes say what could not be asked.
	Notes []string `json:"notes,omitempty"`
}

// Outdated looks for newer versions of what the lock pins, and changes nothing:
// of sources in the declared suite and series, of the toolchain's packages, of
// Go, and of packages in the recipe's repositories. Finding some is no error.
//
// Errors are those of UpdateLock.
func (b *Builder) Outdated(ctx context.Context) (*OutdatedResult, error) {
	if b.lock == nil {
		return nil, b.noLock()
	}
	declared, err := b.declared()
	if err != nil {
		return nil, err
	}
	outdated, notes, err := b.fetcher.Outdated(ctx, b.lock, declared)
	if err != nil {
		return nil, err
	}
	packages, err := b.outdatedPackages(ctx)
	if err != nil {
		return nil, err
	}
	modules, said, err := b.outdatedModules(ctx)
	if err != nil {
		return nil, err
	}
	r := &OutdatedResult{Lock: b.lock.Path, Inputs: b.lock.Count(), Outdated: slices.Concat(outdated, packages, modules), Notes: append(notes, said...)}
	if r.Outdated == nil {
		r.Outdated = []source.Outdated{} // an empty list in JSON
	}
	slices.SortFunc(r.Outdated, func(a, b source.Outdated) int { return cmp.Compare(a.Name, b.Name) })
	return r, nil
}

// outdatedModules asks for newer versions of the Go modules that the ports'
// own go.mod files name.
func (b *Builder) outdatedModules(ctx context.Context) (all []source.Outdated, notes []string, err error) {
	ports, err := b.recipe.LoadPorts()
	if err != nil {
		return nil, nil, err
	}
	p, err := makePlan(b.recipe, ports, len(b.recipe.Repositories)+len(b.opts.repositories) > 0)
	if err != nil {
		return nil, nil, err
	}
	for _, port := range p.ports {
		dir, onDisk := port.Dir.OnDisk()
		if port.Go == nil || port.Go.Source != "port" || !onDisk {
			continue
		}
		o, said, err := b.fetcher.OutdatedModules(ctx, dir)
		if err != nil {
			return nil, nil, err
		}
		for _, s := range said {
			notes = append(notes, "go modules of "+port.Name+": "+s)
		}
		if len(o.Newer) > 0 {
			o.Name = "go modules of " + port.Name
			all = append(all, o)
		}
	}
	return all, notes, nil
}

// outdatedPackages compares the pins of packages with the indexes that their
// repositories have now.
func (b *Builder) outdatedPackages(ctx context.Context) ([]source.Outdated, error) {
	keys, err := b.keyring()
	if err != nil {
		return nil, err
	}
	var all []source.Outdated
	indexes := map[string]apk.Repository{}
	for _, p := range b.lock.Packages {
		at := b.repositoryAt(p.Repository)
		key := p.Arch + " " + at
		r, ok := indexes[key]
		if !ok {
			if r, err = apk.OpenRepository(ctx, at, p.Arch, keys, apk.WithCache(filepath.Join(b.opts.cacheDir, "apk")), apk.WithClient(b.fetcher.Client())); err != nil {
				return nil, err
			}
			indexes[key] = r
		}
		offers, err := b.newerPackages(ctx, p, at, r)
		if err != nil {
			return nil, err
		}
		if len(offers) > 0 {
			all = append(all, source.Outdated{Name: fmt.Sprintf("%s %s/%s", lock.PackagesName, p.Arch, p.Name), Locked: p.Version, Newer: offers})
		}
	}
	return all, nil
}

// newerPackages are the versions of a package that its repository lists and
// that are newer, newest first, down to the first that can be had.
func (b *Builder) newerPackages(ctx context.Context, p lock.Package, at string, r apk.Repository) ([]source.Offer, error) {
	var newer []apk.Meta
	for _, m := range r.Packages {
		if m.Name == p.Name && apk.CompareVersions(m.Version, p.Version) > 0 {
			newer = append(newer, m)
		}
	}
	slices.SortFunc(newer, func(a, b apk.Meta) int { return apk.CompareVersions(b.Version, a.Version) })
	var offers []source.Offer
	for _, m := range newer {
		o := source.Offer{Version: m.Version, Where: p.Repository}
		there, err := b.fetcher.HasFile(ctx, at, p.Arch+"/"+m.FileName())
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case err != nil:
			o.Why = fmt.Sprintf("listed, but whether it is there could not be asked: %v", err)
		case !there:
			o.Why = "listed, but the repository does not have " + m.FileName()
		default:
			o.Available = true
		}
		offers = append(offers, o)
		if there {
			break
		}
	}
	return offers, nil
}
