package recipe

import (
	"errors"
	"io/fs"
	"os"
	pathpkg "path"
	"path/filepath"
	"reflect"
	"slices"

	"github.com/goccy/go-yaml/ast"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Schema is the version of the format.
const Schema = 1

// Names of the files in their directories.
const (
	FileName     = "recipe.yaml"
	PortFileName = "port.yaml"
)

// Load reads and checks a recipe of this machine, given its file or its
// directory, with the list of sources it names. Every file and directory it
// names must exist. The result has the defaults filled in.
//
// Errors are of class fault.Usage. One about the contents begins with
// "FILE:LINE:COLUMN: "; only the first problem is reported.
func Load(path string) (*Recipe, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, FileName)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fault.Errorf(fault.Environment, "%s: %w", path, err)
	}
	return load(Ref{Name: path}, dir)
}

// Parse is Load for a recipe in fsys, given its file's name there. What the
// recipe names is in fsys too: fsys has to begin above what "../" leads to.
func Parse(fsys fs.FS, name string) (*Recipe, error) {
	return load(Ref{fsys, name}, pathpkg.Dir(name))
}

func load(file Ref, dir string) (*Recipe, error) {
	data, err := file.ReadFile(maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Errorf(fault.Usage, "%s: there is no recipe here", file).
			Hintf("name a recipe's directory, like recipes/sql, or its %s", FileName)
	}
	if err != nil {
		return nil, err
	}
	r, doc, err := parseRecipe(file, data)
	if err != nil {
		return nil, err
	}
	r.FS, r.Dir = file.FS, dir
	if err := checkRecipeFiles(doc, r); err != nil {
		return nil, err
	}
	return r, nil
}

// parseRecipe is Load without a look at the files that the recipe names, but
// for one that it includes.
func parseRecipe(file Ref, data []byte) (*Recipe, *document, error) {
	r, doc, err := readRecipe(file, data, 0)
	if err != nil {
		return nil, nil, err
	}
	if err := checkRecipe(doc, r); err != nil {
		return nil, nil, err
	}
	r.fill()
	return r, doc, nil
}

// readRecipe decodes a recipe with what it includes, unchecked.
func readRecipe(file Ref, data []byte, depth int) (*Recipe, *document, error) {
	doc, node, err := parse(file.String(), data)
	if err != nil {
		return nil, nil, err
	}
	r := &Recipe{Path: file.String()}
	doc.partial = includes(node)
	if err := doc.decode(node, r); err != nil {
		return nil, nil, err
	}
	if r.Include == "" {
		return r, doc, nil
	}
	base, baseDoc, err := included(file, r, doc, depth)
	if err != nil {
		return nil, nil, err
	}
	r, doc = over(base, baseDoc, r, doc)
	return r, doc, doc.missing("", reflect.ValueOf(*r))
}

// includes says whether the mapping at the top has the key include.
func includes(n ast.Node) bool {
	m, ok := n.(*ast.MappingNode)
	return ok && slices.ContainsFunc(m.Values, func(v *ast.MappingValueNode) bool {
		key, ok := keyText(v.Key)
		return ok && key == "include"
	})
}

// LoadPort reads and checks the port in a directory.
func LoadPort(dir Ref) (*PortFile, error) {
	file := dir.Join(PortFileName)
	data, err := file.ReadFile(maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Errorf(fault.Usage, "%s: there is no port here", file).
			Hintf("a port is a directory with a %s and a build.sh", PortFileName)
	}
	if err != nil {
		return nil, err
	}
	p, err := parsePort(file.String(), data)
	if err != nil {
		return nil, err
	}
	p.Dir = dir
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
func LoadSources(file Ref) (map[string]Source, error) {
	data, err := file.ReadFile(maxFile)
	if err != nil {
		return nil, err
	}
	sources, err := parseSources(file.String(), data)
	for name, s := range sources {
		s.Dir = file.Dir()
		sources[name] = s
	}
	return sources, err
}

// LoadSources reads the recipe's list of sources; there are none where it names
// none.
func (r *Recipe) LoadSources() (map[string]Source, error) {
	if r.Sources == "" {
		return nil, nil
	}
	return LoadSources(r.Resolve(r.Sources))
}

// LoadPorts reads the recipe's ports, as the function of that name does; there
// are none where it names none.
func (r *Recipe) LoadPorts() (map[string]*PortFile, error) {
	if r.Ports == "" {
		return nil, nil
	}
	return LoadPorts(r.Resolve(r.Ports))
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
