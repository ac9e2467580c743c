package sbom

import (
	"bytes"
	"cmp"
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/attest"
	"github.com/sovereign-build/sovereign/pkg/build/disk"
	"github.com/sovereign-build/sovereign/pkg/build/licenses"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
	"github.com/sovereign-build/sovereign/pkg/rootfs/erofs"
)

// Bill is what is in a bundle.
type Bill struct {
	Name, Arch string
	Digest     string // of the bundle's manifest
	SourceDate int64  // seconds since 1970
	// Components are sorted by kind, name and version.
	Components []Component
	// Licenses are the texts that lie beside the bundle, nil where there are none.
	Licenses *Licenses
	manifest *bundle.Manifest
}

// Kind is what a component is.
type Kind string

// Kinds of components.
const (
	KindKernel  Kind = "kernel"
	KindPackage Kind = "package"
	KindModule  Kind = "module" // of Go
	KindSource  Kind = "source" // that packages or the kernel are made of
	KindPatch   Kind = "patch"
)

// Component is one thing in a bundle, or that something in it was made of.
type Component struct {
	Kind    Kind
	Name    string
	Version string
	License string // SPDX expression, "" where nobody says
	URL     string // its home
	// From is where it can be had, and Digest its SHA-256 in hex digits; empty
	// for what is made here.
	From, Digest string
	PURL, CPE    string
	// Go is a module's sum, "h1:…".
	Go string
	// MadeOf are the IDs of components that it was made of, and Within those of
	// what holds it, sorted.
	MadeOf, Within []string
}

// ID names a component in a bill.
func (c Component) ID() string { return string(c.Kind) + "-" + c.Name + "-" + c.Version }

// Collect reads the bundle in dir, which must have been verified, its provenance
// and the licences beside it. Errors are of class fault.Verification where these
// do not agree, and fault.Usage for a bundle without a provenance.
func Collect(ctx context.Context, dir string) (*Bill, error) {
	b, err := Contents(ctx, dir)
	if err != nil {
		return nil, err
	}
	list, digest, err := licenses.Read(dir)
	if err != nil || list == nil {
		return b, err
	}
	return b, b.AddLicenses(list, digest)
}

// Contents is Collect without the licences, for whoever is about to write them.
func Contents(ctx context.Context, dir string) (*Bill, error) {
	p, err := attest.ReadProvenance(dir)
	if err != nil {
		return nil, err
	}
	m, err := bundle.Load(dir)
	if err != nil {
		return nil, err
	}
	b := &Bill{Name: m.Name, Arch: m.Arch, SourceDate: m.SourceDate, manifest: m}
	if b.Digest, err = bundle.Digest(dir); err != nil {
		return nil, err
	}
	c := &collector{bill: b, in: p.Predicate.BuildDefinition.InternalParameters, at: map[string]*Component{}}
	root, _ := m.Artifact(bundle.RoleRoot)
	if err := c.root(ctx, filepath.Join(dir, root.File)); err != nil {
		return nil, fault.Errorf(fault.Verification, "%s: %w", root.File, err)
	}
	c.kernel()
	for _, id := range slices.Sorted(maps.Keys(c.at)) {
		v := *c.at[id]
		v.MadeOf, v.Within = unique(v.MadeOf), unique(v.Within)
		b.Components = append(b.Components, v)
	}
	slices.SortFunc(b.Components, func(x, y Component) int {
		return cmp.Or(cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.Name, y.Name), cmp.Compare(x.Version, y.Version))
	})
	return b, nil
}

func unique(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return slices.Compact(s)
}

type collector struct {
	bill *Bill
	in   attest.Internal
	at   map[string]*Component
}

// add returns the component, which may be there already.
func (c *collector) add(v Component) *Component {
	id := v.ID()
	if c.at[id] == nil {
		c.at[id] = &v
	}
	return c.at[id]
}

// root reads the root file system: its database of packages, and the programs
// that Go made.
func (c *collector) root(ctx context.Context, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	defer f.Close()
	d, err := disk.Read(f)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(d.Partitions, func(p disk.Partition) bool { return p.Label == "root" })
	if i < 0 {
		return errors.New("it has no partition with the label root")
	}
	image, ok := d.Partitions[i].Content.(io.ReaderAt)
	if !ok {
		return fmt.Errorf("partition root is a %T", d.Partitions[i].Content)
	}
	tree, err := erofs.Read(ctx, image)
	if err != nil {
		return err
	}
	return c.tree(ctx, tree)
}

func (c *collector) tree(ctx context.Context, tree *rootfs.Tree) error {
	installed, err := apk.ReadDatabase(tree)
	if err != nil {
		return err
	}
	if err := c.agree(installed); err != nil {
		return err
	}
	ports := map[string]attest.Port{}
	for _, p := range c.in.Ports {
		for _, name := range p.Packages {
			ports[name] = p
		}
	}
	owner := map[string]*Component{}
	for _, p := range installed {
		v := Component{Kind: KindPackage, Name: p.Meta.Name, Version: p.Meta.Version, License: p.Meta.License, URL: p.Meta.URL,
			PURL: "pkg:apk/" + c.namespace(p.Meta.Name) + "/" + purlPart(p.Meta.Name) + "@" + purlPart(p.Meta.Version) + "?arch=" + p.Meta.Arch}
		port, fromSource := ports[p.Meta.Name]
		if fromSource {
			for _, name := range port.Sources {
				if s, ok := c.source(name); ok {
					v.MadeOf = append(v.MadeOf, s.ID())
					v.CPE = cmp.Or(v.CPE, s.CPE)
				}
			}
			if _, known := cpeNames[port.Name]; known && v.CPE == "" {
				v.CPE = cpe("a", port.Name, strings.Split(p.Meta.Version, "-r")[0])
			}
			if port.Go {
				v.MadeOf = append(v.MadeOf, c.goToolchain().ID())
			}
		} else {
			v.CPE = cpe("a", p.Meta.Origin, strings.Split(p.Meta.Version, "-r")[0])
			v.From, v.Digest = c.locked(p)
		}
		at := c.add(v)
		for _, f := range p.Paths {
			if !f.Dir {
				owner[f.Path] = at
			}
		}
	}
	for e := range tree.All() {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if e.IsRegular() && e.Hard == "" && e.Mode&0o111 != 0 && e.Size > 1<<16 {
			if err := c.program(e, owner[e.Path]); err != nil {
				return fmt.Errorf("%s: %w", e.Path, err)
			}
		}
	}
	return nil
}

// agree holds the packages in the image to those that the manifest names.
func (c *collector) agree(installed []apk.Installed) error {
	have := map[string]string{}
	for _, p := range installed {
		have[p.Meta.Name] = p.Meta.Version
	}
	for _, p := range c.bill.manifest.Packages {
		if have[p.Name] != p.Version {
			return fmt.Errorf("the manifest says that %s %s is installed, and the image has %q", p.Name, p.Version, have[p.Name])
		}
		delete(have, p.Name)
	}
	for name := range have {
		return fmt.Errorf("the image has a package %s, which the manifest does not name", name)
	}
	return nil
}

// namespace is the distribution that a package is of.
func (c *collector) namespace(name string) string {
	for _, p := range c.in.Ports {
		if slices.Contains(p.Packages, name) {
			return "sovereign"
		}
	}
	return "alpine"
}

// locked is where a package of a repository came from.
func (c *collector) locked(p apk.Installed) (from, digest string) {
	for _, l := range c.in.Lock.Packages {
		if l.Name == p.Meta.Name && l.Version == p.Meta.Version && (l.Arch == p.Meta.Arch || p.Meta.Arch == apk.NoArch) {
			return strings.TrimSuffix(l.Repository, "/") + "/" + l.File(), strings.TrimPrefix(string(l.Digest), "sha256:")
		}
	}
	return "", ""
}

// source is the component of a locked source.
func (c *collector) source(name string) (*Component, bool) {
	s, ok := c.in.Lock.Source(name)
	if !ok {
		return nil, false
	}
	return c.add(sourceComponent(s)), true
}

func sourceComponent(s lock.Source) Component {
	uri := attest.SourceURI(s)
	v := Component{Kind: KindSource, Name: s.Name, Version: s.Version, From: uri, Digest: strings.TrimPrefix(string(s.Digest), "sha256:"),
		CPE: cpe("a", s.Name, s.Version)}
	if strings.HasPrefix(uri, "pkg:") {
		v.PURL, v.From = uri, ""
	} else {
		v.PURL = "pkg:generic/" + purlPart(s.Name) + "@" + purlPart(s.Version) + "?download_url=" + purlValue(uri)
	}
	return v
}

// goToolchain is the component of what compiles Go programs.
func (c *collector) goToolchain() *Component {
	g := c.in.Lock.Go
	v := Component{Kind: KindSource, Name: "go", Version: strings.TrimPrefix(g.Version, "go"), License: "BSD-3-Clause",
		PURL: toolchain + purlPart(g.Version), CPE: cpe("a", "go", strings.TrimPrefix(g.Version, "go"))}
	// One zip for each machine that builds: the first by name stands for all.
	if len(g.Modules) > 0 {
		v.Digest = strings.TrimPrefix(string(g.Modules[0].Digest), "sha256:")
	}
	return c.add(v)
}

// program adds the modules of a program that Go made.
func (c *collector) program(e rootfs.Entry, owner *Component) error {
	r, err := e.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	at, ok := r.(io.ReaderAt)
	if !ok {
		text, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		at = bytes.NewReader(text)
	}
	info, err := buildinfo.Read(at)
	if err != nil {
		return nil // no program of Go's
	}
	var within []string
	if owner != nil {
		within = []string{owner.ID()}
	}
	modules := []struct{ path, version, sum string }{{stdlib, strings.TrimPrefix(strings.Fields(info.GoVersion + " ")[0], "go"), ""}}
	for _, d := range info.Deps {
		if d.Replace != nil {
			d = d.Replace
		}
		modules = append(modules, struct{ path, version, sum string }{d.Path, d.Version, d.Sum})
	}
	for _, m := range modules {
		v := c.add(Component{Kind: KindModule, Name: m.path, Version: m.version, Go: m.sum, PURL: "pkg:golang/" + purlPath(m.path) + "@" + purlPart(m.version)})
		if m.path == stdlib {
			v.License, v.CPE = "BSD-3-Clause", cpe("a", "go", m.version)
		}
		v.Within = append(v.Within, within...)
	}
	return nil
}

// kernel adds the kernel, with its patches.
func (c *collector) kernel() {
	s, ok := c.in.Lock.Source(c.in.Kernel.Source)
	if !ok {
		return
	}
	image, _ := c.bill.manifest.Artifact(bundle.RoleKernel)
	source := c.add(sourceComponent(s))
	source.CPE = cpe("o", "linux", s.Version)
	k := Component{Kind: KindKernel, Name: "linux", Version: s.Version, License: "GPL-2.0-only WITH Linux-syscall-note", URL: "https://www.kernel.org/",
		Digest: strings.TrimPrefix(image.Digest, "sha256:"), PURL: "pkg:generic/linux@" + purlPart(s.Version), CPE: source.CPE, MadeOf: []string{source.ID()}}
	for _, kind := range [][]attest.InputFile{c.in.Kernel.Patches, c.in.Kernel.Fragments} {
		for _, f := range kind {
			v := c.add(Component{Kind: KindPatch, Name: path.Base(f.Name), Digest: strings.TrimPrefix(string(f.Digest), "sha256:")})
			k.MadeOf = append(k.MadeOf, v.ID())
		}
	}
	c.add(k)
}
