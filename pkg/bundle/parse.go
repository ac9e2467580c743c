package bundle

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

// Limits of a manifest. A real one is some 10 KiB; a limit keeps a damaged or
// hostile file from costing more than a moment.
const (
	maxManifest = 4 << 20 // bytes
	maxDepth    = 8       // nested arrays and objects
)

// Parse reads a manifest. file is the name to use in errors, which are of
// class fault.Usage and begin with file:line:column: a syntax error, an
// unknown or repeated key, a wrong type, a value outside its range.
func Parse(file string, data []byte) (*Manifest, error) {
	p := &parser{file: file, data: data, at: map[string]int64{}}
	if len(data) > maxManifest {
		return nil, fault.Errorf(fault.Usage, "%s: a manifest of %d bytes is larger than %d", file, len(data), maxManifest)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := p.value(dec, reflect.TypeFor[Manifest](), "", 0); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, p.errorf(dec.InputOffset(), "something follows the manifest's last brace")
	}
	var m Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return nil, p.errorf(wrong.Offset, "%s is a %s and must be a %s", wrong.Field, wrong.Value, wrong.Type)
		}
		return nil, p.errorf(0, "%w", err)
	}
	if err := m.check(p.errorAt); err != nil {
		return nil, err
	}
	return &m, nil
}

// parser walks the tokens once, before the values are decoded, for what
// encoding/json does not give: where each value stands, keys that nobody
// knows, keys given twice.
type parser struct {
	file string
	data []byte
	at   map[string]int64 // "artifacts[0].size" → offset of its key or value
}

func (p *parser) value(dec *json.Decoder, t reflect.Type, path string, depth int) error {
	tok, err := dec.Token()
	if err != nil {
		return p.syntax(dec, err)
	}
	if _, ok := p.at[path]; !ok {
		p.at[path] = dec.InputOffset()
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch tok {
	case json.Delim('{'):
		return p.object(dec, t, path, depth+1)
	case json.Delim('['):
		return p.array(dec, t, path, depth+1)
	}
	if tok == nil {
		return p.errorf(dec.InputOffset(), "%s is null; leave the key out instead", path)
	}
	return nil
}

func (p *parser) object(dec *json.Decoder, t reflect.Type, path string, depth int) error {
	if depth > maxDepth || t.Kind() != reflect.Struct {
		return p.errorf(dec.InputOffset(), "%s must not be an object", name(path))
	}
	fields := fieldsOf(t)
	seen := map[string]bool{}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return p.syntax(dec, err)
		}
		key, _ := tok.(string)
		// InputOffset is behind the closing quote.
		at := dec.InputOffset() - int64(len(key)) - 1
		ft, ok := fields[key]
		if !ok {
			return p.errorf(at, "unknown key %q%s", key, in(path))
		}
		if seen[key] {
			return p.errorf(at, "key %q stands twice%s", key, in(path))
		}
		seen[key] = true
		sub := key
		if path != "" {
			sub = path + "." + key
		}
		p.at[sub] = at
		if err := p.value(dec, ft, sub, depth); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil {
		return p.syntax(dec, err)
	}
	return nil
}

func (p *parser) array(dec *json.Decoder, t reflect.Type, path string, depth int) error {
	if depth > maxDepth || t.Kind() != reflect.Slice {
		return p.errorf(dec.InputOffset(), "%s must not be a list", name(path))
	}
	for i := 0; dec.More(); i++ {
		if err := p.value(dec, t.Elem(), fmt.Sprintf("%s[%d]", path, i), depth); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil {
		return p.syntax(dec, err)
	}
	return nil
}

func (p *parser) syntax(dec *json.Decoder, err error) error {
	var syn *json.SyntaxError
	if errors.As(err, &syn) {
		return p.errorf(syn.Offset, "%w", err)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return p.errorf(int64(len(p.data)), "the file ends in the middle of the manifest")
	}
	return p.errorf(dec.InputOffset(), "%w", err)
}

// errorAt reports a value by its path. A path that is absent from the file
// stands where the object around it does.
func (p *parser) errorAt(path, format string, args ...any) error {
	at, ok := p.at[path]
	for outer := path; !ok && outer != ""; {
		cut := max(strings.LastIndexByte(outer, '.'), 0)
		outer = outer[:cut]
		at, ok = p.at[outer]
	}
	return p.errorf(at, "%s: "+format, append([]any{path}, args...)...)
}

func (p *parser) errorf(offset int64, format string, args ...any) error {
	offset = min(max(offset, 1), int64(len(p.data))+1)
	before := p.data[:offset-1]
	line := 1 + bytes.Count(before, []byte{'\n'})
	column := len(before) - bytes.LastIndexByte(before, '\n')
	e := fault.Errorf(fault.Usage, format, args...)
	return fault.Errorf(fault.Usage, "%s:%d:%d: %w", p.file, line, column, e.Err).
		Hintf("build the bundle again; a manifest is written by the build and not by hand")
}

// fieldsOf lists the JSON keys of a struct and their types.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	fields := make(map[string]reflect.Type, t.NumField())
	for i := range t.NumField() {
		f := t.Field(i)
		key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		fields[key] = f.Type
	}
	return fields
}

func name(path string) string {
	if path == "" {
		return "the manifest"
	}
	return path
}

func in(path string) string {
	if path == "" {
		return ""
	}
	return " in " + path
}
