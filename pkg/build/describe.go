package build

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/build/attest"
	"github.com/sovereign-build/sovereign/pkg/build/licenses"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/sbom"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// describe writes beside the bundle's files how it was made and what is in it.
// The bill of materials is made of the bundle and the provenance alone: where
// both are as they were, so is it, unless another version's program made it.
func (b *Builder) describe(ctx context.Context, plan *portPlan, root *builtRoot) error {
	dir := b.result.Bundle
	in, err := b.internalParameters(plan, root)
	if err != nil {
		return err
	}
	offer, m, err := bundle.Offer(dir)
	if err != nil {
		return err
	}
	text, err := attest.NewProvenance(m, offer.Manifest, in).Marshal()
	if err != nil {
		return err
	}
	changed, err := writeChanged(filepath.Join(dir, bundle.ProvenanceFile), text)
	// Licences are a step of which others may want what it makes.
	if err != nil || !changed && current(dir) && b.opts.cachePush == nil {
		return err
	}
	return b.writeBill(ctx, plan, dir)
}

// writeBill writes what is in the bundle in dir, in both formats.
func (b *Builder) writeBill(ctx context.Context, plan *portPlan, dir string) error {
	bill, err := sbom.Contents(ctx, dir)
	if err != nil {
		return err
	}
	if err := b.license(ctx, plan, bill); err != nil {
		return err
	}
	files, err := bill.Files()
	if err != nil {
		return err
	}
	for _, f := range files {
		if _, err := writeChanged(filepath.Join(dir, f.Name), f.Text); err != nil {
			return err
		}
	}
	return nil
}

// current says whether the bills and the licences are there, of this program's
// forms.
func current(dir string) bool {
	for name, good := range map[string]func([]byte) bool{
		bundle.SPDXFile:         func(text []byte) bool { return sbom.FormOf(text) == sbom.Form },
		bundle.CycloneDXFile:    func(text []byte) bool { return sbom.FormOf(text) == sbom.Form },
		bundle.LicensesFile:     func(text []byte) bool { return licenses.FormOf(text) == licenses.Form },
		bundle.LicenseTextsFile: func([]byte) bool { return true },
	} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !good(text) {
			return false
		}
	}
	return true
}

// writeChanged writes a file unless it is so already.
func writeChanged(path string, text []byte) (bool, error) {
	have, err := os.ReadFile(path)
	if err == nil && bytes.Equal(have, text) {
		return false, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fault.Wrap(fault.Environment, err)
	}
	return true, atomicfile.Write(path, text, 0o644)
}

// internalParameters are what the recipe and the lock say of how the bundle is
// made, as far as it is in it.
func (b *Builder) internalParameters(plan *portPlan, root *builtRoot) (attest.Internal, error) {
	in := attest.Internal{Lock: *b.lock.Clone(), Kernel: attest.Kernel{Source: b.recipe.Kernel.Source}}
	for to, names := range map[*[]attest.InputFile][]string{
		&in.Kernel.Patches:   b.recipe.Kernel.Patches,
		&in.Kernel.Fragments: b.recipe.Fragments(b.arch.Go),
	} {
		for _, name := range names {
			text, err := b.recipe.Resolve(name).ReadFile(maxRecipeFile)
			if err != nil {
				return in, fault.Errorf(fault.Usage, "%s: %w", b.name(), err)
			}
			*to = append(*to, attest.InputFile{Name: filepath.ToSlash(filepath.Clean(name)), Digest: store.FromBytes(text)})
		}
	}
	installed := map[string]bool{}
	for _, p := range root.Packages {
		installed[p.Name] = true
	}
	for _, p := range plan.ports {
		v, err := b.describePort(p, installed)
		if err != nil {
			return in, err
		}
		if len(v.Packages) > 0 {
			in.Ports = append(in.Ports, v)
		}
	}
	slices.SortFunc(in.Ports, func(x, y attest.Port) int { return strings.Compare(x.Name, y.Name) })
	return in, nil
}

// maxRecipeFile bounds a patch or a fragment, in bytes.
const maxRecipeFile = 16 << 20

func (b *Builder) describePort(p *recipe.PortFile, installed map[string]bool) (attest.Port, error) {
	version, err := b.portVersion(p)
	if err != nil {
		return attest.Port{}, err
	}
	v := attest.Port{Name: p.Name, Version: version, License: p.License, URL: p.URL, Sources: slices.Clone(p.Sources), Go: p.Go != nil}
	for _, pkg := range p.Packages {
		if installed[pkg.Name] {
			v.Packages = append(v.Packages, pkg.Name)
		}
	}
	slices.Sort(v.Packages)
	return v, nil
}
