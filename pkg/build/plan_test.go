package build

import (
	"slices"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

// somePorts is a small world: a library, a program that is built with it and
// needs a shell to run, and the shell.
func somePorts() map[string]*recipe.PortFile {
	lib := &recipe.PortFile{Name: "lib", Path: "lib/port.yaml", Packages: []recipe.PortPackage{
		{Name: "lib"}, {Name: "lib-dev", Depends: []string{"lib=${version}"}},
	}}
	program := &recipe.PortFile{Name: "program", Path: "program/port.yaml", Build: []string{"lib-dev"}, Sources: []string{"tarball"}, Packages: []recipe.PortPackage{
		{Name: "program", Depends: []string{"virtual-shell", "so:lib.so.1"}},
	}}
	shell := &recipe.PortFile{Name: "shell", Path: "shell/port.yaml", Packages: []recipe.PortPackage{
		{Name: "shell", Provides: []string{"virtual-shell=1"}},
	}}
	return map[string]*recipe.PortFile{"lib": lib, "lib-dev": lib, "program": program, "shell": shell}
}

func TestMakePlan(t *testing.T) {
	r := &recipe.Recipe{Path: "recipe.yaml", Packages: []string{"program>=1", "!nothing"}, Kernel: recipe.Kernel{Source: "linux"}}
	p, err := makePlan(r, somePorts(), false)
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, port := range p.ports {
		order = append(order, port.Name)
	}
	if want := []string{"lib", "program", "shell"}; !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
	if got := p.byWeight()[0].Name; got != "lib" {
		t.Errorf("%s is built first; lib is what another waits for", got)
	}
	if got, want := p.sourceNames(), []string{"tarball"}; !slices.Equal(got, want) {
		t.Errorf("sources %v, want %v", got, want)
	}
}

func TestMakePlanRefuses(t *testing.T) {
	missing := &recipe.Recipe{Path: "recipe.yaml", Packages: []string{"progrem"}}
	_, err := makePlan(missing, somePorts(), false)
	if err == nil || fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), `recipe.yaml: no port makes package "progrem"`) {
		t.Errorf("a package nobody makes: %v", err)
	}
	if _, err := makePlan(missing, somePorts(), true); err != nil {
		t.Errorf("with another repository it may be there: %v", err)
	}

	ports := somePorts()
	ports["lib"].Build = []string{"program"}
	_, err = makePlan(&recipe.Recipe{Path: "recipe.yaml", Packages: []string{"program"}}, ports, false)
	if err == nil || !strings.Contains(err.Error(), "needs itself") {
		t.Errorf("a cycle: %v", err)
	}
}

func TestSysroot(t *testing.T) {
	ports := map[string]*recipe.PortFile{}
	for _, p := range []*recipe.PortFile{
		{Name: "libc", Packages: []recipe.PortPackage{{Name: "libc"}, {Name: "libc-dev"}}},
		{Name: "headers", Packages: []recipe.PortPackage{{Name: "headers", Provides: []string{"some-headers=1"}}}},
		{Name: "lib", Build: []string{"libc-dev"}, Packages: []recipe.PortPackage{{Name: "lib"}, {Name: "lib-dev", Depends: []string{"lib=1-r0", "some-headers"}}}},
		{Name: "other", Packages: []recipe.PortPackage{{Name: "other", Provides: []string{"some-headers=2"}}}},
		{Name: "program", Path: "p/port.yaml", Build: []string{"lib-dev"}, Packages: []recipe.PortPackage{{Name: "program"}}},
	} {
		for _, made := range p.Packages {
			ports[made.Name] = p
		}
	}
	p, err := makePlan(&recipe.Recipe{Packages: []string{"program", "other"}}, ports, false)
	if err != nil {
		t.Fatal(err)
	}
	program := ports["program"]
	// What it is built with and what that depends on, to any depth.
	var before []string
	for _, q := range p.builtWith(program) {
		before = append(before, q.Name)
	}
	if want := []string{"headers", "lib"}; !slices.Equal(before, want) {
		t.Errorf("built with %v, want %v", before, want)
	}

	made := func(origin string, m apk.Meta) Package { m.Origin = origin; return Package{Meta: m} }
	packages := map[string]Package{
		"lib":     made("lib", apk.Meta{Name: "lib", Provides: []string{"so:lib.so.1=1"}, Depends: []string{"so:libc.so=1"}}),
		"lib-dev": made("lib", apk.Meta{Name: "lib-dev", Depends: []string{"lib=1-r0", "some-headers", "cmd:pkgconf", "!old"}}),
		"libc":    made("libc", apk.Meta{Name: "libc", Provides: []string{"so:libc.so=1"}}),
		"headers": made("headers", apk.Meta{Name: "headers", Provides: []string{"some-headers=1"}}),
	}
	sysroot := func() []string {
		t.Helper()
		got, err := p.sysroot(program, packages)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, b := range got {
			names = append(names, b.Meta.Name)
		}
		return names
	}
	want := []string{"headers", "lib", "lib-dev", "libc"}
	if got := sysroot(); !slices.Equal(got, want) {
		t.Errorf("sysroot %v, want %v", got, want)
	}
	// With more jobs another port may be built by now, that provides the same.
	packages["a-other"] = made("other", apk.Meta{Name: "a-other", Provides: []string{"some-headers=2", "so:libc.so=2", "cmd:pkgconf=1"}})
	if got := sysroot(); !slices.Equal(got, want) {
		t.Errorf("sysroot beside another port %v, want %v", got, want)
	}
	delete(packages, "libc")
	if _, err := p.sysroot(program, packages); err == nil || !strings.Contains(err.Error(), "so:libc.so") {
		t.Errorf("a missing library: %v", err)
	}
}
