package apko

import (
	"context"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

// The rules that apk-package(5) and apk-world(5) give for a set of packages.
// What breaks one is wrong whatever chose it.
const (
	unmet      = "a dependency is not met"
	conflict   = "a package is there that another refuses with !"
	twoOwners  = "two packages have the same versioned name: such a name has a single possible owner"
	unneeded   = "a package is there that nothing asks for"
	leftOut    = "install_if is met and the package is not there"
	virtual    = "a name without version is provided by a package without provider_priority that was not asked for by its own name"
	notNewest  = "an older version is there, although the newest would do"
	notHighest = "a provider is there, although one with a higher version or provider_priority would do"
	notFirst   = "a provider is there, although its equal in an earlier repository would do"
)

type judge struct {
	solver    *apk.Solver
	all       []*judged
	providers map[string][]*judged
	byID      map[string]*judged
}

type judged struct {
	apk.Meta
	depends, installIf []apk.Dependency
	provides           []apk.Dependency // its own name first
	repo               int
}

func newJudge(repos []apk.Repository) *judge {
	j := &judge{solver: apk.NewSolver(repos), providers: map[string][]*judged{}, byID: map[string]*judged{}}
	for i, r := range repos {
		for _, m := range r.Packages {
			p := &judged{Meta: m, repo: i, provides: []apk.Dependency{{Name: m.Name, Version: m.Version}}}
			parse := func(words []string) (out []apk.Dependency) {
				for _, w := range words {
					d, err := apk.ParseDependency(w)
					if err != nil {
						d = apk.Dependency{}
						d.Name, d.Version, _ = strings.Cut(w, "=")
					}
					out = append(out, d)
				}
				return out
			}
			p.depends, p.installIf = parse(m.Depends), parse(m.InstallIf)
			p.provides = append(p.provides, parse(m.Provides)...)
			if j.byID[m.ID()] != nil {
				continue
			}
			j.byID[m.ID()] = p
			j.all = append(j.all, p)
			for _, name := range p.provides {
				if list := j.providers[name.Name]; len(list) == 0 || list[len(list)-1] != p {
					j.providers[name.Name] = append(list, p)
				}
			}
		}
	}
	return j
}

func (p *judged) satisfies(d apk.Dependency) bool {
	return slices.ContainsFunc(p.provides, func(x apk.Dependency) bool { return x.Name == d.Name && d.Matches(x.Version) })
}

func (p *judged) version(name string) string {
	for _, x := range p.provides {
		if x.Name == name {
			return x.Version
		}
	}
	return ""
}

// rules returns those that a set of packages, by ID, breaks, with an example
// of each.
func (j *judge) rules(ctx context.Context, world []string, ids []string) map[string]string {
	broken := map[string]string{}
	set := map[string]*judged{}
	for _, id := range ids {
		set[id] = j.byID[id]
	}
	in := func(d apk.Dependency) (out []*judged) {
		for _, p := range j.providers[d.Name] {
			if set[p.ID()] == p && p.satisfies(d) {
				out = append(out, p)
			}
		}
		return out
	}
	// Everything reached from world, and the needs on the way.
	var needs []apk.Dependency
	reached := map[*judged]bool{}
	var visit func(deps []apk.Dependency, by *judged)
	reach := func(p *judged) {
		if !reached[p] {
			reached[p] = true
			visit(p.depends, p)
		}
	}
	visit = func(deps []apk.Dependency, by *judged) {
		for _, d := range deps {
			have := in(d)
			if d.Conflict {
				if have = slices.DeleteFunc(have, func(p *judged) bool { return p == by }); len(have) > 0 {
					broken[conflict] = have[0].ID() + " and " + d.String()
				}
				continue
			}
			if len(have) == 0 {
				broken[unmet] = d.String()
			}
			needs = append(needs, d)
			for _, p := range have {
				reach(p)
			}
		}
	}
	for _, w := range world {
		d, _ := apk.ParseDependency(w)
		visit([]apk.Dependency{d}, nil)
	}
	met := func(p *judged) bool {
		return len(p.installIf) > 0 && !slices.ContainsFunc(p.installIf, func(d apk.Dependency) bool { return (len(in(d)) > 0) == d.Conflict })
	}
	triggered := map[*judged]bool{}
	for again := true; again; {
		again = false
		for _, p := range set {
			if !reached[p] && met(p) {
				again, triggered[p] = true, true
				reach(p)
			}
		}
	}
	names := map[string]bool{}
	for _, p := range set {
		names[p.Name] = true
		if !reached[p] {
			broken[unneeded] = p.ID()
		}
	}
	for _, p := range set {
		for _, x := range p.provides {
			for _, other := range j.providers[x.Name] {
				if other != p && set[other.ID()] == other && (x.Version != "" || other.version(x.Name) != "") {
					broken[twoOwners] = x.Name
				}
			}
		}
	}
	could := func(p *judged) bool {
		_, err := j.solver.Solve(ctx, append(slices.Clone(world), p.Name+"="+p.Version))
		return err == nil
	}
	for _, p := range j.all {
		if broken[leftOut] == "" && !names[p.Name] && met(p) && could(p) {
			broken[leftOut] = p.ID()
		}
	}
	// A package is well chosen if there is a need that it meets best.
	for _, p := range set {
		if triggered[p] {
			continue
		}
		var better *judged
		rule := ""
		for _, d := range needs {
			if !p.satisfies(d) {
				continue
			}
			if better, rule = j.better(p, d, names, could); better == nil && rule == "" {
				break
			}
		}
		switch {
		case rule == virtual:
			broken[virtual] = p.ID()
		case better != nil:
			broken[rule] = p.ID() + ", not " + better.ID()
		}
	}
	return broken
}

// better returns a package that meets d better than p and could be had, and
// the rule that p breaks.
func (j *judge) better(p *judged, d apk.Dependency, names map[string]bool, could func(*judged) bool) (*judged, string) {
	v := p.version(d.Name)
	others := false
	for _, q := range j.providers[d.Name] {
		// Another version of what is there anyway would mean giving that up.
		if q == p || !q.satisfies(d) || q.Name != p.Name && names[q.Name] {
			continue
		}
		w := q.version(d.Name)
		rule := notHighest
		switch {
		case q.Name == p.Name:
			if rule = notNewest; apk.CompareVersions(q.Version, p.Version) <= 0 {
				continue
			}
		case v != "" && w != "" && apk.CompareVersions(v, w) != 0:
			if others = true; apk.CompareVersions(w, v) < 0 {
				continue
			}
		default:
			if others = true; q.ProviderPriority < p.ProviderPriority || q.ProviderPriority == p.ProviderPriority && (v == "" || w == "" || q.repo >= p.repo) {
				continue
			}
			if q.ProviderPriority == p.ProviderPriority {
				rule = notFirst
			}
		}
		if could(q) {
			return q, rule
		}
	}
	if v == "" && p.ProviderPriority == 0 && others {
		return nil, virtual
	}
	return nil, ""
}
