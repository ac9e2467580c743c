// Package port turns what a port's build script installed into apk packages:
// it splits the tree by the patterns of port.yaml, proves what the project
// promises of every executable, finds the dependencies that can be found, and
// describes each package.
//
// A tree and a port come in; package trees with their metadata go out. It
// compiles nothing and writes no file: pkg/build runs the script and keeps the
// packages.
package port

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// part is one package's share of the installed tree.
type part struct {
	decl recipe.PortPackage
	tree *rootfs.Tree
}

// split gives every entry of tree to the first package with a pattern for it.
// Directories follow the files below them; an empty one needs a pattern. An
// entry that nothing takes is an error, so that a new upstream file is seen
// rather than lost, and so is a package that takes nothing.
func split(p *recipe.PortFile, tree *rootfs.Tree) ([]part, error) {
	parts := make([]part, len(p.Packages))
	for i, decl := range p.Packages {
		for _, pattern := range decl.Files {
			if !doublestar.ValidatePattern(pattern) {
				return nil, fault.Errorf(fault.Usage, "%s: package %s: pattern %q is not valid", p.Path, decl.Name, pattern)
			}
		}
		parts[i] = part{decl: decl, tree: rootfs.New()}
	}

	owner := map[string]int{}
	var stray []string
	var links []rootfs.Entry
	for e := range tree.All() {
		i := slices.IndexFunc(p.Packages, func(d recipe.PortPackage) bool { return matches(d.Files, e.Path) })
		switch {
		case e.Hard != "":
			links = append(links, e)
			continue
		case i < 0 && e.Mode.IsDir():
			continue
		case i < 0:
			stray = append(stray, e.Path)
			continue
		}
		e, err := withOwner(p, parts[i].decl, e)
		if err != nil {
			return nil, err
		}
		owner[e.Path] = i
		if err := addWithParents(parts[i].tree, tree, e); err != nil {
			return nil, err
		}
	}
	// A hard link only means something beside its target, so it goes where
	// the target went.
	for _, e := range links {
		i, ok := owner[e.Hard]
		if !ok {
			stray = append(stray, e.Path)
			continue
		}
		if err := addWithParents(parts[i].tree, tree, e); err != nil {
			return nil, err
		}
	}
	if len(stray) > 0 {
		const most = 5
		more := ""
		if len(stray) > most {
			more = fmt.Sprintf(" and %d more", len(stray)-most)
			stray = stray[:most]
		}
		return nil, fault.Errorf(fault.Usage, "%s: no package takes %s%s", p.Path, strings.Join(stray, ", "), more).
			Hintf("add a pattern to files: of one of its packages, or remove the files in build.sh")
	}
	for _, part := range parts {
		if part.tree.Len() == 0 {
			return nil, fault.Errorf(fault.Usage, "%s: package %s takes no file; its patterns are %s", p.Path, part.decl.Name, strings.Join(part.decl.Files, ", "))
		}
	}
	return parts, nil
}

// matches reports whether one of the patterns takes path. The patterns are
// valid, so Match gives no error.
func matches(patterns []string, path string) bool {
	for _, pattern := range patterns {
		if ok, err := doublestar.Match(pattern, path); ok && err == nil {
			return true
		}
	}
	return false
}

// addWithParents adds e and, with the modes the script gave them, the
// directories above it.
func addWithParents(dst, src *rootfs.Tree, e rootfs.Entry) error {
	for i := range e.Path {
		if e.Path[i] != '/' {
			continue
		}
		dir := e.Path[:i]
		if _, ok := dst.Lookup(dir); ok {
			continue
		}
		d, ok := src.Lookup(dir)
		if !ok {
			return fault.Errorf(fault.Internal, "%s has no parent directory in its tree", e.Path)
		}
		if err := dst.Set(d); err != nil {
			return err
		}
	}
	return dst.Set(e)
}

// withOwner applies the package's owners: table. Two patterns that take the same
// entry have to agree, as a table has no order.
func withOwner(p *recipe.PortFile, d recipe.PortPackage, e rootfs.Entry) (rootfs.Entry, error) {
	first := ""
	for _, pattern := range slices.Sorted(maps.Keys(d.Owners)) {
		if !matches([]string{pattern}, e.Path) {
			continue
		}
		owner := d.Owners[pattern]
		if first != "" && d.Owners[first] != owner {
			return e, fault.Errorf(fault.Usage, "%s: package %s: %s has two owners, %s by %q and %s by %q", p.Path, d.Name, e.Path, d.Owners[first], first, owner, pattern).
				Hintf("write owners: so that at most one of its patterns takes a file")
		}
		first = pattern
		u, g, ok := strings.Cut(owner, ":")
		uid, err1 := strconv.ParseUint(u, 10, 32)
		gid, err2 := strconv.ParseUint(g, 10, 32)
		if !ok || err1 != nil || err2 != nil {
			return e, fault.Errorf(fault.Usage, "%s: package %s: owner %q of %q is not uid:gid", p.Path, d.Name, owner, pattern)
		}
		e.UID, e.GID = uint32(uid), uint32(gid)
	}
	return e, nil
}
