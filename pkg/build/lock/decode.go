package lock

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

// maxFile bounds a lock; a real one with 300 packages is under 100 KiB.
const maxFile = 8 << 20

// decoder reads JSON into structs, strictly: every key known and given once,
// every key present unless its field is omitempty, every value of the right
// type. encoding/json can be told to refuse unknown keys but says neither
// where they are nor that one is missing or double.
type decoder struct {
	file string
	data []byte
	json *json.Decoder
	// at remembers where each value began: "sources[3].digest" → offset.
	at map[string]int
}

func newDecoder(file string, data []byte) *decoder {
	j := json.NewDecoder(bytes.NewReader(data))
	j.UseNumber()
	return &decoder{file: file, data: data, json: j, at: make(map[string]int)}
}

// decode fills v and refuses anything after it.
func (d *decoder) decode(v any) error {
	if err := d.value(reflect.ValueOf(v).Elem(), ""); err != nil {
		return err
	}
	at := d.next()
	if _, err := d.json.Token(); !errors.Is(err, io.EOF) {
		return d.errorf(at, "unexpected text after the lock's closing brace")
	}
	return nil
}

func (d *decoder) value(v reflect.Value, path string) error {
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
		return d.object(v, path, at)
	case reflect.Slice:
		if tok != json.Delim('[') {
			return d.wrongType(at, path, "an array", tok)
		}
		return d.array(v, path)
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
	default:
		return fault.Errorf(fault.Internal, "lock: no decoder for %s", v.Type())
	}
	return nil
}

func (d *decoder) object(v reflect.Value, path string, start int) error {
	fields := make(map[string]int)
	optional := make(map[string]bool)
	for i := range v.NumField() {
		name, opts, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		fields[name], optional[name] = i, opts == "omitempty"
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
			return d.errorf(at, "unknown key %q in %s", key, orTop(path))
		case seen[key]:
			return d.errorf(at, "key %q is given twice in %s", key, orTop(path))
		}
		seen[key] = true
		if err := d.value(v.Field(i), strings.TrimPrefix(path+"."+key, ".")); err != nil {
			return err
		}
	}
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		if !seen[name] && !optional[name] {
			return d.errorf(start, "%s lacks the key %q", orTop(path), name)
		}
	}
	_, err := d.token() // the closing brace
	return err
}

func (d *decoder) array(v reflect.Value, path string) error {
	v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	for d.json.More() {
		e := reflect.New(v.Type().Elem()).Elem()
		if err := d.value(e, fmt.Sprintf("%s[%d]", path, v.Len())); err != nil {
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
	at := len(d.data)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		at = int(syntax.Offset) - 1
		// Decoder counts offsets of some errors from the start of its buffer.
		at = max(at, int(d.json.InputOffset()))
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, d.errorf(len(d.data), "the file ends in the middle")
	}
	return nil, d.errorf(at, "not JSON: %w", err)
}

// next is the offset of the next token.
func (d *decoder) next() int {
	i := int(d.json.InputOffset())
	for i < len(d.data) && strings.IndexByte(" \t\r\n,:", d.data[i]) >= 0 {
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
	return d.errorf(at, "%s is %s, want %s", orTop(path), kind, want)
}

// errorf makes the error for an offset: file:line:column: text.
func (d *decoder) errorf(at int, format string, args ...any) error {
	at = min(max(at, 0), len(d.data))
	line := 1 + bytes.Count(d.data[:at], []byte{'\n'})
	column := at - bytes.LastIndexByte(d.data[:at], '\n')
	return fault.Errorf(fault.Usage, "%s:%d:%d: %w", d.file, line, column, fmt.Errorf(format, args...)).
		Hintf("mend the file, or make a new one with sovereign-build lock")
}

func orTop(path string) string {
	if path == "" {
		return "the lock"
	}
	return path
}
