package recipe

import (
	"encoding"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// decode fills the struct or map out points to from a node, strictly: a key
// the Go type does not have, a missing key without omitempty, a key given
// twice and a value of another type are errors. It notes the place of every
// value under its path.
func (d *document) decode(n ast.Node, out any) error {
	return d.value("", n, reflect.ValueOf(out).Elem())
}

func (d *document) value(path string, n ast.Node, v reflect.Value) error {
	at := nodePlace(n)
	d.places[path] = at
	if strings.Count(path, ".")+strings.Count(path, "[") > maxDepth {
		return d.errorf(at, "nested deeper than %d levels", maxDepth)
	}
	if v.CanAddr() {
		if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
			text, err := d.scalar(path, n)
			if err != nil {
				return err
			}
			if err := u.UnmarshalText([]byte(text)); err != nil {
				return d.errorf(at, "%s: %s", name(path), err)
			}
			return nil
		}
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return d.value(path, n, v.Elem())
	case reflect.Struct:
		return d.structure(path, n, v)
	case reflect.Map:
		return d.mapping(path, n, v)
	case reflect.Slice:
		return d.slice(path, n, v)
	case reflect.String:
		return d.text(path, n, v)
	case reflect.Bool:
		b, ok := n.(*ast.BoolNode)
		if !ok {
			return d.mismatch(path, n, "true or false")
		}
		v.SetBool(b.Value)
		return nil
	case reflect.Int, reflect.Uint64:
		return d.number(path, n, v)
	}
	return fmt.Errorf("recipe: no way to decode into %s", v.Type())
}

// pairs are the keys and values of a mapping, each key a plain word and given
// once.
func (d *document) pairs(path string, n ast.Node) ([]*ast.MappingValueNode, []string, error) {
	var pairs []*ast.MappingValueNode
	switch m := n.(type) {
	case *ast.MappingNode:
		pairs = m.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{m}
	default:
		return nil, nil, d.mismatch(path, n, "a mapping of keys to values")
	}
	keys := make([]string, len(pairs))
	seen := make(map[string]place, len(pairs))
	for i, p := range pairs {
		at := nodePlace(p.Key)
		key, ok := keyText(p.Key)
		if !ok {
			return nil, nil, d.errorf(at, "a key must be a word")
		}
		if first, ok := seen[key]; ok {
			return nil, nil, d.errorf(at, "key %q is given twice, first in line %d", key, first.line)
		}
		seen[key] = at
		keys[i] = key
	}
	return pairs, keys, nil
}

func keyText(k ast.MapKeyNode) (string, bool) {
	switch k := k.(type) {
	case *ast.StringNode:
		return k.Value, true
	case *ast.IntegerNode, *ast.BoolNode, *ast.FloatNode, *ast.NullNode:
		return k.GetToken().Value, true
	}
	return "", false
}

func (d *document) structure(path string, n ast.Node, v reflect.Value) error {
	pairs, keys, err := d.pairs(path, n)
	if err != nil {
		return err
	}
	type field struct {
		index    int
		required bool
	}
	fields, names := map[string]field{}, []string{}
	for i := range v.NumField() {
		tag, options, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		if tag == "" || tag == "-" {
			continue
		}
		fields[tag] = field{i, options != "omitempty"}
		names = append(names, tag)
	}
	given := map[string]bool{}
	for i, p := range pairs {
		key := keys[i]
		f, ok := fields[key]
		if !ok {
			e := d.errorf(nodePlace(p.Key), "unknown key %q%s", key, unknown(key, names))
			return e.Hintf("keys here are %s", strings.Join(names, ", "))
		}
		given[key] = true
		if err := d.value(join(path, key), p.Value, v.Field(f.index)); err != nil {
			return err
		}
	}
	for _, key := range names {
		if fields[key].required && !given[key] && !d.partial {
			return d.missingKey(path, key)
		}
	}
	return nil
}

func (d *document) missingKey(path, key string) error {
	where := "at the top of the file"
	if path != "" {
		where = "in " + name(path)
	}
	return d.errorf(d.places[path], "key %q is missing %s", key, where)
}

func (d *document) mapping(path string, n ast.Node, v reflect.Value) error {
	pairs, keys, err := d.pairs(path, n)
	if err != nil {
		return err
	}
	v.Set(reflect.MakeMapWithSize(v.Type(), len(pairs)))
	for i, p := range pairs {
		elem := reflect.New(v.Type().Elem()).Elem()
		key := join(path, keys[i])
		if err := d.value(key, p.Value, elem); err != nil {
			return err
		}
		if _, ok := d.places[key+"#key"]; !ok {
			d.places[key+"#key"] = nodePlace(p.Key)
		}
		v.SetMapIndex(reflect.ValueOf(keys[i]), elem)
	}
	return nil
}

func (d *document) slice(path string, n ast.Node, v reflect.Value) error {
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		return d.mismatch(path, n, "a list")
	}
	v.Set(reflect.MakeSlice(v.Type(), len(s.Values), len(s.Values)))
	for i, elem := range s.Values {
		if err := d.value(fmt.Sprintf("%s[%d]", path, i), elem, v.Index(i)); err != nil {
			return err
		}
	}
	return nil
}

func (d *document) text(path string, n ast.Node, v reflect.Value) error {
	switch n := n.(type) {
	case *ast.StringNode:
		v.SetString(n.Value)
	case *ast.LiteralNode:
		v.SetString(n.Value.Value)
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		e := d.mismatch(path, n, "text")
		return e.Hintf("put it in quotes: %q", n.GetToken().Value)
	default:
		return d.mismatch(path, n, "text")
	}
	if strings.ContainsRune(v.String(), 0) {
		return d.errorf(nodePlace(n), "%s has a NUL byte in it", name(path))
	}
	return nil
}

// scalar is the text of a value whose type reads text itself.
func (d *document) scalar(path string, n ast.Node) (string, error) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, nil
	case *ast.IntegerNode, *ast.FloatNode:
		return n.GetToken().Value, nil
	}
	return "", d.mismatch(path, n, "text")
}

// plainInteger refuses 0x1F, 1_000 and 010, which YAML versions read
// differently.
var plainInteger = regexp.MustCompile(`^(0|-?[1-9][0-9]*)$`)

func (d *document) number(path string, n ast.Node, v reflect.Value) error {
	i, ok := n.(*ast.IntegerNode)
	if !ok {
		return d.mismatch(path, n, "a whole number")
	}
	text := i.GetToken().Value
	if !plainInteger.MatchString(text) {
		return d.errorf(nodePlace(n), "%s: %q is not a plain decimal number", name(path), text)
	}
	if v.Kind() == reflect.Uint64 {
		u, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return d.errorf(nodePlace(n), "%s: %s is out of range, from 0 to %d", name(path), text, uint64(math.MaxUint64))
		}
		v.SetUint(u)
		return nil
	}
	s, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		return d.errorf(nodePlace(n), "%s: %s is out of range", name(path), text)
	}
	v.SetInt(s)
	return nil
}

// mismatch is the error for a value of a wrong type; the hint is empty and
// the caller's to give.
func (d *document) mismatch(path string, n ast.Node, want string) *fault.Error {
	return d.errorf(nodePlace(n), "%s is %s, not %s", name(path), kind(n), want)
}

func kind(n ast.Node) string {
	switch n.(type) {
	case *ast.StringNode, *ast.LiteralNode:
		return "text"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.BoolNode:
		return "true or false"
	case *ast.NullNode:
		return "empty"
	case *ast.SequenceNode:
		return "a list"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	}
	return "something else"
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// name is a value path for people.
func name(path string) string {
	if path == "" {
		return "the file"
	}
	return path
}
