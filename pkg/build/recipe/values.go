package recipe

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Checked is the recipe with its defaults filled in, a copy that shares no list
// with r which filling in changes. What is wrong is found as Parse finds it, in
// the same words without line and column; a file that is named must be there.
//
// A recipe made in Go may leave out what is not wanted of it: without Kernel no
// kernel is built, without Ports every package comes from Repositories, and
// without Packages there is no root. Parse demands all of it.
//
// Errors are of class fault.Usage.
func (r *Recipe) Checked() (*Recipe, error) {
	c := *r
	c.Users = slices.Clone(r.Users)
	c.Files = slices.Clone(r.Files)
	c.Services = slices.Clone(r.Services)
	for i := range c.Services {
		s := &c.Services[i]
		s.Directories = slices.Clone(s.Directories)
		s.Secrets = slices.Clone(s.Secrets)
	}
	if c.Schema == 0 {
		c.Schema = Schema
	}
	if c.FS != nil && c.Dir == "" {
		c.Dir = "."
	}
	doc := &document{path: r.Path, places: map[string]place{}}
	doc.given("", reflect.ValueOf(c))
	if err := checkRecipe(doc, &c); err != nil {
		return nil, err
	}
	if err := checkRecipeFiles(doc, &c); err != nil {
		return nil, err
	}
	c.fill()
	return &c, nil
}

// given notes what a value made in Go has, under the paths that the decoder
// has: all that is not zero.
func (d *document) given(path string, v reflect.Value) {
	if v.IsZero() && path != "" {
		return
	}
	d.places[path] = place{}
	switch v.Kind() {
	case reflect.Pointer:
		d.given(path, v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			tag, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
			if tag != "" && tag != "-" {
				d.given(join(path, tag), v.Field(i))
			}
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			key := join(path, k.String())
			d.places[key+"#key"] = place{}
			d.given(key, v.MapIndex(k))
		}
	case reflect.Slice:
		for i := range v.Len() {
			at := fmt.Sprintf("%s[%d]", path, i)
			d.places[at] = place{}
			d.given(at, v.Index(i))
		}
	}
}

// ofGo says whether the checked value was made in Go, where zero is "not
// given".
func (c *check) ofGo() bool { return c.doc.places[""] == place{} }
