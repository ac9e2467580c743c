package recipe

import (
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// LoadPorts reads every port in the directories under dir and returns them by
// the names of the packages they make; a port that makes three packages is
// there three times, the same pointer. A directory without port.yaml is not a
// port and is passed over.
//
// A package made by two ports, a build dependency that no port makes, and
// ports that need each other to build are errors of class fault.Usage.
func LoadPorts(dir Ref) (map[string]*PortFile, error) {
	in, err := dir.Sub()
	if err != nil {
		return nil, fault.Errorf(fault.Usage, "%w", err)
	}
	entries, err := fs.ReadDir(in, ".")
	if err != nil {
		return nil, fault.Errorf(fault.Usage, "%s: %w", dir, err)
	}
	byPackage := map[string]*PortFile{}
	var ports []*PortFile
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if _, err := fs.Stat(in, e.Name()+"/"+PortFileName); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		p, err := LoadPort(dir.Join(e.Name()))
		if err != nil {
			return nil, err
		}
		if p.Name != e.Name() {
			return nil, p.errorf("name", "port %q is in the directory %q, the two must be the same", p.Name, e.Name())
		}
		for i, pkg := range p.Packages {
			if other, ok := byPackage[pkg.Name]; ok {
				return nil, p.errorf(index("packages", i)+".name", "package %q is made by port %q too", pkg.Name, other.Name)
			}
			byPackage[pkg.Name] = p
		}
		ports = append(ports, p)
	}
	for _, p := range ports {
		for i, b := range p.Build {
			made := byPackage[DependencyName(b)]
			if made == nil {
				return nil, p.errorf(index("build", i), "no port makes the package %q%s", b, unknown(b, keys(byPackage)))
			}
			if p.NoArch && !made.NoArch {
				return nil, p.errorf(index("build", i), "port %q is the same for every architecture, and %q, which it is built with, is not", p.Name, b)
			}
		}
	}
	return byPackage, checkCycles(ports, byPackage)
}

// CheckSources makes sure that every source the port names is declared.
func (p *PortFile) CheckSources(declared map[string]Source) error {
	for i, s := range p.Sources {
		if _, ok := declared[s]; !ok {
			return p.errorf(index("sources", i), "unknown source %q%s", s, unknown(s, keys(declared)))
		}
	}
	return nil
}

func (p *PortFile) errorf(path, format string, args ...any) *fault.Error {
	return p.pos.errorf(p.pos.places[path], format, args...)
}

// Needs returns the ports that must be built before p, sorted by name: those
// that make its build packages and, since these are installed in the sysroot
// with their dependencies, the ports behind the declared dependencies of those
// packages. ports is what LoadPorts returned.
func (p *PortFile) Needs(ports map[string]*PortFile) []*PortFile {
	need := map[string]*PortFile{}
	seen := map[string]bool{}
	queue := slices.Clone(p.Build)
	for len(queue) > 0 {
		pkg := DependencyName(queue[0])
		queue = queue[1:]
		port := ports[pkg]
		if port == nil || seen[pkg] {
			continue
		}
		seen[pkg] = true
		need[port.Name] = port
		for _, made := range port.Packages {
			if made.Name == pkg || slices.ContainsFunc(made.Provides, func(p string) bool { return DependencyName(p) == pkg }) {
				queue = append(queue, made.Depends...)
			}
		}
	}
	var sorted []*PortFile
	for _, n := range slices.Sorted(slices.Values(keys(need))) {
		sorted = append(sorted, need[n])
	}
	return sorted
}

// DependencyName is the package's name in an apk dependency: "icu-libs" in
// "icu-libs>=76". It is empty for a conflict ("!icu-libs").
func DependencyName(dependency string) string {
	if strings.HasPrefix(dependency, "!") {
		return ""
	}
	if end := strings.IndexAny(dependency, "<>=~@"); end >= 0 {
		return dependency[:end]
	}
	return dependency
}

func checkCycles(ports []*PortFile, byPackage map[string]*PortFile) error {
	done := map[*PortFile]bool{}
	var chain []*PortFile
	var visit func(p *PortFile) error
	visit = func(p *PortFile) error {
		if i := slices.Index(chain, p); i >= 0 {
			var names []string
			for _, c := range chain[i:] {
				names = append(names, c.Name)
			}
			return chain[i].errorf("build", "ports need each other to build: %s → %s", strings.Join(names, " → "), p.Name)
		}
		if done[p] {
			return nil
		}
		chain = append(chain, p)
		for _, n := range p.Needs(byPackage) {
			if err := visit(n); err != nil {
				return err
			}
		}
		chain = chain[:len(chain)-1]
		done[p] = true
		return nil
	}
	for _, p := range ports {
		if err := visit(p); err != nil {
			return err
		}
	}
	return nil
}

func keys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	return out
}

// SplitTag takes a repository as a recipe gives it apart: "@edge https://…" has
// the tag "edge". A repository without a tag has the empty one.
func SplitTag(repository string) (tag, location string) {
	rest, tagged := strings.CutPrefix(repository, "@")
	if !tagged {
		return "", repository
	}
	tag, location, _ = strings.Cut(rest, " ")
	return tag, strings.TrimSpace(location)
}
