package kconfig

import (
	"errors"
	"fmt"
	"strings"
)

// option takes a line that belongs to the entry before it. It returns false
// for a word that is no option of such an entry.
func (p *parser) option(s *scanner, word string, args *reader) (bool, error) {
	e := p.entry
	if word == "depends" {
		if !args.keyword("on") {
			return true, errors.New(`"depends" without "on"`)
		}
		dep, err := args.expr()
		if err != nil {
			return true, err
		}
		cond, err := args.condition()
		if err != nil {
			return true, err
		}
		if cond != nil {
			dep = join(opOr, dep, cond.isNo(p.tree.symbols[idNo]))
		}
		if e.dep = and(e.dep, dep); e.dep.depth > maxDepth {
			return true, fmt.Errorf("more than %d dependencies", maxDepth)
		}
		return true, args.end()
	}
	var err error
	switch e.kind {
	case kindMenu:
		if word != "visible" {
			return false, nil
		}
		var cond *expr
		if cond, err = args.condition(); err == nil {
			e.visibility = and(e.visibility, cond)
		}
	case kindConfig, kindChoice:
		if word == "help" {
			if err := args.end(); err != nil {
				return true, err
			}
			s.skipHelp()
			return true, nil
		}
		var ok bool
		if ok, err = p.configOption(e, word, args); !ok && err == nil {
			return false, nil
		}
	default:
		return false, nil
	}
	if err == nil {
		err = args.end()
	}
	return true, err
}

func (p *parser) configOption(e *entry, word string, args *reader) (bool, error) {
	switch word {
	case "bool", "tristate", "int", "hex", "string":
		if e.kind == kindChoice && word != "bool" && (word != "tristate" || !p.tree.older) {
			return true, fmt.Errorf("a choice cannot be of type %s", word)
		}
		if args.more() {
			if err := p.prompt(e, args); err != nil {
				return true, err
			}
		}
		p.setType(e.sym, typeOf(word))
	case "prompt":
		return true, p.prompt(e, args)
	case "default", "def_bool", "def_tristate":
		value, err := args.expr()
		if err != nil {
			return true, err
		}
		if err := p.property(e, args, &property{kind: propDefault, value: value}); err != nil {
			return true, err
		}
		p.setType(e.sym, typeOf(word))
	case "select", "imply":
		name, err := args.name()
		if err != nil {
			return true, err
		}
		kind := propSelect
		if word == "imply" {
			kind = propImply
		}
		return true, p.property(e, args, &property{kind: kind, value: symbolExpr(p.tree.lookup(name.text), "")})
	case "range":
		low, err := args.symbol()
		if err != nil {
			return true, err
		}
		high, err := args.symbol()
		if err != nil {
			return true, err
		}
		return true, p.property(e, args, &property{kind: propRange, low: low.a, high: high.a})
	case "modules":
		if m := p.tree.modules; m != nil && m != e.sym {
			return true, fmt.Errorf("modules is an option of %s already", m.Name)
		}
		p.tree.modules = e.sym
	default:
		return false, nil
	}
	return true, nil
}

// prompt reads a prompt's text and condition. The "visible if" of every menu
// around is part of the condition.
func (p *parser) prompt(e *entry, args *reader) error {
	text, err := args.string()
	if err != nil {
		return err
	}
	prop := &property{kind: propPrompt, text: strings.TrimLeft(text, " \t")}
	if err := p.property(e, args, prop); err != nil {
		return err
	}
	for m := e.parent; m != nil; m = m.parent {
		prop.cond = and(prop.cond, m.visibility)
	}
	e.prompt = prop
	return nil
}

// property reads a condition and adds the property to the entry.
func (p *parser) property(e *entry, args *reader, prop *property) error {
	cond, err := args.condition()
	if err != nil {
		return err
	}
	prop.cond, prop.at = cond, p.at
	e.props = append(e.props, prop)
	e.sym.props = append(e.sym.props, prop)
	return nil
}

// setType keeps the first type a symbol is given, as conf does.
func (p *parser) setType(s *Symbol, t Type) {
	if s.Type == Unknown {
		s.Type = t
	}
}

func typeOf(word string) Type {
	switch word {
	case "bool", "def_bool":
		return Bool
	case "tristate", "def_tristate":
		return Tri
	case "int":
		return Int
	case "hex":
		return Hex
	case "string":
		return String
	}
	return Unknown
}

// reader takes the arguments of a statement.
type reader struct {
	p      *parser
	tokens []token
	parens int
}

func (r *reader) more() bool { return len(r.tokens) > 0 }

func (r *reader) end() error {
	if r.more() {
		return fmt.Errorf("%q is too much here", r.tokens[0].text)
	}
	return nil
}

func (r *reader) take() (token, error) {
	if !r.more() {
		return token{}, errors.New("the line ends too early")
	}
	t := r.tokens[0]
	r.tokens = r.tokens[1:]
	return t, nil
}

// keyword takes that word if it is next.
func (r *reader) keyword(word string) bool {
	if r.more() && r.tokens[0].is(word) {
		r.tokens = r.tokens[1:]
		return true
	}
	return false
}

func (r *reader) operator(op string) bool {
	if r.more() && r.tokens[0].op(op) {
		r.tokens = r.tokens[1:]
		return true
	}
	return false
}

func (r *reader) string() (string, error) {
	t, err := r.take()
	if err == nil && t.kind != tokString && (t.kind != tokWord || !r.p.tree.older) {
		err = fmt.Errorf("%q is not in quotes", t.text)
	}
	return t.text, err
}

func (r *reader) name() (token, error) {
	t, err := r.take()
	if err == nil && t.kind != tokWord {
		err = fmt.Errorf("%q is not the name of a symbol", t.text)
	}
	return t, err
}

// symbol is a name or a constant in quotes.
func (r *reader) symbol() (*expr, error) {
	t, err := r.take()
	if err != nil {
		return nil, err
	}
	switch t.kind {
	case tokWord:
		return symbolExpr(r.p.tree.lookup(t.text), t.probe), nil
	case tokString:
		return symbolExpr(r.p.quote(t.text), t.probe), nil
	}
	return nil, fmt.Errorf("%q is not a symbol", t.text)
}

// condition is "if EXPRESSION" or nothing.
func (r *reader) condition() (*expr, error) {
	if !r.keyword("if") {
		return nil, nil
	}
	return r.expr()
}

// expr reads an expression; && binds tighter than ||.
func (r *reader) expr() (*expr, error) {
	e, err := r.conjunction()
	for err == nil && r.operator("||") {
		var right *expr
		if right, err = r.conjunction(); err == nil {
			e, err = checked(join(opOr, e, right))
		}
	}
	return e, err
}

func (r *reader) conjunction() (*expr, error) {
	e, err := r.operand()
	for err == nil && r.operator("&&") {
		var right *expr
		if right, err = r.operand(); err == nil {
			e, err = checked(and(e, right))
		}
	}
	return e, err
}

func checked(e *expr) (*expr, error) {
	if e.depth > maxDepth {
		return nil, fmt.Errorf("an expression is nested deeper than %d", maxDepth)
	}
	return e, nil
}

func (r *reader) operand() (*expr, error) {
	if r.parens++; r.parens > maxParens {
		return nil, fmt.Errorf("an expression is nested deeper than %d", maxParens)
	}
	defer func() { r.parens-- }()
	switch {
	case r.operator("!"):
		e, err := r.operand()
		if err != nil {
			return nil, err
		}
		return not(e), nil
	case r.operator("("):
		e, err := r.expr()
		if err == nil && !r.operator(")") {
			err = errors.New("a ) is missing")
		}
		return e, err
	}
	left, err := r.symbol()
	if err != nil {
		return nil, err
	}
	for o := opEqual; o <= opGreaterEqual; o++ {
		if !r.operator(o.String()) {
			continue
		}
		right, err := r.symbol()
		if err != nil {
			return nil, err
		}
		probe := left.probe
		if probe == "" {
			probe = right.probe
		}
		return &expr{op: o, a: left.a, b: right.a, probe: probe, depth: 1}, nil
	}
	return left, nil
}
