package apk

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Selected is a package chosen by Solve.
type Selected struct {
	Meta Meta
	// Repository is where it comes from, as given to OpenRepository.
	Repository string
	// Why is what asked for it first: "world" or a package's ID, and the
	// dependency: "postgresql17-17.12-r0: so:libz.so.1".
	Why string

	src source
}

// candidate is a package of a repository with its dependencies parsed.
type candidate struct {
	*Selected
	depends, provides, installIf []Dependency
	repo                         int // earlier repositories are preferred
}

// version is the one the candidate has under a name; ok is false where it does
// not provide the name. "" is a name without a version.
func (c *candidate) version(name string) (v string, ok bool) {
	if c.Meta.Name == name {
		return c.Meta.Version, true
	}
	for _, p := range c.provides {
		if p.Name == name {
			v, ok = max(v, p.Version), true
		}
	}
	return v, ok
}

// satisfies says whether the candidate is what d speaks of, leaving Conflict
// aside.
func (c *candidate) satisfies(d Dependency) bool {
	if c.Meta.Name == d.Name && d.matches(c.Meta.Version) {
		return true
	}
	for _, p := range c.provides {
		if p.Name == d.Name && d.matches(p.Version) {
			return true
		}
	}
	return false
}

// Solve chooses the packages that world asks for, with everything they need,
// as apk would: the newest version that fits, from the earlier repository
// where versions are equal, one provider for a name. A name that several
// packages provide goes to one that is chosen anyway, then to the highest
// provider_priority; without either the choice is the caller's, and the error
// says between what. Packages whose install_if is met are added. The result
// is in the order of installation: dependencies first.
//
// What cannot be met is an error of class fault.Usage that names the
// dependency, what wants it, and what there is.
func Solve(ctx context.Context, world []string, repos []Repository) ([]Selected, error) {
	wanted, err := parseDependencies("world", world)
	if err != nil {
		return nil, fault.Errorf(fault.Usage, "%w", err)
	}
	u, err := newUniverse(repos)
	if err != nil {
		return nil, err
	}
	chosen, err := u.solve(ctx, wanted)
	if err != nil {
		return nil, err
	}
	// install_if until nothing more comes in. One that conflicts is left out,
	// as apk does.
	left := map[*candidate]bool{}
	for {
		next := u.installIf(chosen, left)
		if next == nil {
			break
		}
		extra := Dependency{Name: next.Meta.Name, Op: "=", Version: next.Meta.Version}
		more, err := u.solve(ctx, append(slices.Clip(wanted), extra))
		if err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			left[next] = true
			continue
		}
		wanted, chosen = append(wanted, extra), more
		chosen[next.Meta.Name].Why = "install_if: " + strings.Join(next.Meta.InstallIf, " ")
	}
	return order(chosen, wanted), nil
}

// universe is every package there is.
type universe struct {
	all       []*candidate
	providers map[string][]*candidate // by name, best first
	repos     []string
}

func newUniverse(repos []Repository) (*universe, error) {
	u := &universe{providers: map[string][]*candidate{}}
	for i, r := range repos {
		u.repos = append(u.repos, r.Location)
		for _, m := range r.Packages {
			c := &candidate{Selected: &Selected{Meta: m, Repository: r.Location, src: r.src}, repo: i}
			var err error
			if c.depends, err = parseDependencies("depends", m.Depends); err == nil {
				if c.provides, err = parseDependencies("provides", m.Provides); err == nil {
					c.installIf, err = parseDependencies("install_if", m.InstallIf)
				}
			}
			if err != nil {
				return nil, fault.Errorf(fault.Source, "repository %s: package %s: %w", r.Location, m.ID(), err)
			}
			u.all = append(u.all, c)
			names := map[string]bool{m.Name: true}
			for _, p := range c.provides {
				names[p.Name] = true
			}
			for name := range names {
				u.providers[name] = append(u.providers[name], c)
			}
		}
	}
	for name, list := range u.providers {
		slices.SortStableFunc(list, func(a, b *candidate) int { return prefer(name, a, b) })
	}
	return u, nil
}

// prefer orders the providers of a name, best first.
func prefer(name string, a, b *candidate) int {
	own := func(c *candidate) int {
		if c.Meta.Name == name {
			return 0
		}
		return 1
	}
	av, _ := a.version(name)
	bv, _ := b.version(name)
	return cmp.Or(
		cmp.Compare(own(a), own(b)),
		cmp.Compare(b.Meta.ProviderPriority, a.Meta.ProviderPriority),
		CompareVersions(bv, av),
		cmp.Compare(a.repo, b.repo),
		strings.Compare(a.Meta.Name, b.Meta.Name),
		CompareVersions(b.Meta.Version, a.Meta.Version),
		strings.Compare(a.Meta.Checksum, b.Meta.Checksum),
	)
}

func (u *universe) installIf(chosen map[string]*candidate, left map[*candidate]bool) *candidate {
	var found []*candidate
	for _, c := range u.all {
		if len(c.installIf) == 0 || chosen[c.Meta.Name] != nil || left[c] {
			continue
		}
		all := true
		for _, d := range c.installIf {
			met := false
			for _, have := range chosen {
				met = met || have.satisfies(d)
			}
			all = all && met != d.Conflict
		}
		if all {
			found = append(found, c)
		}
	}
	slices.SortStableFunc(found, func(a, b *candidate) int {
		return cmp.Or(strings.Compare(a.Meta.Name, b.Meta.Name), prefer(a.Meta.Name, a, b))
	})
	if len(found) == 0 {
		return nil
	}
	return found[0]
}

// order puts dependencies first; within that, the order of world and of each
// package's dependencies. Cycles are broken where they are met.
func order(chosen map[string]*candidate, world []Dependency) []Selected {
	var out []Selected
	seen := map[*candidate]bool{}
	names := make([]string, 0, len(chosen))
	for name := range chosen {
		names = append(names, name)
	}
	slices.Sort(names)
	var visit func(c *candidate)
	want := func(deps []Dependency) {
		for _, d := range deps {
			if d.Conflict {
				continue
			}
			for _, name := range names {
				if chosen[name].satisfies(d) {
					visit(chosen[name])
				}
			}
		}
	}
	visit = func(c *candidate) {
		if seen[c] {
			return
		}
		seen[c] = true
		want(c.depends)
		out = append(out, *c.Selected)
	}
	want(world)
	return out
}

// describe lists what there is of a name, for messages.
func (u *universe) describe(name string) string {
	var have []string
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
