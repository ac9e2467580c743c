package build

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/sovereign-build/sovereign/pkg/build/licenses"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/sbom"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// licenseTexts is what is found in one archive, as JSON, among a step's outputs.
const licenseTexts = "texts"

// license writes the licences of what the bill lists into the bundle's
// directory, and their names into the bill.
//
// They are of the sources, which a build that finds every step done does not
// need. Where one can not be had, the bundle goes without: it is no worse, and
// an event says why.
func (b *Builder) license(ctx context.Context, plan *portPlan, bill *sbom.Bill) error {
	dir := b.result.Bundle
	found, err := b.findLicenses(ctx, plan, bill)
	if err != nil && fault.ClassOf(err) == fault.Source && ctx.Err() == nil {
		b.tell(LicensesLeftOut{err})
		for _, name := range []string{bundle.LicensesFile, bundle.LicenseTextsFile} {
			if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fault.Wrap(fault.Environment, err)
			}
		}
		return nil
	}
	if err != nil {
		return err
	}
	list, text, err := licenses.Make(bill.LicenseList(), func(c licenses.Component) []licenses.Found { return found[c.ID()] })
	if err != nil {
		return err
	}
	index, err := list.Marshal()
	if err != nil {
		return err
	}
	// The list comes last, as it is what says that both are there.
	if _, err := writeChanged(filepath.Join(dir, bundle.LicenseTextsFile), text); err != nil {
		return err
	}
	if _, err := writeChanged(filepath.Join(dir, bundle.LicensesFile), index); err != nil {
		return err
	}
	return bill.AddLicenses(list, store.FromBytes(text).String())
}

// findLicenses looks into the sources of the bill's components, by their IDs.
// All that is found is one output, so that a build whose steps were made by
// others asks for it once and fetches no source.
func (b *Builder) findLicenses(ctx context.Context, plan *portPlan, bill *sbom.Bill) (map[string][]licenses.Found, error) {
	var parts []licensePart
	in := inputs{"format": licenses.FindFormat}
	add := func(p licensePart, err error) error {
		if err == nil {
			in[p.name] = p.in["source"]
			parts = append(parts, p)
		}
		return err
	}
	for _, c := range bill.Components {
		if c.Kind != sbom.KindSource {
			continue
		}
		if _, ok := b.lock.Source(c.Name); !ok {
			continue // the Go toolchain, which follows
		}
		if err := add(b.licensesOfSource(c)); err != nil {
			return nil, err
		}
	}
	goPorts := false
	for _, p := range plan.ports {
		if p.Go == nil {
			continue
		}
		goPorts = true
		if err := add(b.licensesOfModules(ctx, p)); err != nil {
			return nil, err
		}
	}
	if goPorts {
		if err := add(b.licensesOfGo(bill)); err != nil {
			return nil, err
		}
	}
	out, err := b.cached(ctx, "licenses "+b.recipe.Name, in, stepShared, func(ctx context.Context) (outputs, error) {
		all := map[string][]licenses.Found{}
		for _, p := range parts {
			found, err := b.licensesOf(ctx, p)
			if err != nil {
				return nil, err
			}
			for _, f := range found {
				id := p.id
				if f.Module != "" {
					id = f.Module
					f.Module = ""
				}
				// Two programs may have a module in common.
				if !slices.ContainsFunc(all[id], func(v licenses.Found) bool { return v.Path == f.Path }) {
					all[id] = append(all[id], f)
				}
			}
		}
		return b.keepTexts(ctx, all)
	})
	if err != nil {
		return nil, err
	}
	var all map[string][]licenses.Found
	if err := b.readTexts(out, &all); err != nil {
		return nil, err
	}
	// The modules of programs are named as go.sum does.
	for _, c := range bill.Components {
		if c.Kind == sbom.KindModule && all[c.ID()] == nil {
			all[c.ID()] = all[c.Name+"@"+c.Version]
		}
	}
	return all, nil
}

// licensePart is one archive to look into.
type licensePart struct {
	name string // of the step
	id   string // of the component that what is found is of, unless it has a module
	in   inputs
	find func(ctx context.Context) ([]licenses.Found, error)
}

// licensesOf looks into one archive, once.
func (b *Builder) licensesOf(ctx context.Context, p licensePart) ([]licenses.Found, error) {
	out, err := b.cached(ctx, p.name, p.in, stepOwn, func(ctx context.Context) (outputs, error) {
		found, err := p.find(ctx)
		if err != nil {
			return nil, err
		}
		return b.keepTexts(ctx, found)
	})
	if err != nil {
		return nil, err
	}
	var found []licenses.Found
	return found, b.readTexts(out, &found)
}

func (b *Builder) keepTexts(ctx context.Context, v any) (outputs, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	d, _, err := b.store.Put(ctx, bytes.NewReader(text), "")
	return outputs{licenseTexts: d}, err
}

// readTexts reads what keepTexts kept. Another machine may have made it.
func (b *Builder) readTexts(out outputs, v any) error {
	text, err := readBlob(b.store, out[licenseTexts])
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fault.Errorf(fault.Verification, "the licences of %s: %w", b.name(), err)
	}
	return nil
}

// withFile opens a blob of the store.
func (b *Builder) withFile(d store.Digest, find func(*os.File) ([]licenses.Found, error)) ([]licenses.Found, error) {
	f, err := os.Open(b.store.Path(d))
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	defer f.Close() // only read
	return find(f)
}

func (b *Builder) licensesOfSource(c sbom.Component) (licensePart, error) {
	s, _ := b.lock.Source(c.Name)
	return licensePart{
		name: "licenses of " + c.Name, id: c.ID(),
		in: inputs{"format": licenses.FindFormat, "source": s.Digest.String()},
		find: func(ctx context.Context) ([]licenses.Found, error) {
			if err := b.fetchSources(ctx, []string{s.Name}); err != nil {
				return nil, err
			}
			return b.withFile(s.Digest, func(f *os.File) ([]licenses.Found, error) { return licenses.InSource(ctx, f) })
		},
	}, nil
}

// licensesOfModules looks into the modules of a port.
func (b *Builder) licensesOfModules(ctx context.Context, p *recipe.PortFile) (licensePart, error) {
	g, err := b.goInputs(ctx, p)
	if err != nil {
		return licensePart{}, err
	}
	source := g.source
	if !g.guestSource {
		if source, err = b.dirTar(ctx, p.Dir); err != nil {
			return licensePart{}, err
		}
	}
	return licensePart{
		name: "licenses of the modules of " + p.Name,
		in:   inputs{"format": licenses.FindFormat, "source": source.String()},
		find: func(ctx context.Context) ([]licenses.Found, error) {
			modules, err := g.modules(ctx)
			if err != nil {
				return nil, err
			}
			return b.withFile(modules, func(f *os.File) ([]licenses.Found, error) { return licenses.InGoModules(ctx, f) })
		},
	}, nil
}

// licensesOfGo looks into the Go toolchain, for the module of Go's own packages.
func (b *Builder) licensesOfGo(bill *sbom.Bill) (licensePart, error) {
	sum, err := goToolchainSum(b.lock)
	if err != nil {
		return licensePart{}, err
	}
	p := licensePart{
		name: "licenses of go",
		in:   inputs{"format": licenses.FindFormat, "source": sum},
		find: func(ctx context.Context) ([]licenses.Found, error) {
			archive, err := b.fetcher.GoToolchain(ctx, b.lock.Go)
			if err != nil {
				return nil, err
			}
			return b.withFile(archive, func(f *os.File) ([]licenses.Found, error) { return licenses.InGoToolchain(ctx, f) })
		},
	}
	p.id = bill.Stdlib(b.lock.Go.Version)
	return p, nil
}
