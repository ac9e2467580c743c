package kconfig

import (
	"fmt"
	"strings"
)

type tokenKind uint8

const (
	tokWord    tokenKind = iota // a name, or what a macro became
	tokKeyword                  // a name that the language reserves
	tokString
	tokOperator
)

type token struct {
	kind  tokenKind
	text  string
	probe string // of a word or string: the $(shell) call it came from
}

func (t token) is(keyword string) bool { return t.kind == tokKeyword && t.text == keyword }

func (t token) op(operator string) bool { return t.kind == tokOperator && t.text == operator }

func isKeyword(s string) bool {
	switch s {
	case "bool", "choice", "comment", "config", "def_bool", "def_tristate", "default", "depends",
		"endchoice", "endif", "endmenu", "help", "hex", "if", "imply", "int", "mainmenu", "menu",
		"menuconfig", "modules", "on", "prompt", "range", "select", "source", "string", "tristate", "visible":
		return true
	}
	return false
}

// scanner cuts a Kconfig file into statements.
type scanner struct {
	name string
	text string
	pos  int
	line int // of pos, from 1

	tokens []token // of the current statement, reused
	start  int     // its line
}

// next reads the next statement: a logical line with at least one token. It
// returns none at the end of the file. For an assignment it stops after the
// operator; rest is then the text of the value.
func (s *scanner) next(m *macros) (tokens []token, rest string, err error) {
	s.tokens = s.tokens[:0]
	for s.pos < len(s.text) {
		c := s.text[s.pos]
		switch {
		case c == '\n':
			s.pos++
			s.line++
			if len(s.tokens) > 0 {
				return s.tokens, "", nil
			}
			continue
		case c == ' ' || c == '\t':
			s.pos++
			continue
		case c == '#':
			s.skipLine()
			continue
		case c == '\\' && strings.HasPrefix(s.text[s.pos:], "\\\n"):
			s.pos += 2
			s.line++
			continue
		}
		at := s.line
		m.at = Pos{s.name, s.line}
		m.probe = ""
		t, ok, err := s.token(c, m)
		if err != nil {
			return nil, "", err
		}
		if !ok {
			continue
		}
		t.probe = m.probe
		if len(s.tokens) == 0 {
			s.start = at
		}
		s.tokens = append(s.tokens, t)
		if len(s.tokens) == 2 && s.tokens[0].kind == tokWord && t.kind == tokOperator &&
			(t.text == "=" || t.text == ":=" || t.text == "+=") {
			return s.tokens, s.value(), nil
		}
	}
	return s.tokens, "", nil
}

// value is the rest of an assignment's line.
func (s *scanner) value() string {
	start := s.pos
	s.skipLine()
	return strings.TrimLeft(s.text[start:s.pos], " \t")
}

// skipLine goes to the line end.
func (s *scanner) skipLine() {
	if i := strings.IndexByte(s.text[s.pos:], '\n'); i >= 0 {
		s.pos += i
	} else {
		s.pos = len(s.text)
	}
}

// lineEnd is where the current line ends.
func (s *scanner) lineEnd() int {
	if i := strings.IndexByte(s.text[s.pos:], '\n'); i >= 0 {
		return s.pos + i
	}
	return len(s.text)
}

// token reads one token that begins with c. Nothing is not an error: an empty
// expansion, or a character that means nothing, which conf warns about.
func (s *scanner) token(c byte, m *macros) (token, bool, error) {
	switch {
	case c == '"' || c == '\'':
		text, err := s.quoted(c, m)
		return token{kind: tokString, text: text}, true, err
	case isWord(c) || c == '$':
		return s.word(m)
	}
	for _, o := range [...]string{"||", "&&", "!=", "<=", ">=", ":=", "+=", "=", "<", ">", "!", "(", ")"} {
		if strings.HasPrefix(s.text[s.pos:], o) {
			s.pos += len(o)
			return token{kind: tokOperator, text: o}, true, nil
		}
	}
	s.pos++
	return token{}, false, nil
}

func (s *scanner) word(m *macros) (token, bool, error) {
	i := s.pos
	for i < len(s.text) && isWord(s.text[i]) {
		i++
	}
	if i == len(s.text) || s.text[i] != '$' {
		t := token{kind: tokWord, text: s.text[s.pos:i]}
		if isKeyword(t.text) {
			t.kind = tokKeyword
		}
		s.pos = i
		return t, true, nil
	}
	end := s.lineEnd()
	out, rest, err := m.word(s.text[s.pos:end])
	if err != nil {
		return token{}, false, err
	}
	s.pos = end - len(rest)
	return token{kind: tokWord, text: out}, out != "", nil
}

// quoted reads a string. Within it a backslash makes the next character
// literal and references are expanded; it ends with its line at the latest.
func (s *scanner) quoted(quote byte, m *macros) (string, error) {
	var b strings.Builder
	s.pos++
	end := s.lineEnd()
	for s.pos < end {
		switch c := s.text[s.pos]; c {
		case quote:
			s.pos++
			return b.String(), nil
		case '\\':
			s.pos++
			if s.pos < end {
				b.WriteByte(s.text[s.pos])
				s.pos++
			}
		case '$':
			out, rest, err := m.dollar(s.text[s.pos+1:end], nil, 0)
			if err != nil {
				return "", err
			}
			if b.Len()+len(out) > maxExpansion {
				return "", fmt.Errorf("a string is longer than %d bytes", maxExpansion)
			}
			b.WriteString(out)
			s.pos = end - len(rest)
		default:
			b.WriteByte(c)
			s.pos++
		}
	}
	return b.String(), nil
}

// skipHelp passes over a help text: everything indented at least as far as its
// first line.
func (s *scanner) skipHelp() {
	first := 0
	for n := 0; s.pos < len(s.text); n++ {
		end := s.lineEnd()
		indent, i := 0, s.pos
		for ; i < end && (s.text[i] == ' ' || s.text[i] == '\t'); i++ {
			if s.text[i] == '\t' {
				indent = indent&^7 + 8
			} else {
				indent++
			}
		}
		if i < end {
			// Text at the very left ends the help, except right below the
			// keyword.
			if indent == 0 && n > 0 || indent < first {
				return
			}
			if first == 0 {
				first = indent
			}
		}
		s.pos = min(end+1, len(s.text))
		s.line++
	}
}
