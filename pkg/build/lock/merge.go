package lock

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
)

// merge makes one lock of two that began as base, nil for no lock: a part
// that one of them changed is taken from that one. It also returns the parts
// that both changed, each otherwise, in words: "zlib (1.3.2; here 1.3.1)".
func merge(base, ours, theirs *Lock) (*Lock, []string) {
	m := merging{merged: theirs.Clone()}
	if base == nil {
		base = &Lock{Schema: theirs.Schema, SourceDate: ours.SourceDate, Toolchain: Toolchain{Packages: []DebPackage{}}, Go: Go{Modules: []Module{}}}
	}
	if m.ours("the source date", base.SourceDate, ours.SourceDate, theirs.SourceDate, fmt.Sprint(theirs.SourceDate), fmt.Sprint(ours.SourceDate)) {
		m.merged.SourceDate = ours.SourceDate
	}
	m.sources(base, ours, theirs)
	if m.ours(ToolchainName, base.Toolchain, ours.Toolchain, theirs.Toolchain, theirs.Toolchain.Suite, ours.Toolchain.Suite) {
		m.merged.Toolchain = ours.Toolchain
	}
	if m.ours(GoName, base.Go, ours.Go, theirs.Go, theirs.Go.Version, ours.Go.Version) {
		m.merged.Go = ours.Go
	}
	m.packages(base, ours, theirs)
	return m.merged, m.conflicts
}

type merging struct {
	merged    *Lock
	conflicts []string
}

// ours says whether a part has to be taken from our lock, and notes a
// conflict. There and here are the part's two values for people.
func (m *merging) ours(name string, base, ours, theirs any, there, here string) bool {
	switch {
	case reflect.DeepEqual(ours, base), reflect.DeepEqual(ours, theirs):
		return false
	case reflect.DeepEqual(theirs, base):
		return true
	}
	if there != here {
		name = fmt.Sprintf("%s (%s; here %s)", name, cmp.Or(there, "none"), cmp.Or(here, "none"))
	}
	m.conflicts = append(m.conflicts, name)
	return false
}

func (m *merging) sources(base, ours, theirs *Lock) {
	names := map[string]bool{}
	for _, l := range []*Lock{base, ours, theirs} {
		for _, s := range l.Sources {
			names[s.Name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		// An absent one is a Source without values, which no lock can hold.
		b, _ := base.Source(name)
		o, here := ours.Source(name)
		t, _ := theirs.Source(name)
		if !m.ours(name, b, o, t, t.Version, o.Version) {
			continue
		}
		m.merged.Sources = slices.DeleteFunc(m.merged.Sources, func(s Source) bool { return s.Name == name })
		if here {
			m.merged.Sources = append(m.merged.Sources, o)
		}
	}
	m.merged.sort()
}

// packages merges the pins of each architecture: they were chosen together.
func (m *merging) packages(base, ours, theirs *Lock) {
	archs := map[string]bool{}
	for _, l := range []*Lock{base, ours, theirs} {
		for _, p := range slices.Concat(l.Packages, l.Released) {
			archs[p.Arch] = true
		}
	}
	type pins struct{ Packages, Released []Package }
	of := func(l *Lock, arch string) pins { return pins{l.PackagesOf(arch), l.ReleasedOf(arch)} }
	for _, arch := range slices.Sorted(maps.Keys(archs)) {
		o := of(ours, arch)
		if m.ours("packages of "+arch, of(base, arch), o, of(theirs, arch), "", "") {
			m.merged.DropPackages(arch)
			m.merged.Packages = append(m.merged.Packages, o.Packages...)
			m.merged.Released = append(m.merged.Released, o.Released...)
		}
	}
	m.merged.sort()
}
