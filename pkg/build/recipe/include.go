package recipe

import (
	"errors"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// maxIncludes bounds how many recipes one is made of; more is a circle.
const maxIncludes = 8

// included reads the recipe that another one, at file, begins with. Paths in it
// become relative to the directory of the one that includes it, and its places
// know their file.
func included(file Ref, r *Recipe, doc *document, depth int) (*Recipe, *document, error) {
	at := file.Dir().Join(r.Include).Join(FileName)
	fail := func(format string, args ...any) error {
		return doc.errorf(doc.place("include"), format, args...)
	}
	if depth == maxIncludes {
		return nil, nil, fail("more than %d recipes include each other, perhaps in a circle", maxIncludes)
	}
	data, err := at.ReadFile(maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fail("there is no recipe to include at %s", at)
	}
	if err != nil {
		return nil, nil, err
	}
	base, baseDoc, err := readRecipe(at, data, depth+1)
	if err != nil {
		return nil, nil, err
	}
	for p, where := range baseDoc.places {
		if where.file == "" {
			where.file = baseDoc.path
			baseDoc.places[p] = where
		}
	}
	base.eachPath(func(name *string) { *name = rebase(r.Include, *name) })
	// Trust knows a repository that is a directory by the same words.
	trust := map[string]Trust{}
	for location, t := range base.Trust {
		moved := location
		if !strings.Contains(location, "://") {
			moved = rebase(r.Include, location)
			m := merger{out: baseDoc, from: &document{places: maps.Clone(baseDoc.places)}}
			m.forget(join("trust", location))
			m.move(join("trust", moved), join("trust", location))
		}
		trust[moved] = t
	}
	base.Trust = trust
	return base, baseDoc, nil
}

// rebase makes a path that is relative to dir relative to what dir is relative
// to.
func rebase(dir, name string) string {
	if name == "" || filepath.IsAbs(name) {
		return name
	}
	return path.Join(filepath.ToSlash(dir), filepath.ToSlash(name))
}

// eachPath calls f for everything in the recipe that is a path relative to it.
func (r *Recipe) eachPath(f func(*string)) {
	f(&r.Toolchain)
	f(&r.Ports)
	f(&r.Sources)
	f(&r.Release.Key)
	lists := [][]string{r.Kernel.Patches, r.Kernel.Fragments, r.Keys}
	for _, list := range r.Kernel.Arch {
		lists = append(lists, list)
	}
	for i, repository := range r.Repositories {
		tag, location := SplitTag(repository)
		if !strings.Contains(location, "://") {
			f(&location)
		}
		if tag != "" {
			location = "@" + tag + " " + location
		}
		r.Repositories[i] = location
	}
	for _, t := range r.Trust {
		lists = append(lists, t.Keys)
	}
	for _, list := range lists {
		for i := range list {
			f(&list[i])
		}
	}
	for i := range r.Files {
		f(&r.Files[i].From)
	}
}

// over lays a recipe over the one that it includes, and returns what both come
// to, with the places of both. A key of own takes the place of that key in
// base, but for these lists: packages, repositories, keys and actions are added,
// and so are users, files and services unless base has one of that name (of a
// file: that path), which a user and a file take the place of, and of which a
// service changes the keys that it gives. A package that must not be there, as
// "!gitea", takes the place of base's.
func over(base *Recipe, baseDoc *document, own *Recipe, doc *document) (*Recipe, *document) {
	m := &merger{out: &document{path: doc.path, places: baseDoc.places}, from: doc}
	result := *base
	// Which recipe it is, is said by its own file alone.
	result.Schema, result.Name, result.Summary, result.Path = 0, "", "", own.Path
	for _, key := range []string{"schema", "name", "summary"} {
		m.forget(key)
	}
	named := map[string]func(i, j int) bool{
		"packages":     func(i, j int) bool { return own.Packages[j] == "!"+packageName(base.Packages[i]) },
		"repositories": nil,
		"keys":         nil,
		"actions":      nil,
		"users":        func(i, j int) bool { return base.Users[i].Name == own.Users[j].Name },
		"files":        func(i, j int) bool { return base.Files[i].Path == own.Files[j].Path },
		"services":     func(i, j int) bool { return base.Services[i].Name == own.Services[j].Name },
	}
	m.keys("", reflect.ValueOf(&result).Elem(), "", reflect.ValueOf(own).Elem(), func(key string, to, from reflect.Value) bool {
		same, isList := named[key]
		if !isList {
			return false
		}
		have := to.Len()
		list := reflect.MakeSlice(to.Type(), 0, have+from.Len())
		list = reflect.AppendSlice(list, to)
		for j := range from.Len() {
			i := 0
			for i < have && (same == nil || !same(i, j)) {
				i++
			}
			switch at := index(key, j); {
			case i == have:
				list = reflect.Append(list, from.Index(j))
				m.move(index(key, list.Len()-1), at)
			case key == "services":
				m.keys(index(key, i), list.Index(i), at, from.Index(j), nil)
			default:
				list.Index(i).Set(from.Index(j))
				m.move(index(key, i), at)
			}
		}
		to.Set(list)
		if _, ok := m.out.places[key]; !ok {
			m.out.places[key] = doc.places[key]
		}
		return true
	})
	m.out.places[""] = doc.places[""]
	result.Include = "" // done
	return &result, m.out
}

// packageName is what comes before a version or a tag: "git" of "git>=2.47@edge".
func packageName(constraint string) string {
	if i := strings.IndexAny(constraint, "<>=~@"); i >= 0 {
		return constraint[:i]
	}
	return constraint
}

// merger brings values and their places from one document into another.
type merger struct{ out, from *document }

// keys sets the keys of a struct that are given in from, unless special has
// done so.
func (m *merger) keys(toPath string, to reflect.Value, fromPath string, from reflect.Value, special func(key string, to, from reflect.Value) bool) {
	for i := range from.NumField() {
		key, _, _ := strings.Cut(from.Type().Field(i).Tag.Get("yaml"), ",")
		if key == "" || key == "-" {
			continue
		}
		if _, ok := m.from.places[join(fromPath, key)]; !ok {
			continue
		}
		if special != nil && special(key, to.Field(i), from.Field(i)) {
			continue
		}
		to.Field(i).Set(from.Field(i))
		m.move(join(toPath, key), join(fromPath, key))
	}
}

// move has the places of a value be those of another in from.
func (m *merger) move(to, from string) {
	m.forget(to)
	for p, at := range m.from.places {
		if rest, ok := strings.CutPrefix(p, from); ok && (rest == "" || strings.ContainsRune(".[#", rune(rest[0]))) {
			m.out.places[to+rest] = at
		}
	}
}

func (m *merger) forget(to string) {
	for p := range m.out.places {
		if rest, ok := strings.CutPrefix(p, to); ok && (rest == "" || strings.ContainsRune(".[#", rune(rest[0]))) {
			delete(m.out.places, p)
		}
	}
}

// missing is the error for the first key that a value has to have and that
// nobody gave.
func (d *document) missing(path string, v reflect.Value) error {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return d.missing(path, v.Elem())
	case reflect.Slice:
		for i := range v.Len() {
			if err := d.missing(index(path, i), v.Index(i)); err != nil {
				return err
			}
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			if err := d.missing(join(path, k.String()), v.MapIndex(k)); err != nil {
				return err
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			key, options, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
			if key == "" || key == "-" {
				continue
			}
			at := join(path, key)
			if _, ok := d.places[at]; ok {
				if err := d.missing(at, v.Field(i)); err != nil {
					return err
				}
			} else if options != "omitempty" {
				return d.missingKey(path, key)
			}
		}
	}
	return nil
}

// checkInclude refuses what only a file can say.
func checkInclude(c *check, r *Recipe) error {
	if r.Include != "" && c.ofGo() {
		return fault.Errorf(fault.Usage, "include is for files").
			Hintf("load the other recipe and change the value")
	}
	return nil
}
