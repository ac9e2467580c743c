package build

import (
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/recipe"
)

// TestWriters wants the same answer from two builders, as two machines are.
func TestWriters(t *testing.T) {
	var first string
	for range 2 {
		b := newTestBuilder(t)
		b.epoch, b.recipe = 1, &recipe.Recipe{}
		var err error
		if b.arch, err = findArch("amd64", []string{"amd64"}); err != nil {
			t.Fatal(err)
		}
		got, err := b.writers(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if first == "" {
			first = got
		}
		if got != first || len(got) != 2*len("sha256:")+2*64+1 {
			t.Errorf("%q, first %q", got, first)
		}
		b.epoch++
		if later, err := b.writers(t.Context()); err != nil || later == got {
			t.Errorf("another date gives the same images: %q, %v", later, err)
		}
	}
}
