package sbom

import (
	"cmp"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/licenses"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Licenses are the files of package licenses that lie beside a bundle.
type Licenses struct {
	List *licenses.List
	// Digest is that of licenses.txt.
	Digest string
	// of are the files of each component, by its ID.
	of map[string][]licenses.File
}

// toolchain begins the package URL of the Go toolchain, which is in no image:
// what is there of it is the module stdlib.
const toolchain = "pkg:golang/toolchain@"

// stdlib is the module that Go's own packages are.
const stdlib = "stdlib"

// LicenseList is the list of what licences are looked for in: sources and
// modules, and packages of which neither is known. The components have no files.
func (b *Bill) LicenseList() licenses.List {
	l := licenses.List{Form: licenses.Form, Bundle: b.Digest, Name: b.Name, Arch: b.Arch, Components: []licenses.Component{}}
	users := map[string][]Component{} // of what holds it or is made of it
	byID, covered := map[string]Component{}, map[string]bool{}
	for _, c := range b.Components {
		byID[c.ID()] = c
		for _, m := range c.MadeOf {
			users[m] = append(users[m], c)
			covered[c.ID()] = covered[c.ID()] || licensed(b.component(m))
		}
	}
	for _, c := range b.Components {
		if c.Kind != KindModule {
			continue
		}
		for _, w := range c.Within {
			users[c.ID()] = append(users[c.ID()], byID[w])
			// Go's own packages say nothing of a program's.
			covered[w] = covered[w] || c.Name != stdlib
		}
	}
	for _, c := range b.Components {
		if !licensed(c) && (c.Kind != KindPackage || covered[c.ID()]) {
			continue
		}
		v := licenses.Component{Kind: string(c.Kind), Name: c.Name, Version: c.Version, Declared: []string{}, Packages: []string{}, Files: []licenses.File{}}
		if c.License != "" {
			v.Declared = append(v.Declared, c.License)
		}
		for _, u := range users[c.ID()] {
			v.Packages = append(v.Packages, u.Name)
			if u.License != "" && c.Kind == KindSource {
				v.Declared = append(v.Declared, u.License)
			}
		}
		v.Declared, v.Packages = unique(v.Declared), unique(v.Packages)
		l.Components = append(l.Components, v)
	}
	return l
}

// licensed says whether licences are looked for in a component itself.
func licensed(c Component) bool {
	return c.Kind == KindModule || c.Kind == KindSource && !strings.HasPrefix(c.PURL, toolchain)
}

func (b *Bill) component(id string) Component {
	i := slices.IndexFunc(b.Components, func(c Component) bool { return c.ID() == id })
	if i < 0 {
		return Component{}
	}
	return b.Components[i]
}

// AddLicenses has the bill name the files, whose licenses.txt has this digest. A
// list that is about something else than this bill is an error of class
// fault.Verification.
func (b *Bill) AddLicenses(l *licenses.List, digest string) error {
	want := b.LicenseList()
	if l.Bundle != want.Bundle || l.Name != want.Name || l.Arch != want.Arch {
		return fault.Errorf(fault.Verification, "%s is about %s for %s, %s", bundle.LicensesFile, l.Name, l.Arch, l.Bundle)
	}
	same := slices.EqualFunc(l.Components, want.Components, func(a, b licenses.Component) bool {
		return a.ID() == b.ID() && slices.Equal(a.Declared, b.Declared) && slices.Equal(a.Packages, b.Packages)
	})
	if !same {
		return fault.Errorf(fault.Verification, "%s has other components than the image, or says something else of them", bundle.LicensesFile)
	}
	b.Licenses = &Licenses{List: l, Digest: digest, of: map[string][]licenses.File{}}
	for _, c := range l.Components {
		b.Licenses.of[c.ID()] = c.Files
	}
	return nil
}

// licenseFiles are those of a component.
func (b *Bill) licenseFiles(c Component) []licenses.File {
	if b.Licenses == nil {
		return nil
	}
	return b.Licenses.of[c.ID()]
}

// licenseComment says of a component which texts are its own.
func licenseComment(files []licenses.File) string {
	var all []string
	for _, f := range files {
		all = append(all, f.Path+" "+cmp.Or(f.Text, "(left out)"))
	}
	if len(all) == 0 {
		return ""
	}
	return "In " + bundle.LicenseTextsFile + ": " + strings.Join(all, ", ")
}

// Stdlib is the ID of the module of Go's own packages that a toolchain
// ("go1.26.8") compiles into programs.
func (b *Bill) Stdlib(toolchain string) string {
	return Component{Kind: KindModule, Name: stdlib, Version: strings.TrimPrefix(toolchain, "go")}.ID()
}
