package forge_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sovereign-build/sovereign/pkg/build/recipe"
)

// The forge has sql's kernel, so that it is compiled once for both, its packages
// and its users, and what sql does before its database starts comes first here.
func TestBeginsWithSQL(t *testing.T) {
	load := func(dir string) *recipe.Recipe {
		r, err := recipe.Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	sql, forge := load("../sql"), load(".")
	if d := cmp.Diff(sql.Kernel, forge.Kernel); d != "" {
		t.Errorf("the kernel is another: %s", d)
	}
	if !slices.Equal(forge.Packages[:len(sql.Packages)], sql.Packages) || !slices.Equal(forge.Users[:len(sql.Users)], sql.Users) {
		t.Errorf("packages %q, users %v", forge.Packages, forge.Users)
	}
	for i, want := range sql.Services {
		got := forge.Services[i]
		if got.Name != want.Name || got.User != want.User || len(got.Setup) < len(want.Setup) {
			t.Fatalf("service %d is %+v, sql has %+v", i, got, want)
		}
		if d := cmp.Diff(want.Setup, got.Setup[:len(want.Setup)]); d != "" {
			t.Errorf("%s is set up in another way than in sql: %s", want.Name, d)
		}
		if d := cmp.Diff(want.Command, got.Command); d != "" {
			t.Errorf("%s: %s", want.Name, d)
		}
	}
	// Who wants the database from outside is let in nowhere.
	for _, s := range forge.Services {
		if s.Name == "postgresql" && len(s.Ports) > 0 {
			t.Errorf("the database has ports: %v", s.Ports)
		}
	}
}
