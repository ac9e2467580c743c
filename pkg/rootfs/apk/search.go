package apk

import (
	"context"
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

// search is one run of the solver: depth first, the need with the fewest
// choices next, and back to the latest decision that had to do with a failure.
type search struct {
	ctx    context.Context
	u      *universe
	chosen map[string]*candidate // by package name
	level  map[*candidate]int    // when it was chosen, from 1; 0 is the world
	why    map[*candidate]string // who wanted it first
	tags   map[*candidate][]string
	pins   map[*candidate]string // the tag that world names it with
	needs  []need
	added  []*candidate // by install_if, in order
	steps  int
	// failure is the one met with the most packages chosen: what people can
	// do something about.
	failure *fault.Error
	depth   int
}

func newSearch(ctx context.Context, u *universe, world []Dependency) *search {
	s := &search{ctx: ctx, u: u, chosen: map[string]*candidate{}, level: map[*candidate]int{}, why: map[*candidate]string{},
		tags: map[*candidate][]string{}, pins: map[*candidate]string{}, depth: -1}
	for _, d := range world {
		s.needs = append(s.needs, need{d, nil})
		for _, c := range u.providers[d.Name] {
			if !d.Conflict && c.satisfies(d) && (d.Tag != "" || s.pins[c] == "") {
				s.pins[c] = d.Tag
			}
		}
	}
	return s
}

// solve meets the world's needs, then adds what install_if asks for until
// nothing more comes in. A package that cannot be added is left out.
func (s *search) solve() error {
	ok, _, err := s.run()
	if err != nil {
		return err
	}
	if !ok {
		return s.failure
	}
	left := map[*candidate]bool{}
	for {
		c := s.nextInstallIf(left)
		if c == nil {
			return nil
		}
		left[c] = true
		before := len(s.needs)
		s.needs = append(s.needs, need{Dependency{Name: c.Meta.Name, Op: "=", Version: c.Meta.Version}, nil})
		ok, _, err := s.run()
		if err != nil {
			return err
		}
		if have := s.chosen[c.Meta.Name]; ok && have != nil {
			s.why[have] = "install_if: " + strings.Join(c.Meta.InstallIf, " ")
			s.added = append(s.added, have)
		} else {
			s.needs = s.needs[:before]
		}
	}
}

// nextInstallIf returns the first package, by name and newest first, whose
// install_if is met and that was not tried.
func (s *search) nextInstallIf(left map[*candidate]bool) *candidate {
	for _, c := range s.u.all {
		if s.chosen[c.Meta.Name] != nil || left[c] || c.Tag != "" && !slices.ContainsFunc(c.installIf, func(d Dependency) bool {
			have := s.hit(d, nil)
			return have != nil && slices.Contains(s.tags[have], c.Tag)
		}) {
			continue
		}
		if !slices.ContainsFunc(c.installIf, func(d Dependency) bool { return (s.hit(d, nil) != nil) == d.Conflict }) {
			return c
		}
	}
	return nil
}

// fail records why a need cannot be met.
func (s *search) fail(format string, args ...any) *fault.Error {
	err := fault.Errorf(fault.Usage, format, args...)
	if len(s.chosen) > s.depth {
		s.depth, s.failure = len(s.chosen), err
	}
	return err
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
		s.fail("packages: %s, wanted by %s, is provided by %s; none of them is preferred", n, n.source(), strings.Join(names, " and ")).
			Hintf("add one of %s to the recipe's packages", strings.Join(names, ", "))
		return false, blame, nil
	}
	mine := len(s.chosen) + 1
	need := *n // the slice it is in may move
	for _, c := range options {
		before := len(s.needs)
		s.choose(c, need, mine)
		ok, why, err := s.run()
		if ok || err != nil {
			return ok, nil, err
		}
		delete(s.chosen, c.Meta.Name)
		delete(s.level, c)
		delete(s.tags, c)
		s.needs = s.needs[:before]
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
	s.chosen[c.Meta.Name], s.level[c] = c, level
	s.why[c] = n.source() + ": " + n.String()
	if n.by != nil {
		s.tags[c] = slices.Clone(s.tags[n.by])
	}
	if tag := s.pins[c]; tag != "" {
		s.tags[c] = append(s.tags[c], tag)
	}
	for _, d := range c.depends {
		s.needs = append(s.needs, need{d, c})
	}
}

// next finds the unmet need with the fewest options, the earliest of those,
// and its options. No option means a failure, whose causes are in blame; nil
// means that all needs are met.
func (s *search) next() (best *need, options []*candidate, blame map[int]bool) {
	rank := 1 << 30
	for i := range s.needs {
		n := &s.needs[i]
		if n.Conflict {
			if c := s.hit(n.Dependency, n.by); c != nil {
				s.fail("packages: %s, wanted by %s, must not be installed with %s, wanted by %s", c.Meta.ID(), s.why[c], n.source(), n.String()).
					Hintf("take one of the two out of the recipe's packages")
				return n, nil, map[int]bool{s.level[n.by]: true, s.level[c]: true}
			}
			continue
		}
		if s.hit(n.Dependency, nil) != nil {
			continue
		}
		fits, why, reasons := s.options(n)
		if len(fits) == 0 {
			text := s.u.describe(n.Name)
			if len(reasons) > 0 {
				text = strings.Join(reasons, "; ")
			}
			s.fail("packages: %s, wanted by %s, cannot be had: %s", n, s.chain(*n), text).
				Hintf("change the recipe's packages, or add a repository or port that has it")
			return n, nil, why
		}
		names := len(packageNames(fits))
		if r := names<<16 + min(len(fits), 1<<16-1); names > 1 && r < rank || names == 1 && 1<<16 < rank {
			if names == 1 {
				r = 1 << 16
			}
			best, options, blame, rank = n, fits, why, r
		}
	}
	return best, options, blame
}

// hit returns a chosen package that a dependency speaks of, except one.
func (s *search) hit(d Dependency, except *candidate) *candidate {
	for _, c := range s.u.providers[d.Name] {
		if s.chosen[c.Meta.Name] == c && c != except && c.satisfies(d) {
			return c
		}
	}
	return nil
}

// options are the packages that meet a need and go with what is chosen, those
// of the preferred repositories first. blame are the levels that excluded the
// others, reasons say it in words.
func (s *search) options(n *need) (fits []*candidate, blame map[int]bool, reasons []string) {
	blame = map[int]bool{s.level[n.by]: true}
	reason := func(c *candidate, text string) {
		if len(reasons) < 6 {
			reasons = append(reasons, c.Meta.ID()+" in "+c.Repository+" "+text)
		}
	}
	var others []*candidate
	for _, c := range s.u.providers[n.Name] {
		if !c.satisfies(n.Dependency) {
			v, _ := c.version(n.Name)
			if v == "" {
				v = "no version"
			}
			reason(c, "provides "+n.Name+" as "+v)
			continue
		}
		if c.Tag != "" && s.pins[c] != c.Tag && (n.by == nil || !slices.Contains(s.tags[n.by], c.Tag)) {
			reason(c, "is for those only who ask for @"+c.Tag)
			continue
		}
		if other, why := s.clash(c); other != nil {
			blame[s.level[other]] = true
			reason(c, why)
			continue
		}
		if c.Tag == s.pins[c] {
			fits = append(fits, c)
		} else {
			others = append(others, c)
		}
	}
	return append(fits, others...), blame, reasons
}

// clash returns a chosen package that c cannot be installed with.
func (s *search) clash(c *candidate) (*candidate, string) {
	if other := s.chosen[c.Meta.Name]; other != nil {
		return other, "is not the version chosen already: " + other.Meta.ID() + ", wanted by " + s.why[other]
	}
	// A name with a version has one provider.
	taken := func(name, version string) *candidate {
		for _, other := range s.u.providers[name] {
			if s.chosen[other.Meta.Name] != other {
				continue
			}
			if v, _ := other.version(name); v != "" || version != "" {
				return other
			}
		}
		return nil
	}
	name, other := c.Meta.Name, taken(c.Meta.Name, c.Meta.Version)
	for _, p := range c.provides {
		if other != nil {
			break
		}
		name, other = p.Name, taken(p.Name, p.Version)
	}
	if other != nil {
		return other, "provides " + name + ", and so does " + other.Meta.ID() + ", wanted by " + s.why[other]
	}
	for i := range s.needs {
		n := &s.needs[i]
		if !n.Conflict || n.by == nil || n.by == c || !c.satisfies(n.Dependency) {
			continue
		}
		if s.chosen[n.by.Meta.Name] == n.by {
			return n.by, "is refused by " + n.by.Meta.ID() + " (" + n.String() + ")"
		}
	}
	return nil, ""
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
	}
	return ok, names
}
