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
	if got, want := p.sourceNames(r), []string{"linux", "tarball"}; !slices.Equal(got, want) {
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

func TestClosure(t *testing.T) {
	packages := map[string]built{
		"lib":     {Meta: apk.Meta{Name: "lib", Provides: []string{"so:lib.so.1=1"}, Depends: []string{"so:libc.so=1"}}},
		"lib-dev": {Meta: apk.Meta{Name: "lib-dev", Depends: []string{"lib=1-r0", "cmd:pkgconf", "!old"}}},
		"libc":    {Meta: apk.Meta{Name: "libc", Provides: []string{"so:libc.so=1"}}},
		"other":   {Meta: apk.Meta{Name: "other"}},
	}
	got, err := closure(&recipe.PortFile{Path: "p/port.yaml", Build: []string{"lib-dev"}}, packages)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, b := range got {
		names = append(names, b.Meta.Name)
	}
	if want := []string{"lib", "lib-dev", "libc"}; !slices.Equal(names, want) {
		t.Errorf("sysroot %v, want %v", names, want)
	}

	delete(packages, "libc")
	if _, err := closure(&recipe.PortFile{Path: "p/port.yaml", Build: []string{"lib-dev"}}, packages); err == nil || !strings.Contains(err.Error(), "so:libc.so") {
		t.Errorf("a missing library: %v", err)
	}
}
