package source

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
)

// Stale is an input whose lock entry is not one of what is declared.
type Stale struct {
	Name string `json:"name"` // of the source, "toolchain" or "go"
	Why  string `json:"why"`  // "17.11 is not in the series 18"
	// Missing is true for an input that is not locked at all, Undeclared for a
	// locked source that nothing declares any more.
	Missing    bool `json:"missing"`
	Undeclared bool `json:"undeclared"`
}

// String is the reason with the name: "postgresql: 17.11 is not in the series
// 18".
func (s Stale) String() string { return s.Name + ": " + s.Why }

// Stale compares a lock, nil for none, with the declarations and returns what
// does not fit, sorted by name.
func (d Declared) Stale(l *lock.Lock) []Stale {
	if l == nil {
		l = &lock.Lock{}
	}
	var all []Stale
	add := func(name, why string) {
		if why != "" {
			all = append(all, Stale{Name: name, Why: why, Missing: why == notLocked})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.Sources)) {
		s, ok := l.Source(name)
		if !ok {
			add(name, notLocked)
			continue
		}
		add(name, staleSource(d.Sources[name], s))
	}
	for _, s := range l.Sources {
		if _, ok := d.Sources[s.Name]; !ok {
			all = append(all, Stale{Name: s.Name, Why: "locked, and not declared any more", Undeclared: true})
		}
	}
	if d.ToolchainSuite != "" {
		add(lock.ToolchainName, d.staleToolchain(l.Toolchain))
	}
	if d.Go != "" {
		add(lock.GoName, d.staleGo(l.Go))
	}
	slices.SortFunc(all, func(a, b Stale) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

const notLocked = "not locked"

// staleSource says why a lock entry is not of the declaration; "" when it is.
func staleSource(decl recipe.Source, s lock.Source) string {
	if !inSeries(s.Version, decl.Series) {
		return fmt.Sprintf("%s is not in the series %s", s.Version, decl.Series)
	}
	// What else an entry has to be is of its kind; its https mirrors are of all.
	urls := declaredURLs(decl, s.Version)
	own := 0
	for _, text := range s.Mirrors {
		m, err := lock.ParseMirror(text) // an entry that Load takes has mirrors that parse
		switch {
		case err != nil:
			return err.Error()
		case m.Scheme == lock.SchemeHTTPS && !slices.Contains(urls, text):
			return fmt.Sprintf("its mirror %s is not the declared %s", text, cmp.Or(strings.Join(urls, ", "), "(no url)"))
		case m.Scheme == kindOf(decl).scheme():
			own++
		case m.Scheme != lock.SchemeHTTPS:
			return fmt.Sprintf("its mirror %s is not of what is declared", text)
		}
	}
	if own == 0 {
		return "locked as another kind of source"
	}
	for _, url := range urls {
		if !slices.Contains(s.Mirrors, url) {
			return "the declared " + url + " is not among its mirrors"
		}
	}
	return kindOf(decl).stale(decl, s)
}

// stale wants a package of the declared suite, or of where its fixes come first.
func (debianKind) stale(decl recipe.Source, s lock.Source) string {
	m := debianMirror(s)
	if m.Source != decl.Debian.Source || !slices.Contains(suitesOf(decl.Debian.Suite), m.Suite) {
		return fmt.Sprintf("its mirror %s is not of %s in %s", m, decl.Debian.Source, decl.Debian.Suite)
	}
	return ""
}

func (d Declared) staleToolchain(t lock.Toolchain) string {
	if len(t.Packages) == 0 {
		return notLocked
	}
	if t.Suite != d.ToolchainSuite {
		return fmt.Sprintf("of %s, not %s", t.Suite, d.ToolchainSuite)
	}
	for _, name := range d.ToolchainPackages {
		if !slices.ContainsFunc(t.Packages, func(p lock.DebPackage) bool { return p.Name == name }) {
			return "without the package " + name
		}
	}
	return ""
}

func (d Declared) staleGo(g lock.Go) string {
	switch {
	case len(g.Modules) == 0:
		return notLocked
	case compareGo(g.Version, d.Go) < 0:
		return fmt.Sprintf("%s is older than %s", g.Version, d.Go)
	}
	return ""
}
