package apk

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// maxSteps bounds the search; a real world of 200 packages takes about as many.
const maxSteps = 200_000

// need is a dependency with the package that has it; nil is the world.
type need struct {
	Dependency
	by *candidate
}

func (n need) source() string {
	if n.by == nil {
		return "world"
	}
	return n.by.Meta.ID()
}

// search is one run of the solver: depth first, needs that one package alone
// can meet before those with a choice of packages, and back to the latest
// decision that had to do with a failure.
type search struct {
	ctx    context.Context
	u      *universe
	chosen map[string]*candidate // by package name
	level  []int                 // by candidate: when it was chosen, from 1; 0 is not
	why    map[*candidate]string // who wanted it first
	tags   map[*candidate][]string
	pins   map[*candidate]string // the tag that world names it with
	needs  needs
	world  []Dependency
	added  []*candidate // by install_if, in order
	steps  int
	// again are the steps of searches that were begun anew for an install_if.
	again int
	// failure is the one met with the most packages chosen: what people can
	// do something about.
	failure *fault.Error
	depth   int
}

// needs are what is to be met. A copy of the value is a point to go back to.
type needs struct {
	refused []need // conflicts
	simple  []need // one package alone can meet these; those before met are met
	met     int
	choice  []need // several can
}

func newSearch(ctx context.Context, u *universe, world []Dependency) *search {
	s := &search{ctx: ctx, u: u, chosen: map[string]*candidate{}, level: make([]int, u.count), why: map[*candidate]string{},
		tags: map[*candidate][]string{}, pins: map[*candidate]string{}, world: world, depth: -1}
	for _, d := range world {
		s.want(d, nil)
		for _, c := range u.providers[d.Name] {
			if !d.Conflict && c.satisfies(d) && (d.Tag != "" || s.pins[c] == "") {
				s.pins[c] = d.Tag
			}
		}
	}
	return s
}

func (s *search) want(d Dependency, by *candidate) {
	list := &s.needs.choice
	if d.Conflict {
		list = &s.needs.refused
	} else if s.u.alone(d.Name) {
		list = &s.needs.simple
	}
	*list = append(*list, need{d, by})
}

// levelOf is when a package was chosen; the world's level is 0.
func (s *search) levelOf(c *candidate) int {
	if c == nil {
		return 0
	}
	return s.level[c.id]
}

// fail records why a need cannot be met.
func (s *search) fail(hint, format string, args ...any) {
	if len(s.chosen) > s.depth {
		s.depth, s.failure = len(s.chosen), fault.Errorf(fault.Usage, format, args...).Hintf("%s", hint)
	}
}

// run meets all needs. Where it cannot, blame are the levels of the decisions
// that have to do with it, and everything is as it was.
func (s *search) run() (ok bool, blame map[int]bool, err error) {
	if err := s.ctx.Err(); err != nil {
		return false, nil, err
	}
	if s.steps++; s.steps > maxSteps {
		return false, nil, fault.Errorf(fault.Usage, "packages: no solution in %d steps", maxSteps).Hintf("name versions or providers of some packages to narrow the choice")
	}
	n, options, blame := s.next()
	if n == nil {
		return true, nil, nil
	}
	if len(options) == 0 {
		return false, blame, nil
	}
	options, names := automatic(n.Name, options)
	if len(options) == 0 {
		s.fail("add one of "+strings.Join(names, ", ")+" to the recipe's packages",
			"packages: %s, wanted by %s, is provided by %s; none of them is preferred", n, n.source(), strings.Join(names, " and "))
		return false, blame, nil
	}
	mine, need, before := len(s.chosen)+1, *n, s.needs
	for _, c := range options {
		s.choose(c, need, mine)
		ok, why, err := s.run()
		if ok || err != nil {
			return ok, nil, err
		}
		delete(s.chosen, c.Meta.Name)
		delete(s.tags, c)
		s.level[c.id] = 0
		s.needs = before
		if !why[mine] {
			return false, why, nil // another choice here changes nothing
		}
		for l := range why {
			if l != mine {
				blame[l] = true
			}
		}
	}
	return false, blame, nil
}

// choose takes a package for a need.
func (s *search) choose(c *candidate, n need, level int) {
	s.chosen[c.Meta.Name], s.level[c.id] = c, level
	s.why[c] = n.source() + ": " + n.String()
	if n.by != nil && len(s.tags[n.by]) > 0 {
		s.tags[c] = slices.Clone(s.tags[n.by])
	}
	if tag := s.pins[c]; tag != "" {
		s.tags[c] = append(s.tags[c], tag)
	}
	for _, d := range c.depends {
		s.want(d, c)
	}
}

// next finds an unmet need and its options: the first that one package alone
// can meet, or that with the fewest packages. No option means a failure, whose
// causes are in blame; nil means that all needs are met.
func (s *search) next() (best *need, options []*candidate, blame map[int]bool) {
	for ; s.needs.met < len(s.needs.simple); s.needs.met++ {
		n := &s.needs.simple[s.needs.met]
		if s.hit(n.Dependency, nil) == nil {
			options, blame = s.options(n)
			return n, options, blame
		}
	}
	rank := 0
	for i := range s.needs.choice {
		n := &s.needs.choice[i]
		if s.hit(n.Dependency, nil) != nil {
			continue
		}
		fits, why := s.options(n)
		if r := len(packageNames(fits)); best == nil || r < rank {
			best, options, blame, rank = n, fits, why, r
		}
		if rank == 0 {
			break
		}
	}
	return best, options, blame
}

// hit returns a chosen package that a dependency speaks of, except one.
func (s *search) hit(d Dependency, except *candidate) *candidate {
	for _, c := range s.u.providers[d.Name] {
		if s.level[c.id] != 0 && c != except && c.satisfies(d) {
			return c
		}
	}
	return nil
}

// options are the packages that meet a need and go with what is chosen, those
// of the preferred repositories first. blame are the levels that excluded the
// others. Having none is recorded as a failure.
func (s *search) options(n *need) (fits []*candidate, blame map[int]bool) {
	blame = map[int]bool{s.levelOf(n.by): true}
	var others []*candidate
	var reasons []string
	reason := func(c *candidate, format string, args ...any) {
		if len(fits) == 0 && len(reasons) < 6 {
			reasons = append(reasons, c.Meta.ID()+" in "+c.Repository+" "+fmt.Sprintf(format, args...))
		}
	}
	for _, c := range s.u.providers[n.Name] {
		if !c.satisfies(n.Dependency) {
			v, _ := c.version(n.Name)
			reason(c, "provides %s as %s", n.Name, cmp.Or(v, "no version"))
			continue
		}
		if c.Tag != "" && s.pins[c] != c.Tag && (n.by == nil || !slices.Contains(s.tags[n.by], c.Tag)) {
			reason(c, "is for those only who ask for @%s", c.Tag)
			continue
		}
		if other, clash := s.clash(c); clash != nil {
			blame[s.levelOf(other)] = true
			reason(c, "%s", clash())
			continue
		}
		if c.Tag == s.pins[c] {
			fits = append(fits, c)
		} else {
			others = append(others, c)
		}
	}
	if fits = append(fits, others...); len(fits) == 0 {
		text := s.u.describe(n.Name)
		if len(reasons) > 0 {
			broken := s.u.broken[n.Name]
			text = strings.Join(append(reasons, broken[:min(len(broken), 2)]...), "; ")
		}
		s.fail("change the recipe's packages, or add a repository or port that has it",
			"packages: %s, wanted by %s, cannot be had: %s", n, s.chain(*n), text)
	}
	return fits, blame
}

// clash returns a chosen package that c cannot be installed with, nil for the
// world itself, and what says so; that is nil where nothing is against c.
func (s *search) clash(c *candidate) (*candidate, func() string) {
	if other := s.chosen[c.Meta.Name]; other != nil {
		return other, func() string {
			return "is not the version chosen already: " + other.Meta.ID() + ", wanted by " + s.why[other]
		}
	}
	// A name with a version has one provider.
	taken := func(name, version string) *candidate {
		for _, other := range s.u.providers[name] {
			if s.level[other.id] == 0 {
				continue
			}
			if v, _ := other.version(name); v != "" || version != "" {
				return other
			}
		}
		return nil
	}
	name, other := c.Meta.Name, taken(c.Meta.Name, c.Meta.Version)
	for i := 0; other == nil && i < len(c.provides); i++ {
		name, other = c.provides[i].Name, taken(c.provides[i].Name, c.provides[i].Version)
	}
	if other != nil {
		return other, func() string {
			return "provides " + name + ", and so does " + other.Meta.ID() + ", wanted by " + s.why[other]
		}
	}
	for _, n := range s.needs.refused {
		if n.by != c && c.satisfies(n.Dependency) {
			return n.by, func() string { return "is refused by " + n.source() + " (" + n.String() + ")" }
		}
	}
	for _, d := range c.depends {
		if !d.Conflict {
			continue
		}
		if other := s.hit(d, c); other != nil {
			return other, func() string {
				return "refuses " + other.Meta.ID() + " (" + d.String() + "), wanted by " + s.why[other]
			}
		}
	}
	return nil, nil
}

// chain is what led to a need: "icu-libs-76.1-r0 < postgresql17-17.12-r0 < world".
func (s *search) chain(n need) string {
	var parts []string
	for by := n.by; by != nil && len(parts) < 10; {
		parts = append(parts, by.Meta.ID())
		parent, _, _ := strings.Cut(s.why[by], ":")
		by = nil
		for _, c := range s.chosen {
			if c.Meta.ID() == parent {
				by = c
			}
		}
	}
	return strings.Join(append(parts, "world"), " < ")
}

func packageNames(list []*candidate) []string {
	var names []string
	for _, c := range list {
		if !slices.Contains(names, c.Meta.Name) {
			names = append(names, c.Meta.Name)
		}
	}
	return names
}

// automatic returns the options that may be taken without being asked for by
// their own names: those with the name itself, with a version of it, or with a
// provider_priority; or else the only package there is. Without any, names are
// the packages between which the caller has to choose.
func automatic(name string, options []*candidate) (ok []*candidate, names []string) {
	for _, c := range options {
		if v, _ := c.version(name); v != "" || c.Meta.ProviderPriority != 0 {
			ok = append(ok, c)
		}
	}
	if len(ok) == 0 {
		if names = packageNames(options); len(names) == 1 {
			return options, nil
		}
		slices.Sort(names)
	}
	return ok, names
}
