package recipe

import (
	"path/filepath"
	"slices"
	"testing"
)

// The example's kernel is that of recipes/sql, or whoever builds both compiles
// two.
func TestExampleSharesTheKernel(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		var lists [][]string
		for _, dir := range []string{"recipes/sql", "examples/embed/hello"} {
			r, err := Load(filepath.Join("../../..", dir))
			if err != nil {
				t.Fatal(err)
			}
			var list []string
			for _, f := range r.Kernel.Patches {
				list = append(list, r.Resolve(f).String())
			}
			for _, f := range r.Fragments(arch) {
				list = append(list, r.Resolve(f).String())
			}
			lists = append(lists, list)
		}
		if !slices.Equal(lists[0], lists[1]) {
			t.Errorf("%s: recipes/sql has %v, the example %v", arch, lists[0], lists[1])
		}
	}
}
