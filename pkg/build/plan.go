package build

import (
	"cmp"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// portPlan is the ports a recipe needs, each after those it is built with.
type portPlan struct {
	ports []*recipe.PortFile
	// byPackage finds the port that makes a package.
	byPackage map[string]*recipe.PortFile
}

// makePlan follows the recipe's packages to the ports that make them, and from
// those to what they are built with and depend on. A package no port makes is
// left to the other repositories; where there are none it is an error here,
// before an hour of compiling.
func makePlan(r *recipe.Recipe, ports map[string]*recipe.PortFile, otherRepositories bool) (*portPlan, error) {
	p := &portPlan{byPackage: map[string]*recipe.PortFile{}}
	for _, name := range sortedKeys(ports) {
		p.byPackage[name] = ports[name]
	}
	// A package stands for what it provides too, after real names.
	for _, name := range sortedKeys(ports) {
		for _, pkg := range ports[name].Packages {
			for _, provided := range pkg.Provides {
				if v := recipe.DependencyName(provided); p.byPackage[v] == nil {
					p.byPackage[v] = ports[name]
				}
			}
		}
	}
	const (
		entered = 1
		done    = 2
	)
	state := map[string]int{}
	var visit func(dependency, wantedBy string) error
	visit = func(dependency, wantedBy string) error {
		name := recipe.DependencyName(dependency)
		port, ok := p.byPackage[name]
		if !ok {
			// A virtual name or a shared library is the solver's to find.
			if otherRepositories || strings.ContainsAny(name, ":/") {
				return nil
			}
			return fault.Errorf(fault.Usage, "%s: no port makes package %q", wantedBy, name).
				Hintf("check the name, write a port for it, or add a repository that has it")
		}
		switch state[port.Name] {
		case entered:
			return fault.Errorf(fault.Usage, "%s: port %s needs itself to be built", wantedBy, port.Name)
		case done:
			return nil
		}
		state[port.Name] = entered
		for _, d := range port.Build {
			if err := visit(d, port.Path); err != nil {
				return err
			}
		}
		state[port.Name] = done
		p.ports = append(p.ports, port)
		return nil
	}

	// What a port's packages depend on at run time need not be built before
	// it, only as well, so it is visited after.
	type want struct{ dependency, by string }
	var todo []want
	for _, d := range r.Packages {
		todo = append(todo, want{d, r.Path})
	}
	followed := 0
	for len(todo) > 0 {
		w := todo[0]
		todo = todo[1:]
		if strings.HasPrefix(w.dependency, "!") {
			continue
		}
		if err := visit(w.dependency, w.by); err != nil {
			return nil, err
		}
		for ; followed < len(p.ports); followed++ {
			port := p.ports[followed]
			for _, pkg := range port.Packages {
				for _, d := range pkg.Depends {
					todo = append(todo, want{d, port.Path})
				}
			}
		}
	}
	return p, nil
}

// builtWith are the ports whose packages may be in the sysroot of a port: all
// that has to be built before it, sorted by name.
func (p *portPlan) builtWith(port *recipe.PortFile) []*recipe.PortFile {
	return port.Needs(p.byPackage)
}

// before are the names of the ports that are built whenever a port can be:
// those it is built with, those that these are built with, and so on.
func (p *portPlan) before(port *recipe.PortFile) map[string]bool {
	names := map[string]bool{}
	var visit func(*recipe.PortFile)
	visit = func(port *recipe.PortFile) {
		for _, q := range p.builtWith(port) {
			if !names[q.Name] {
				names[q.Name] = true
				visit(q)
			}
		}
	}
	visit(port)
	return names
}

// byWeight lists the ports by how many others wait for them, most first.
func (p *portPlan) byWeight() []*recipe.PortFile {
	weight := map[string]int{}
	for _, port := range p.ports {
		for name := range p.before(port) {
			weight[name]++
		}
	}
	sorted := slices.Clone(p.ports)
	slices.SortStableFunc(sorted, func(a, b *recipe.PortFile) int { return cmp.Compare(weight[b.Name], weight[a.Name]) })
	return sorted
}

// sourceNames lists the sources that the ports use, sorted.
func (p *portPlan) sourceNames() []string {
	var names []string
	for _, port := range p.ports {
		names = append(names, port.Sources...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
