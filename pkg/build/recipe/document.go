package recipe

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Limits of one file. Real ones have a few hundred lines; the limits keep a
// broken or hostile file from costing more than a moment.
const (
	maxFile   = 1 << 20 // bytes
	maxTokens = 100_000
	maxDepth  = 32 // nested lists and mappings
)

// document is a parsed file with the place of every value in it, so that a
// check long after decoding can still say line and column.
type document struct {
	path   string
	places map[string]place // by value path: "services[0].ports[1].port"
	// partial is true where keys may be missing, as another recipe has them.
	partial bool
}

// place is a line and a column, both from 1; both are 0 in what was made in Go.
// The file is "" for the document's own, and another where it was included.
type place struct {
	line, column int
	file         string
}

// parse reads data as one YAML document whose top is a mapping.
func parse(path string, data []byte) (*document, ast.Node, error) {
	d := &document{path: path, places: map[string]place{}}
	start := place{line: 1, column: 1}
	if len(data) > maxFile {
		return d, nil, d.errorf(start, "file is larger than %d bytes", maxFile)
	}
	tokens := lexer.Tokenize(string(data))
	if err := d.limit(tokens); err != nil {
		return d, nil, err
	}
	// Duplicate keys are found by the decoder, which names both places.
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		var ye yaml.Error
		if errors.As(err, &ye) && ye.GetToken() != nil {
			return d, nil, d.errorf(tokenPlace(ye.GetToken()), "not YAML: %s", oneLine(ye.GetMessage()))
		}
		return d, nil, d.errorf(start, "not YAML: %s", oneLine(err.Error()))
	}
	var body ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.CommentType {
			continue
		}
		if body != nil {
			return d, nil, d.errorf(nodePlace(doc.Body), "a second YAML document, only one is read").Hintf("remove the line of three dashes")
		}
		body = doc.Body
	}
	if body == nil {
		return d, nil, d.errorf(start, "file is empty")
	}
	return d, body, nil
}

// limit refuses, before the recursive parser sees them, files with very many
// tokens or very deep nesting, and every anchor, alias and tag: a recipe has
// no use for them, and aliases are how a small file unfolds to a huge one.
func (d *document) limit(tokens token.Tokens) error {
	if len(tokens) > maxTokens {
		return d.errorf(place{line: 1, column: 1}, "file has more than %d YAML tokens", maxTokens)
	}
	flow, dashes, line := 0, 0, 0
	for _, t := range tokens {
		at := tokenPlace(t)
		if at.line != line {
			line, dashes = at.line, 0
		}
		switch t.Type {
		case token.AnchorType, token.AliasType:
			return d.errorf(at, "YAML anchors and aliases are not allowed").Hintf("write the value out where it is used")
		case token.MergeKeyType:
			return d.errorf(at, "YAML merge keys are not allowed").Hintf("write the keys out")
		case token.TagType:
			return d.errorf(at, "YAML tags are not allowed").Hintf("remove %s", oneLine(t.Value))
		case token.DirectiveType:
			return d.errorf(at, "YAML directives are not allowed").Hintf("remove the line")
		case token.SequenceStartType, token.MappingStartType:
			flow++
		case token.SequenceEndType, token.MappingEndType:
			flow--
		case token.SequenceEntryType, token.MappingKeyType:
			dashes++
		}
		// Nesting in block style costs a column or a dash a level.
		if flow > maxDepth || dashes > maxDepth || (t.Type == token.MappingValueType && at.column > 1000) {
			return d.errorf(at, "nested deeper than %d levels", maxDepth)
		}
	}
	return nil
}

// errorf is an error at a place; Hintf adds what to do.
func (d *document) errorf(at place, format string, args ...any) *fault.Error {
	if at.line == 0 {
		return fault.Errorf(fault.Usage, "%s: %s", cmp.Or(d.path, "recipe"), fmt.Sprintf(format, args...))
	}
	return fault.Errorf(fault.Usage, "%s:%d:%d: %s", cmp.Or(at.file, d.path), at.line, at.column, fmt.Sprintf(format, args...))
}

func oneLine(s string) string {
	return strings.Join(strings.Fields(strings.ReplaceAll(s, "character '\t'", "a tab")), " ")
}

func tokenPlace(t *token.Token) place {
	if t == nil || t.Position == nil {
		return place{line: 1, column: 1}
	}
	return place{line: max(t.Position.Line, 1), column: max(t.Position.Column, 1)}
}

func nodePlace(n ast.Node) place {
	if m, ok := n.(*ast.MappingNode); ok && len(m.Values) > 0 && !m.IsFlowStyle {
		return nodePlace(m.Values[0].Key)
	}
	if v, ok := n.(*ast.MappingValueNode); ok {
		return nodePlace(v.Key)
	}
	return tokenPlace(n.GetToken())
}
