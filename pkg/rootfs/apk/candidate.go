package apk

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// candidate is a package of a repository with its dependencies parsed.
type candidate struct {
	Selected
	depends, provides, installIf []Dependency
	repo                         int // earlier repositories are preferred
	id                           int // in the universe, from 0
}

// version is the one the candidate has under a name; ok is false where it does
// not provide the name. "" is a name without a version.
func (c *candidate) version(name string) (v string, ok bool) {
	if c.Meta.Name == name {
		return c.Meta.Version, true
	}
	for _, p := range c.provides {
		if p.Name == name {
			if ok = true; p.Version != "" {
				return p.Version, true
			}
		}
	}
	return "", ok
}

// satisfies says whether the candidate is what d speaks of, leaving Conflict
// and Tag aside.
func (c *candidate) satisfies(d Dependency) bool {
	if c.Meta.Name == d.Name && (d.Matches(c.Meta.Version) || d.Op == "><" && d.Version == c.Meta.Checksum) {
		return true
	}
	for _, p := range c.provides {
		if p.Name == d.Name && d.Matches(p.Version) {
			return true
		}
	}
	return false
}

// universe is every package there is.
type universe struct {
	count     int
	installIf []*candidate            // those that have one, by name, newest first
	providers map[string][]*candidate // by name, best first
	broken    map[string][]string     // by name, why a package cannot be used
	repos     []string
}

func newUniverse(repos []Repository) *universe {
	u := &universe{providers: map[string][]*candidate{}, broken: map[string][]string{}}
	for i, r := range repos {
		u.repos = append(u.repos, r.Location)
		for _, m := range r.Packages {
			c := &candidate{Selected: Selected{Meta: m, Repository: r.Location, Tag: r.Tag, src: r.src}, repo: i}
			if err := c.parse(r.Arch); err != nil {
				u.broken[m.Name] = append(u.broken[m.Name], fmt.Sprintf("%s in %s cannot be used: %v", m.ID(), r.Location, err))
				continue
			}
			if len(c.installIf) > 0 {
				u.installIf = append(u.installIf, c)
			}
			c.id = u.count
			u.count++
			u.provide(m.Name, c)
			for _, p := range c.provides {
				u.provide(p.Name, c)
			}
		}
	}
	for name, list := range u.providers {
		if len(list) > 1 {
			u.providers[name] = ordered(name, list)
		}
	}
	slices.SortStableFunc(u.installIf, func(a, b *candidate) int {
		return cmp.Or(strings.Compare(a.Meta.Name, b.Meta.Name), CompareVersions(b.Meta.Version, a.Meta.Version), cmp.Compare(a.repo, b.repo))
	})
	return u
}

// alone says whether all providers of a name are versions of one package.
func (u *universe) alone(name string) bool {
	list := u.providers[name]
	for _, c := range list {
		if c.Meta.Name != list[0].Meta.Name {
			return false
		}
	}
	return true
}

// provide adds a provider of a name once: a package's provides are added one
// after the other.
func (u *universe) provide(name string, c *candidate) {
	if list := u.providers[name]; len(list) == 0 || list[len(list)-1] != c {
		u.providers[name] = append(list, c)
	}
}

// parse reads the dependencies; arch is that of the repository.
func (c *candidate) parse(arch string) (err error) {
	m := c.Meta
	if arch != "" && m.Arch != arch && m.Arch != NoArch {
		return fmt.Errorf("it is for %s, not %s", m.Arch, arch)
	}
	if !ValidVersion(m.Version) {
		return fmt.Errorf("%q is not a version", m.Version)
	}
	if c.depends, err = parseDependencies("depends", m.Depends); err != nil {
		return err
	}
	if c.provides, err = parseProvides(m.Provides); err != nil {
		return err
	}
	if c.installIf, err = parseDependencies("install_if", m.InstallIf); err != nil {
		return err
	}
	return c.checkProvides()
}

// checkProvides refuses what stands in its own way: a name with a version has
// one owner, and a package's own name is one.
func (c *candidate) checkProvides() error {
	as := make(map[string]string, len(c.provides))
	for _, p := range c.provides {
		before, twice := as[p.Name]
		switch {
		case p.Name == c.Meta.Name:
			return fmt.Errorf("it provides its own name, %s", p)
		case twice && (before != "" || p.Version != ""):
			return fmt.Errorf("it provides %s twice, %s and %s", p.Name, orNoVersion(before), orNoVersion(p.Version))
		}
		as[p.Name] = p.Version
	}
	return nil
}

func orNoVersion(v string) string {
	if v == "" {
		return "without a version"
	}
	return "as " + v
}

// ordered sorts the providers of a name as apk prefers them: by the version
// they have under that name, then the newest of each package by
// provider_priority, repository and name. A name without a version compares
// with one that has one by provider_priority alone.
func ordered(name string, list []*candidate) []*candidate {
	var versioned, plain []*candidate
	for _, c := range list {
		if v, _ := c.version(name); v != "" {
			versioned = append(versioned, c)
		} else {
			plain = append(plain, c)
		}
	}
	compare := func(a, b *candidate) int {
		av, _ := a.version(name)
		bv, _ := b.version(name)
		return CompareVersions(bv, av)
	}
	slices.SortStableFunc(versioned, compare)
	out := make([]*candidate, 0, len(list))
	for len(versioned) > 0 {
		n := 1
		for n < len(versioned) && compare(versioned[0], versioned[n]) == 0 {
			n++
		}
		out = append(out, byPackage(name, versioned[:n])...)
		versioned = versioned[n:]
	}
	versioned, out = out, nil
	plain = byPackage(name, plain)
	for len(versioned) > 0 && len(plain) > 0 {
		from := &versioned
		if plain[0].Meta.ProviderPriority > versioned[0].Meta.ProviderPriority {
			from = &plain
		}
		out, *from = append(out, (*from)[0]), (*from)[1:]
	}
	return append(append(out, versioned...), plain...)
}

// byPackage sorts providers of a name that only their packages tell apart. Where
// nothing else does, the package that is named so goes first, or like the
// command (vim has cmd:vim, and gvim too), then the one that needs fewer others.
// apk takes the first in the index there, which another build of it changes.
func byPackage(name string, list []*candidate) []*candidate {
	groups := map[string][]*candidate{}
	for _, c := range list {
		groups[c.Meta.Name] = append(groups[c.Meta.Name], c)
	}
	heads := make([][]*candidate, 0, len(groups))
	for _, g := range groups {
		slices.SortFunc(g, func(a, b *candidate) int {
			return cmp.Or(CompareVersions(b.Meta.Version, a.Meta.Version), cmp.Compare(b.Meta.ProviderPriority, a.Meta.ProviderPriority),
				cmp.Compare(a.repo, b.repo), strings.Compare(a.Meta.Checksum, b.Meta.Checksum))
		})
		heads = append(heads, g)
	}
	_, command, _ := strings.Cut(name, ":")
	other := func(c *candidate) int {
		if c.Meta.Name == name || c.Meta.Name == command {
			return 0
		}
		return 1
	}
	slices.SortFunc(heads, func(a, b []*candidate) int {
		return cmp.Or(cmp.Compare(b[0].Meta.ProviderPriority, a[0].Meta.ProviderPriority), cmp.Compare(a[0].repo, b[0].repo),
			cmp.Compare(other(a[0]), other(b[0])), cmp.Compare(len(a[0].depends), len(b[0].depends)), strings.Compare(a[0].Meta.Name, b[0].Meta.Name))
	})
	return slices.Concat(heads...)
}

// describe lists what there is of a name, for messages.
func (u *universe) describe(name string) string {
	have := slices.Clone(u.broken[name])
	for _, c := range u.providers[name] {
		s := c.Meta.ID()
		if v, _ := c.version(name); c.Meta.Name != name {
			s += " (as " + Dependency{Name: name, Op: ifSet(v, "="), Version: v}.String() + ")"
		}
		have = append(have, s+" in "+c.Repository)
	}
	if len(have) > 8 {
		have = append(have[:8], fmt.Sprintf("%d more", len(have)-8))
	}
	if len(have) > 0 {
		return strings.Join(have, ", ")
	}
	var near []string
	for other := range u.providers {
		if len(name) > 2 && (strings.HasPrefix(other, name) || strings.HasPrefix(name, other) && len(other) > 2) {
			near = append(near, other)
		}
	}
	slices.Sort(near)
	if len(near) > 8 {
		near = near[:8]
	}
	if len(near) > 0 {
		return "nothing of that name; near it are " + strings.Join(near, ", ")
	}
	return "nothing of that name in " + orNothing(strings.Join(u.repos, ", "))
}

func ifSet(s, then string) string {
	if s == "" {
		return ""
	}
	return then
}
