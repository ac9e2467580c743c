// Package schema holds the JSON Schemas of the files people write, for editors
// and other programs. They are generated from the Go types of
// pkg/build/recipe, comments included; a test fails when they are stale.
package schema

import (
	"embed"
	"fmt"
)

//go:generate go test -run TestCurrent . -update

//go:embed recipe.schema.json port.schema.json sources.schema.json
var files embed.FS

// Kinds are the names Of knows: "recipe" for recipe.yaml, "port" for
// port.yaml, "sources" for sources.yaml.
func Kinds() []string { return []string{"recipe", "port", "sources"} }

// Of returns the schema of a kind of file, JSON Schema draft 2020-12.
func Of(kind string) ([]byte, error) {
	data, err := files.ReadFile(kind + ".schema.json")
	if err != nil {
		return nil, fmt.Errorf("no schema for %q, known are %q", kind, Kinds())
	}
	return data, nil
}
