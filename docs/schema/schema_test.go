package schema

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/invopop/jsonschema"

	"github.com/sovereign-build/sovereign/pkg/build/recipe"
)

var update = flag.Bool("update", false, "write the schemas anew")

// TestCurrent generates the schemas and compares them with the files.
func TestCurrent(t *testing.T) {
	for kind, value := range map[string]any{
		"recipe":  &recipe.Recipe{},
		"port":    &recipe.PortFile{},
		"sources": map[string]recipe.Source{},
	} {
		t.Run(kind, func(t *testing.T) {
			want := generate(t, kind, value)
			if *update {
				if err := os.WriteFile("docs/schema/"+kind+".schema.json", want, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			got, err := Of(kind)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s.schema.json is stale: run go generate ./docs/schema", kind)
			}
		})
	}
}

func generate(t *testing.T, kind string, value any) []byte {
	t.Helper()
	// Comments are found by package path and source directory, which must be
	// relative for the two to match; so the reflector runs at the module's
	// root.
	t.Chdir("../..")
	r := &jsonschema.Reflector{FieldNameTag: "yaml", DoNotReference: false, Mapper: units}
	if err := r.AddGoComments("github.com/sovereign-build/sovereign", "./pkg/build/recipe"); err != nil {
		t.Fatal(err)
	}
	if len(r.CommentMap) == 0 {
		t.Fatal("no doc comments were found")
	}
	for name, comment := range r.CommentMap {
		r.CommentMap[name] = strings.Join(strings.Fields(comment), " ")
	}
	s := r.Reflect(value)
	s.ID = jsonschema.ID("https://github.com/sovereign-build/sovereign/docs/schema/" + kind + ".schema.json")
	s.Title = kind + ".yaml of Sovereign"
	if kind == "recipe" {
		// What an included recipe has need not be said again.
		r := s.Definitions["Recipe"]
		r.AnyOf = []*jsonschema.Schema{{Required: r.Required}, {Required: []string{"include"}}}
		r.Required = []string{"schema", "name", "summary"}
		s.Definitions["Service"].Required = []string{"name"}
	}
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(data, '\n')
}

// units describes the types that are text in YAML.
func units(typ reflect.Type) *jsonschema.Schema {
	switch typ {
	case reflect.TypeFor[recipe.Size]():
		return &jsonschema.Schema{Type: "string", Pattern: "^[0-9]+(KiB|MiB|GiB|TiB)$", Examples: []any{"512MiB"}}
	case reflect.TypeFor[recipe.Duration]():
		return &jsonschema.Schema{Type: "string", Pattern: "^([0-9]+(\\.[0-9]+)?(h|m|s|ms))+$", Examples: []any{"30s"}}
	}
	return nil
}
