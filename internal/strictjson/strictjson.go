// Package strictjson reads JSON files of our own formats strictly and says where
// a mistake is.
//
// A file's bytes and a pointer to a struct come in; filled values go out, or an
// error of class fault.Usage that begins with file:line:column. Every key is
// known and given once, every key is present unless its field is omitempty, and
// every value has the right type. encoding/json can be told to refuse unknown
// keys but says neither where they are nor that one is missing or double.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// maxDepth bounds how deep arrays and objects are nested.
const maxDepth = 32

// File is a JSON file to read.
type File struct {
	Name string // for errors
	Data []byte
	// What it holds, for errors: "lock".
	What string
	// Hint of every error.
	Hint string
}

// Decoded says where the values of a file are.
type Decoded struct {
	f File
	// at remembers where each value began: "sources[3].digest" → offset.
	at map[string]int
}

type decoder struct {
	Decoded
	json *json.Decoder
}

// Decode fills v, a pointer to a struct of structs, slices, strings, whole
// numbers and booleans, and refuses anything after it.
func Decode(f File, v any) (*Decoded, error) {
	j := json.NewDecoder(bytes.NewReader(f.Data))
	j.UseNumber()
	d := &decoder{Decoded{f, map[string]int{}}, j}
	if err := d.value(reflect.ValueOf(v).Elem(), "", 0); err != nil {
		return nil, err
	}
	at := d.next()
	if _, err := d.json.Token(); !errors.Is(err, io.EOF) {
		return nil, d.errorf(at, "something follows the %s's closing brace", f.What)
	}
	return &d.Decoded, nil
}

// Errorf makes the error for a value, by its path: "sources[3].digest". A path
// that is absent from the file stands where the object around it does.
func (d *Decoded) Errorf(path, format string, args ...any) error {
	at, ok := d.at[path]
	for outer := path; !ok && outer != ""; {
		outer = outer[:max(strings.LastIndexByte(outer, '.'), 0)]
		at, ok = d.at[outer]
	}
	return d.errorf(at, "%s: %w", path, fmt.Errorf(format, args...))
}

func (d *decoder) value(v reflect.Value, path string, depth int) error {
	if depth > maxDepth {
		return d.errorf(d.next(), "%s: nested more than %d deep", path, maxDepth)
	}
	if v.Kind() == reflect.Pointer { // an object that may be absent
		v.Set(reflect.New(v.Type().Elem()))
		return d.value(v.Elem(), path, depth)
	}
	at := d.next()
	d.at[path] = at
	tok, err := d.token()
	if err != nil {
		return err
	}
	switch v.Kind() {
	case reflect.Struct:
		if tok != json.Delim('{') {
			return d.wrongType(at, path, "an object", tok)
		}
		return d.object(v, path, at, depth+1)
	case reflect.Slice:
		if tok != json.Delim('[') {
			return d.wrongType(at, path, "an array", tok)
		}
		return d.array(v, path, depth+1)
	case reflect.String:
		s, ok := tok.(string)
		if !ok {
			return d.wrongType(at, path, "a string", tok)
		}
		v.SetString(s)
	case reflect.Int, reflect.Int64:
		n, ok := tok.(json.Number)
		if !ok {
			return d.wrongType(at, path, "a whole number", tok)
		}
		i, err := n.Int64()
		if err != nil {
			return d.errorf(at, "%s: %s is not a whole number in range", path, n)
		}
		v.SetInt(i)
	case reflect.Bool:
		b, ok := tok.(bool)
		if !ok {
			return d.wrongType(at, path, "true or false", tok)
		}
		v.SetBool(b)
	default:
		return fault.Errorf(fault.Internal, "%s: no decoder for %s", d.f.What, v.Type())
	}
	return nil
}

func (d *decoder) object(v reflect.Value, path string, start, depth int) error {
	fields := make(map[string]int)
	optional := make(map[string]bool)
	for i := range v.NumField() {
		name, opts, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		if name != "-" {
			fields[name], optional[name] = i, opts == "omitempty"
		}
	}
	seen := make(map[string]bool)
	for d.json.More() {
		at := d.next()
		tok, err := d.token()
		if err != nil {
			return err
		}
		key, _ := tok.(string) // encoding/json allows nothing else here
		i, known := fields[key]
		switch {
		case !known:
			return d.errorf(at, "unknown key %q in %s", key, d.name(path))
		case seen[key]:
			return d.errorf(at, "key %q is given twice in %s", key, d.name(path))
		}
		seen[key] = true
		if err := d.value(v.Field(i), strings.TrimPrefix(path+"."+key, "."), depth); err != nil {
			return err
		}
	}
	if _, err := d.token(); err != nil { // the closing brace
		return err
	}
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		if name != "-" && !seen[name] && !optional[name] {
			return d.errorf(start, "%s lacks the key %q", d.name(path), name)
		}
	}
	return nil
}

func (d *decoder) array(v reflect.Value, path string, depth int) error {
	v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	for d.json.More() {
		e := reflect.New(v.Type().Elem()).Elem()
		if err := d.value(e, fmt.Sprintf("%s[%d]", path, v.Len()), depth); err != nil {
			return err
		}
		v.Set(reflect.Append(v, e))
	}
	_, err := d.token() // the closing bracket
	return err
}

func (d *decoder) token() (json.Token, error) {
	tok, err := d.json.Token()
	if err == nil {
		return tok, nil
	}
	at := len(d.f.Data)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		at = int(syntax.Offset) - 1
		// Decoder counts offsets of some errors from the start of its buffer.
		at = max(at, int(d.json.InputOffset()))
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, d.errorf(len(d.f.Data), "the file ends in the middle")
	}
	return nil, d.errorf(at, "not JSON: %w", err)
}

// next is the offset of the next token.
func (d *decoder) next() int {
	i := int(d.json.InputOffset())
	for i < len(d.f.Data) && strings.IndexByte(" \t\r\n,:", d.f.Data[i]) >= 0 {
		i++
	}
	return i
}

func (d *decoder) wrongType(at int, path, want string, got json.Token) error {
	kind := "a number"
	switch got := got.(type) {
	case json.Delim:
		kind = map[json.Delim]string{'{': "an object", '[': "an array"}[got]
	case string:
		kind = "a string"
	case bool:
		kind = "true or false"
	case nil:
		kind = "null"
	}
	return d.errorf(at, "%s is %s, want %s", d.name(path), kind, want)
}

// errorf makes the error for an offset: file:line:column: text.
func (d *Decoded) errorf(at int, format string, args ...any) error {
	at = min(max(at, 0), len(d.f.Data))
	line := 1 + bytes.Count(d.f.Data[:at], []byte{'\n'})
	column := at - bytes.LastIndexByte(d.f.Data[:at], '\n')
	return fault.Errorf(fault.Usage, "%s:%d:%d: %w", d.f.Name, line, column, fmt.Errorf(format, args...)).Hintf("%s", d.f.Hint)
}

// name is a path for people.
func (d *Decoded) name(path string) string {
	if path == "" {
		return "the " + d.f.What
	}
	return path
}
