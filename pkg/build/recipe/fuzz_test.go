package recipe

import (
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Whatever the bytes, a parser returns a value or an error of class usage; it
// never panics and never takes more than a moment.

func seed(f *testing.F, files ...string) {
	for _, name := range files {
		data, err := os.ReadFile(filepath.Join(good, name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("a: [1, {b: c}, \"d\"]\n"))
	f.Add([]byte("a: &x [*x]\n<<: *x\n"))
	f.Add([]byte("- - - |\n  text\n? a\n: b\n"))
	f.Add([]byte("%YAML 1.2\n--- !!map\n...\n"))
}

func wantUsage(t *testing.T, err error) {
	if err != nil && fault.ClassOf(err) != fault.Usage {
		t.Errorf("class %d: %v", fault.ClassOf(err), err)
	}
}

func FuzzRecipe(f *testing.F) {
	seed(f, FileName)
	f.Fuzz(func(t *testing.T, data []byte) {
		r, _, err := parseRecipe(Ref{fstest.MapFS{}, "recipe.yaml"}, data)
		wantUsage(t, err)
		if err == nil {
			r.Spec()
			r.BundlePorts()
		}
	})
}

func FuzzPort(f *testing.F) {
	seed(f, "ports/zlib/port.yaml", "ports/web/port.yaml")
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := parsePort("port.yaml", data)
		wantUsage(t, err)
	})
}

func FuzzSources(f *testing.F) {
	seed(f, "sources.yaml")
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := parseSources("sources.yaml", data)
		wantUsage(t, err)
	})
}
