// Package lock is sovereign.lock: the file beside a recipe that says exactly
// which bytes a build is made from.
//
// Strict JSON comes in and checked values go out, and the other way round
// always the same bytes for the same values. An unknown key, a wrong type or a
// missing value is an error of class fault.Usage that begins with
// file:line:column. The package fetches nothing and chooses nothing: package
// source makes the entries.
package lock

import (
	"cmp"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/store"
)

// Schema is the version of the format this package reads and writes.
const Schema = 1

// Names under which the inputs that are not sources are locked, shown and
// updated.
const (
	ToolchainName = "toolchain"
	GoName        = "go"
	PackagesName  = "packages"
)

// Lock is everything a build is pinned to.
type Lock struct {
	// Schema is 1.
	Schema int `json:"schema"`
	// SourceDate is the time stamp of every artifact, in seconds since 1970,
	// from 1 to 2^33.
	SourceDate int64 `json:"source_date"`
	// Sources are upstream's files and trees, by name.
	Sources   []Source  `json:"sources"`
	Toolchain Toolchain `json:"toolchain"`
	Go        Go        `json:"go"`
	// Packages are the apk packages that come from the recipe's repositories;
	// those of its ports are made of what is locked above.
	Packages []Package `json:"packages,omitempty"`
	// Released are pins of packages that were let go on purpose. No build uses
	// them; the one that locks others in their place compares the versions, so
	// that a repository that went back in time is noticed, and removes them.
	Released []Package `json:"released,omitempty"`

	// Path is the file it was read from, for messages; "" for one made in Go.
	// Not part of the file.
	Path string `json:"-"`
}

// String is the lock's name in messages.
func (l *Lock) String() string { return cmp.Or(l.Path, "the lock") }

// Digest is that of Marshal's text, by which a bundle names the lock it was
// made from.
func (l *Lock) Digest() (store.Digest, error) {
	text, err := l.Marshal()
	if err != nil {
		return "", err
	}
	return store.FromBytes(text), nil
}

// Package is one apk package of a repository.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"` // apk's name: "x86_64" or "aarch64"
	// Repository is the URL or directory, as the recipe gives it, and Tag the
	// tag that stands before it there, without the @.
	Repository string       `json:"repository"`
	Tag        string       `json:"tag,omitempty"`
	Digest     store.Digest `json:"digest"`
	Size       int64        `json:"size"` // bytes
	// Relocked is as that of Source.
	Relocked string `json:"relocked,omitempty"`
}

// File is the package's name in its repository: "x86_64/zlib-1.3.1-r0.apk".
func (p Package) File() string { return p.Arch + "/" + p.Name + "-" + p.Version + ".apk" }

// PackagesOf are the packages of an architecture, by apk's name of it.
func (l *Lock) PackagesOf(arch string) []Package { return packagesOf(l.Packages, arch) }

// ReleasedOf are the released pins of an architecture.
func (l *Lock) ReleasedOf(arch string) []Package { return packagesOf(l.Released, arch) }

func packagesOf(all []Package, arch string) []Package {
	var of []Package
	for _, p := range all {
		if p.Arch == arch {
			of = append(of, p)
		}
	}
	return of
}

// DropPackages removes the pins of an architecture, and those released before.
func (l *Lock) DropPackages(arch string) {
	of := func(p Package) bool { return p.Arch == arch }
	l.Packages = slices.DeleteFunc(l.Packages, of)
	l.Released = slices.DeleteFunc(l.Released, of)
}

// Source is one upstream file.
type Source struct {
	Name string `json:"name"`
	// Version is upstream's, without a packager's additions: "1.3.1".
	Version string `json:"version"`
	// File is the name of the file, without directory.
	File   string       `json:"file"`
	Digest store.Digest `json:"digest"`
	// Size in bytes, from 1 to MaxSize.
	Size int64 `json:"size"`
	// Mirrors are tried in order: "https://…",
	// "debian:SUITE/SOURCE=DEBIANVERSION", the file named File of that source
	// package by the machine's own apt, and the others of ParseMirror. A tree,
	// such as that of a git commit, is a tar that comes out the same wherever
	// it is made.
	Mirrors []string `json:"mirrors"`
	// Relocked is the version this entry replaced when the machine chose a new
	// one by itself, because every mirror had said that it does not have the
	// old one; else "".
	Relocked string `json:"relocked,omitempty"`
}

// Toolchain is the image compile steps run in: exact binary packages of one
// Debian suite.
type Toolchain struct {
	Suite string `json:"suite"`
	// Image is the expected digest of the OCI manifest made of the packages;
	// "" before the image has been made for the first time.
	Image    store.Digest `json:"image,omitempty"`
	Packages []DebPackage `json:"packages"`
	// Relocked is the suite and the number of packages it replaced when the
	// machine chose new versions by itself; else "".
	Relocked string `json:"relocked,omitempty"`
}

// DebPackage is one binary package.
type DebPackage struct {
	Name    string `json:"name"`
	Version string `json:"version"` // Debian's, with epoch
	Arch    string `json:"arch"`    // "amd64" or "all"
	// File is its path in the repository's pool: "pool/main/m/make/make_….deb".
	File   string       `json:"file"`
	Digest store.Digest `json:"digest"`
	Size   int64        `json:"size"` // bytes
}

// Go is the Go toolchain that compiles the image's Go programs.
type Go struct {
	Version string `json:"version"` // "go1.26.8"
	// Modules are the toolchain modules, one for each host they run on.
	Modules []Module `json:"modules"`
	// Relocked is the version this one replaced when the machine chose it by
	// itself; else "".
	Relocked string `json:"relocked,omitempty"`
}

// Module is one module of the Go module proxy.
type Module struct {
	Name    string `json:"name"`    // "golang.org/toolchain"
	Version string `json:"version"` // "v0.0.1-go1.26.8.linux-amd64"
	// Sum is the module's hash as go.sum has it: "h1:…".
	Sum string `json:"sum"`
	// Digest and Size are those of the zip file.
	Digest store.Digest `json:"digest"`
	Size   int64        `json:"size"` // bytes
}

// Source returns the source of that name.
func (l *Lock) Source(name string) (Source, bool) {
	i, ok := slices.BinarySearchFunc(l.Sources, name, func(s Source, n string) int { return strings.Compare(s.Name, n) })
	if !ok {
		// A lock built in memory may not be sorted yet.
		i = slices.IndexFunc(l.Sources, func(s Source) bool { return s.Name == name })
	}
	if i < 0 || i >= len(l.Sources) {
		return Source{}, false
	}
	return l.Sources[i], true
}

// Changed names the inputs that the machine re-locked by itself, sorted: a
// bundle built from them says so. It is nil for a lock as its author wrote it.
func (l *Lock) Changed() []string {
	var names []string
	for _, s := range l.Sources {
		if s.Relocked != "" {
			names = append(names, s.Name)
		}
	}
	if l.Toolchain.Relocked != "" {
		names = append(names, ToolchainName)
	}
	if l.Go.Relocked != "" {
		names = append(names, GoName)
	}
	if slices.ContainsFunc(l.Packages, func(p Package) bool { return p.Relocked != "" }) {
		names = append(names, PackagesName)
	}
	slices.Sort(names)
	return names
}

// Clone is a copy that shares nothing with l.
func (l *Lock) Clone() *Lock {
	c := *l
	c.Sources = slices.Clone(l.Sources)
	for i := range c.Sources {
		c.Sources[i].Mirrors = slices.Clone(c.Sources[i].Mirrors)
	}
	c.Toolchain.Packages = slices.Clone(l.Toolchain.Packages)
	c.Go.Modules = slices.Clone(l.Go.Modules)
	c.Packages = slices.Clone(l.Packages)
	c.Released = slices.Clone(l.Released)
	return &c
}
