package apk

import (
	"slices"
	"strings"
)

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
	tried := map[*candidate]bool{}
	for {
		c, by := s.nextInstallIf(tried)
		if c == nil {
			return nil
		}
		tried[c] = true
		ok, err := s.add(c, by)
		if err == nil && !ok {
			err = s.addAnew(c)
		}
		if err != nil {
			return err
		}
	}
}

// nextInstallIf returns the first package whose install_if is met and that was
// not tried, with one that met it: if the package is of a repository with a
// tag, one that may have it.
func (s *search) nextInstallIf(tried map[*candidate]bool) (c, by *candidate) {
	for _, c := range s.u.installIf {
		met := !slices.ContainsFunc(c.installIf, func(d Dependency) bool { return (s.hit(d, nil) != nil) == d.Conflict })
		if !met || s.chosen[c.Meta.Name] != nil || tried[c] {
			continue
		}
		for _, d := range c.installIf {
			if by := s.hit(d, nil); by != nil && (c.Tag == "" || slices.Contains(s.tags[by], c.Tag)) {
				return c, by
			}
		}
	}
	return nil, nil
}

// itself is the need for this very package.
func (c *candidate) itself() Dependency {
	return Dependency{Name: c.Meta.Name, Op: "=", Version: c.Meta.Version}
}

// add puts a package in whose install_if is met, beside what is chosen. Without
// ok it cannot be there, and everything is as it was.
func (s *search) add(c, by *candidate) (ok bool, err error) {
	before := s.needs
	s.want(c.itself(), by)
	if ok, _, err = s.run(); err != nil {
		return false, err
	}
	if ok && s.chosen[c.Meta.Name] != nil {
		s.note(c)
		return true, nil
	}
	s.needs = before
	return false, nil
}

// note records a package as added.
func (s *search) note(c *candidate) {
	have := s.chosen[c.Meta.Name]
	s.why[have] = "install_if: " + strings.Join(c.Meta.InstallIf, " ")
	s.added = append(s.added, have)
}

// addAnew searches from the beginning with a package that cannot be added to
// what is chosen: as with apk, what it needs goes before choices that were
// open, of a provider or an older version. It does not go before what world
// names, nor may a package be there whose install_if is met only because it is
// there. Where that leads to nothing the package is left out.
func (s *search) addAnew(c *candidate) error {
	wanted := append(slices.Clone(s.added), c)
	if s.again > maxSteps || slices.ContainsFunc(wanted, func(w *candidate) bool { return w.Tag != "" }) {
		return nil
	}
	anew := newSearch(s.ctx, s.u, s.world)
	for _, w := range wanted {
		anew.want(w.itself(), nil)
	}
	ok, _, err := anew.run()
	anew.again = s.again + anew.steps
	s.again = anew.again
	if err != nil {
		return s.ctx.Err() // of too many steps there is nothing to say: there is a solution
	}
	if !ok || !anew.keepsWorld(s) || !anew.triggered(wanted) {
		return nil
	}
	for _, w := range wanted {
		anew.note(w)
	}
	*s = *anew
	return nil
}

// keepsWorld says whether the packages that world names are those of another
// search.
func (s *search) keepsWorld(other *search) bool {
	for _, d := range s.world {
		if was := other.chosen[d.Name]; !d.Conflict && was != nil && s.chosen[d.Name] != was {
			return false
		}
	}
	return true
}

// triggered says whether the install_if of all these chosen packages is met by
// what is there for the world, and by those of them that come in so.
func (s *search) triggered(packages []*candidate) bool {
	reached := map[*candidate]bool{}
	var reach func(deps []Dependency)
	reach = func(deps []Dependency) {
		for _, d := range deps {
			if d.Conflict {
				continue
			}
			for _, c := range s.u.providers[d.Name] {
				if s.level[c.id] != 0 && !reached[c] && c.satisfies(d) {
					reached[c] = true
					reach(c.depends)
				}
			}
		}
	}
	reach(s.world)
	met := func(d Dependency) bool {
		return slices.ContainsFunc(s.u.providers[d.Name], func(c *candidate) bool {
			return s.level[c.id] != 0 && (d.Conflict || reached[c]) && c.satisfies(d)
		}) != d.Conflict
	}
	left := slices.Clone(packages)
	for n := -1; n != len(left); {
		n = len(left)
		left = slices.DeleteFunc(left, func(c *candidate) bool {
			have := s.chosen[c.Meta.Name]
			if have == nil || slices.ContainsFunc(c.installIf, func(d Dependency) bool { return !met(d) }) {
				return false
			}
			reached[have] = true
			reach(have.depends)
			return true
		})
	}
	return len(left) == 0
}
