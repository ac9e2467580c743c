package recipe

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Names of the files in their directories.
const (
	FileName     = "recipe.yaml"
	PortFileName = "port.yaml"
)

// Load reads and checks a recipe, given its file or its directory, with the
// list of sources it names. Every file and directory it names must exist. The
// result has the defaults filled in.
//
// Errors are of class fault.Usage. One about the contents begins with
// "FILE:LINE:COLUMN: "; only the first problem is reported.
func Load(path string) (*Recipe, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, FileName)
	}
	data, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Errorf(fault.Usage, "%s: there is no recipe here", path).
			Hintf("name a recipe's directory, like recipes/sql, or its %s", FileName)
	}
	if err != nil {
		return nil, err
	}
	r, doc, err := parseRecipe(path, data)
	if err != nil {
		return nil, err
	}
	if r.Dir, err = filepath.Abs(filepath.Dir(path)); err != nil {
		return nil, fault.Errorf(fault.Environment, "%s: %w", path, err)
	}
	if err := checkRecipeFiles(doc, r); err != nil {
		return nil, err
	}
	return r, nil
}

// parseRecipe is Load without a look at the disk.
func parseRecipe(path string, data []byte) (*Recipe, *document, error) {
	doc, node, err := parse(path, data)
	if err != nil {
		return nil, nil, err
	}
	r := &Recipe{Path: path}
	if err := doc.decode(node, r); err != nil {
		return nil, nil, err
	}
	if err := checkRecipe(doc, r); err != nil {
		return nil, nil, err
	}
	r.fill()
	return r, doc, nil
}

// LoadPort reads and checks the port in a directory.
func LoadPort(dir string) (*PortFile, error) {
	path := filepath.Join(dir, PortFileName)
	data, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Errorf(fault.Usage, "%s: there is no port here", path).
			Hintf("a port is a directory with a %s and a build.sh", PortFileName)
	}
	if err != nil {
		return nil, err
	}
	p, err := parsePort(path, data)
	if err != nil {
		return nil, err
	}
	if p.Dir, err = filepath.Abs(dir); err != nil {
		return nil, fault.Errorf(fault.Environment, "%s: %w", dir, err)
	}
	return p, nil
}

func parsePort(path string, data []byte) (*PortFile, error) {
	doc, node, err := parse(path, data)
	if err != nil {
		return nil, err
	}
	p := &PortFile{Path: path, pos: doc}
	if err := doc.decode(node, p); err != nil {
		return nil, err
	}
	if err := checkPort(doc, p); err != nil {
		return nil, err
	}
	return p, nil
}

// LoadSources reads and checks sources.yaml: a mapping of names to sources.
func LoadSources(path string) (map[string]Source, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return parseSources(path, data)
}

func parseSources(path string, data []byte) (map[string]Source, error) {
	doc, node, err := parse(path, data)
	if err != nil {
		return nil, err
	}
	sources := map[string]Source{}
	if err := doc.decode(node, &sources); err != nil {
		return nil, err
	}
	for name, s := range sources {
		s.Name = name
		sources[name] = s
	}
	if err := checkSources(doc, sources); err != nil {
		return nil, err
	}
	return sources, nil
}
