package port

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

// Package is one package a port makes, ready to be written.
type Package struct {
	Meta apk.Meta
	Tree *rootfs.Tree
}

// forbidden are paths of p's build step that must not show in any file: they
// would tie an artifact to where it was made. Of /src only what is there: a
// forge's program has that word in the addresses of its pages.
func forbidden(p *recipe.PortFile) []string {
	paths := []string{"/work/", "/sysroot/", "/toolchain/", "/port/"}
	for _, name := range p.Sources {
		paths = append(paths, "/src/"+name)
	}
	return paths
}

// Pack turns what port p's script installed into packages. The version is
// apk's, "1.3.1-r0"; arch is apk's, "x86_64"; epoch is the build date in
// seconds since 1970.
//
// A file that breaks a promise (a thread stack under 2 MiB, a glibc symbol, a
// path of the build) is an error of class fault.Verification that names each
// file; a file that no package takes is one of class fault.Usage.
func Pack(p *recipe.PortFile, version, arch string, tree *rootfs.Tree, epoch int64) ([]Package, error) {
	problems, err := apk.CheckELF(tree, forbidden(p)...)
	if err != nil {
		return nil, err
	}
	if len(problems) > 0 {
		return nil, fault.Wrap(fault.Verification, &UnfitError{p.Name, problems})
	}
	parts, err := split(p, tree)
	if err != nil {
		return nil, err
	}
	var packages []Package
	for _, part := range parts {
		meta, err := describe(p, part, version, arch, epoch)
		if err != nil {
			return nil, err
		}
		packages = append(packages, Package{Meta: meta, Tree: part.tree})
	}
	return packages, nil
}

// UnfitError is the error of a port that installed files which break a promise.
type UnfitError struct {
	Port     string
	Problems []apk.Problem
}

// Error has a line for each file after the first line.
func (e *UnfitError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "port %s: %d files are not fit for an image:", e.Port, len(e.Problems))
	for _, p := range e.Problems {
		b.WriteString("\n  " + p.String())
	}
	return b.String()
}

// Findings are the files, for programs.
func (e *UnfitError) Findings() any { return e.Problems }

// describe makes a package's metadata: what port.yaml says and what its files
// show.
func describe(p *recipe.PortFile, part part, version, arch string, epoch int64) (apk.Meta, error) {
	found, err := apk.Scan(part.tree, arch)
	if err != nil {
		return apk.Meta{}, fmt.Errorf("port %s: package %s: %w", p.Name, part.decl.Name, err)
	}
	expand := func(list []string) []string {
		var out []string
		for _, d := range list {
			out = append(out, strings.ReplaceAll(d, "${version}", version))
		}
		return out
	}
	m := apk.Meta{
		Name:        part.decl.Name,
		Version:     version,
		Arch:        arch,
		Description: part.decl.Summary,
		License:     p.License,
		URL:         p.URL,
		Origin:      p.Name,
		Depends:     append(expand(part.decl.Depends), found.Depends()...),
		Provides:    append(expand(part.decl.Provides), found.Provides(version)...),
		Replaces:    expand(part.decl.Replaces),
		InstallIf:   expand(part.decl.InstallIf),
		BuildDate:   epoch,
	}
	if m.Description == "" {
		m.Description = p.Summary
	}
	for _, list := range []*[]string{&m.Depends, &m.Provides} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	return m, nil
}
