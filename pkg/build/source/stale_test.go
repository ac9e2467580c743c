package source

import (
	"reflect"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
)

func TestStale(t *testing.T) {
	declared := func() Declared {
		return Declared{
			Sources: map[string]recipe.Source{
				"zlib": {Debian: recipe.Debian{Suite: "trixie", Source: "zlib"}},
				"musl": {URL: "https://musl.invalid/musl-${version}.tar.gz", Series: "1.2", Debian: recipe.Debian{Suite: "trixie", Source: "musl"}},
			},
			ToolchainSuite: "bookworm", ToolchainPackages: []string{"make"}, Go: "go1.26.8",
		}
	}
	l := &lock.Lock{
		Sources: []lock.Source{
			{Name: "musl", Version: "1.2.5", Mirrors: []string{"https://musl.invalid/musl-1.2.5.tar.gz", "debian:trixie/musl=1.2.5-3"}},
			{Name: "zlib", Version: "1.3.1", Mirrors: []string{"debian:trixie/zlib=1:1.3.1-1"}},
		},
		Toolchain: lock.Toolchain{Suite: "bookworm", Packages: []lock.DebPackage{{Name: "libc6"}, {Name: "make"}}},
		Go:        lock.Go{Version: "go1.26.8", Modules: []lock.Module{{}}},
	}
	if got := declared().Stale(l); got != nil {
		t.Errorf("a fresh lock: %v", got)
	}
	if got := declared().Stale(nil); len(got) != 4 {
		t.Errorf("no lock: %v", got)
	}
	for _, suite := range []string{"trixie-security", "trixie-updates"} {
		l := l.Clone()
		l.Sources[1].Mirrors = []string{"debian:" + suite + "/zlib=1:1.3.1-1"}
		if got := declared().Stale(l); got != nil {
			t.Errorf("a fix from %s: %v", suite, got)
		}
	}
	for _, tt := range []struct {
		want   []Stale
		change func(*Declared)
	}{
		{[]Stale{{Name: "musl", Why: "1.2.5 is not in the series 1.3"}}, func(d *Declared) { d.set("musl", func(s *recipe.Source) { s.Series = "1.3" }) }},
		{[]Stale{{Name: "musl", Why: "its mirror https://musl.invalid/musl-1.2.5.tar.gz is not the declared https://other.invalid/1.2.5"}},
			func(d *Declared) {
				d.set("musl", func(s *recipe.Source) { s.URL = "https://other.invalid/${version}" })
			}},
		{[]Stale{{Name: "musl", Why: "its mirror https://musl.invalid/musl-1.2.5.tar.gz is not the declared (no url)"}},
			func(d *Declared) { d.set("musl", func(s *recipe.Source) { s.URL = "" }) }},
		{[]Stale{{Name: "zlib", Why: "the declared https://zlib.invalid/1.3.1 is not among its mirrors"}},
			func(d *Declared) {
				d.set("zlib", func(s *recipe.Source) { s.URL = "https://zlib.invalid/${version}" })
			}},
		{[]Stale{{Name: "zlib", Why: "its mirror debian:trixie/zlib=1:1.3.1-1 is not of zlib in sid"}},
			func(d *Declared) { d.set("zlib", func(s *recipe.Source) { s.Debian.Suite = "sid" }) }},
		{[]Stale{{Name: "zlib", Why: "locked, and not declared any more", Undeclared: true}}, func(d *Declared) { delete(d.Sources, "zlib") }},
		{[]Stale{{Name: "icu", Why: "not locked", Missing: true}}, func(d *Declared) { d.Sources["icu"] = recipe.Source{} }},
		{[]Stale{{Name: "toolchain", Why: "of bookworm, not trixie"}}, func(d *Declared) { d.ToolchainSuite = "trixie" }},
		{[]Stale{{Name: "toolchain", Why: "without the package cmake"}}, func(d *Declared) { d.ToolchainPackages = []string{"cmake"} }},
		{[]Stale{{Name: "go", Why: "go1.26.8 is older than go1.26.10"}}, func(d *Declared) { d.Go = "go1.26.10" }},
	} {
		d := declared()
		tt.change(&d)
		if got := d.Stale(l); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("got %v, want %v", got, tt.want)
		}
	}
}

func (d *Declared) set(name string, change func(*recipe.Source)) {
	s := d.Sources[name]
	change(&s)
	d.Sources[name] = s
}
