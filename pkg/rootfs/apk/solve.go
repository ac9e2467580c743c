package apk

import (
	"context"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Selected is a package chosen by Solve.
type Selected struct {
	Meta Meta
	// Repository is where it comes from, as given to OpenRepository.
	Repository string
	// Tag is the repository's, empty for one that has none.
	Tag string
	// Why is what asked for it first: "world" or a package's ID, and the
	// dependency: "postgresql17-17.12-r0: so:libz.so.1".
	Why string

	src source
}

// Solver answers for fixed repositories; one is safe for concurrent use. For a
// single world Solve does.
type Solver struct {
	u    *universe
	tags map[string]bool
}

// NewSolver reads the dependencies of every package of the repositories, which
// takes about 10 microseconds a package. Earlier repositories are preferred.
func NewSolver(repos []Repository) *Solver {
	s := &Solver{newUniverse(repos), map[string]bool{}}
	for _, r := range repos {
		s.tags[r.Tag] = true
	}
	return s
}

// Solve is NewSolver(repos).Solve(ctx, world).
func Solve(ctx context.Context, world []string, repos []Repository) ([]Selected, error) {
	return NewSolver(repos).Solve(ctx, world)
}

// Solve chooses the packages that world asks for, with everything they need,
// as apk would:
//
//   - The newest version that fits, from the earlier repository where versions
//     are equal.
//   - One provider for a name. A name with a version goes to the highest; one
//     without goes to a package that is chosen anyway, then to the highest
//     provider_priority; without either the choice is the caller's, and the
//     error says between what. If there is only one it is taken, where apk
//     would have it named in world.
//   - A name that a package has with a version (its own is one) is that
//     package's alone.
//   - A repository with a tag serves only what world asks for with that tag
//     ("name@edge", which prefers it to other repositories and newer versions)
//     and what those packages need.
//   - Packages whose install_if is met are added, unless they cannot be. What
//     they need goes before choices that are open otherwise, but not before a
//     package that world names.
//   - A package that provides its own name, or one name with two versions, is
//     not used: nothing can be beside itself.
//
// Unlike apk it goes back on a choice that turns out to be impossible. The
// result is in the order of installation: dependencies first.
//
// What cannot be met is an error of class fault.Usage that names the
// dependency, what wants it, and what there is.
func (s *Solver) Solve(ctx context.Context, world []string) ([]Selected, error) {
	wanted, err := parseDependencies("world", world)
	if err != nil {
		return nil, fault.Errorf(fault.Usage, "%w", err)
	}
	for _, d := range wanted {
		if !s.tags[d.Tag] && d.Tag != "" {
			return nil, fault.Errorf(fault.Usage, "packages: %s: no repository has the tag @%s", d, d.Tag).
				Hintf("give it as %q to the repository's location", "@"+d.Tag+" URL")
		}
	}
	run := newSearch(ctx, s.u, wanted)
	if err := run.solve(); err != nil {
		return nil, err
	}
	return run.order(wanted), nil
}

// order puts dependencies first; within that, the order of world and of each
// package's dependencies, then those of install_if. Cycles are broken where
// they are met.
func (s *search) order(world []Dependency) []Selected {
	var out []Selected
	seen := map[*candidate]bool{}
	var visit func(c *candidate)
	want := func(deps []Dependency) {
		for _, d := range deps {
			if d.Conflict {
				continue
			}
			for _, c := range s.u.providers[d.Name] {
				if s.chosen[c.Meta.Name] == c && c.satisfies(d) {
					visit(c)
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
		out = append(out, c.Selected)
		out[len(out)-1].Why = s.why[c]
	}
	want(world)
	for _, c := range s.added {
		visit(c)
	}
	return out
}
