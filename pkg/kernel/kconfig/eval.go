package kconfig

import (
	"fmt"
	"slices"
	"strings"
)

// A Value is what is asked for one symbol, as a .config has it: y, m, n, 17,
// 0x1f or a string in quotes.
type Value struct {
	Symbol string `json:"symbol"` // without CONFIG_
	Value  string `json:"value"`
}

// Text is the line of a .config.
func (v Value) Text() string {
	if v.Value == "n" {
		return "# CONFIG_" + v.Symbol + " is not set"
	}
	return "CONFIG_" + v.Symbol + "=" + v.Value
}

// Base says what a symbol is that nothing was asked for.
type Base uint8

const (
	// Defaults takes the default of the Kconfig files, as olddefconfig does.
	Defaults Base = iota
	// AllNo takes n for every bool and tristate symbol that has a prompt, as
	// allnoconfig with KCONFIG_ALLCONFIG does.
	AllNo
)

// Result is a computed configuration.
type Result struct {
	tree  *Tree
	state []state // by Symbol.id
	// order has the members of a choice, the last asked first.
	order map[*entry][]*Symbol
	// Of the language before 6.10: which member was asked for, and which is
	// chosen.
	picked, chosenOlder map[*entry]*Symbol

	modules Tristate
}

// state is what is known of one symbol.
type state struct {
	asked    bool
	valid    bool // computed
	write    bool // it gets a line in the .config
	tri      Tristate
	visible  Tristate
	dirDep   Tristate
	revDep   Tristate
	implied  Tristate
	askedTri Tristate
	askedStr string
	str      string // of int, hex and string symbols
}

// Evaluate computes the configuration that conf makes of the values. Of two
// for the same symbol the last counts. What conf ignores with or without a
// warning is ignored: unknown symbols, and values that do not fit the type.
func (t *Tree) Evaluate(base Base, values []Value) *Result {
	r := t.start(base, values)
	for _, s := range t.symbols {
		r.compute(s)
	}
	return r
}

// start is Evaluate up to the values themselves: compute finds those, and only
// those that a symbol depends on.
func (t *Tree) start(base Base, values []Value) *Result {
	r := &Result{tree: t, state: make([]state, len(t.symbols)), order: map[*entry][]*Symbol{},
		picked: map[*entry]*Symbol{}, chosenOlder: map[*entry]*Symbol{}}
	if t.older {
		for _, s := range t.symbols {
			if s.isChoice() {
				r.state[s.id].asked = true
			}
		}
	}
	for i, tri := range []Tristate{No, Mod, Yes} {
		r.state[i] = state{valid: true, tri: tri, str: tri.String()}
	}
	for _, v := range values {
		r.ask(v)
	}
	if base == AllNo {
		for _, s := range t.symbols {
			if !s.logical() || s.isChoice() || r.state[s.id].asked {
				continue
			}
			if t.older || !s.member && s.entryPrompt() {
				r.state[s.id].asked = true
				if s.allNoYes {
					r.state[s.id].askedTri = Yes
				}
			}
		}
	}
	r.compute(t.modules)
	r.modules = r.state[t.modules.id].tri
	return r
}

// entryPrompt says whether an entry of the symbol has a prompt.
func (s *Symbol) entryPrompt() bool {
	return slices.ContainsFunc(s.entries, func(e *entry) bool { return e.prompt != nil })
}

// ask records a value, as conf does when it reads a .config.
func (r *Result) ask(v Value) {
	s := r.tree.byName[v.Symbol]
	if s == nil {
		return
	}
	st := &r.state[s.id]
	switch s.Type {
	case Bool, Tri:
		switch {
		case strings.HasPrefix(v.Value, "y"):
			st.askedTri = Yes
		case strings.HasPrefix(v.Value, "m") && s.Type == Tri:
			st.askedTri = Mod
		case strings.HasPrefix(v.Value, "n"):
			st.askedTri = No
		default:
			return
		}
	case String:
		text, ok := unquote(v.Value)
		if !ok {
			return
		}
		st.askedStr = text
	case Int, Hex:
		if !validNumber(s.Type, v.Value) {
			return
		}
		st.askedStr = v.Value
	default:
		return
	}
	st.asked = true
	if c := s.choice; c != nil && s.member && r.tree.older {
		r.askOlder(s)
	} else if c != nil && s.member {
		members := r.members(c)
		if i := slices.Index(members, s); i >= 0 {
			r.order[c] = append([]*Symbol{s}, slices.Delete(slices.Clone(members), i, i+1)...)
		}
	}
}

// members are those of a choice, the last asked first.
func (r *Result) members(c *entry) []*Symbol {
	if o, ok := r.order[c]; ok {
		return o
	}
	return c.members
}

// typeOf is the symbol's type: without modules a tristate is a bool.
func (r *Result) typeOf(s *Symbol) Type {
	if s.Type == Tri && r.modules == No {
		return Bool
	}
	return s.Type
}

// eval is the value of an expression.
func (r *Result) eval(e *expr) Tristate {
	if e == nil {
		return Yes
	}
	switch e.op {
	case opSymbol:
		r.compute(e.a)
		return r.state[e.a.id].tri
	case opNot:
		return Yes - r.eval(e.l)
	case opAnd:
		if l := r.eval(e.l); l != No {
			return min(l, r.eval(e.r))
		}
		return No
	case opOr:
		if l := r.eval(e.l); l != Yes {
			return max(l, r.eval(e.r))
		}
		return Yes
	}
	r.compute(e.a)
	r.compute(e.b)
	c := r.compare(e.a, e.b)
	holds := false
	switch e.op {
	case opEqual:
		holds = c == 0
	case opUnequal:
		holds = c != 0
	case opLess:
		holds = c < 0
	case opLessEqual:
		holds = c <= 0
	case opGreater:
		holds = c > 0
	case opGreaterEqual:
		holds = c >= 0
	}
	if holds {
		return Yes
	}
	return No
}

// text is the symbol's value as a string.
func (r *Result) text(s *Symbol) string {
	st := &r.state[s.id]
	if s.logical() {
		return st.tri.String()
	}
	return st.str
}

// visibility computes what may be asked of the symbol and what others ask of
// it.
func (r *Result) visibility(s *Symbol) {
	st := &r.state[s.id]
	if s.transitional {
		// Nothing else counts: not even what selects it.
		st.visible = Yes
		return
	}
	tri := No
	for _, p := range s.props {
		if p.kind == propPrompt && tri != Yes {
			if prompt := r.eval(p.cond); !r.hidden(s, prompt) {
				tri = max(tri, prompt)
			}
		}
	}
	if tri == Mod && (s.Type != Tri || r.modules == No) {
		tri = Yes
	}
	st.visible = tri
	if s.member {
		return
	}
	whole := r.typeOf(s) == Bool
	clip := func(t Tristate) Tristate {
		if t == Mod && whole {
			return Yes
		}
		return t
	}
	tri = Yes
	if len(s.dirDep) > 0 {
		tri = No
		for _, e := range s.dirDep {
			if tri = max(tri, r.eval(e)); tri == Yes {
				break
			}
		}
	}
	st = &r.state[s.id]
	st.dirDep = clip(tri)
	st.revDep = clip(r.reverse(s.revDep))
	st.implied = clip(r.reverse(s.implied))
}

func (r *Result) reverse(list []reverse) Tristate {
	tri := No
	for i := range list {
		if tri = max(tri, r.pull(&list[i])); tri == Yes {
			break
		}
	}
	return tri
}

// pull is how far one select or imply raises its target.
func (r *Result) pull(v *reverse) Tristate {
	r.compute(v.by)
	if by := r.state[v.by.id].tri; by != No {
		return min(by, r.eval(v.cond))
	}
	return No
}

// active is the first property of a kind whose condition holds.
func (r *Result) active(s *Symbol, kind propKind) (*property, Tristate) {
	for _, p := range s.props {
		if p.kind == kind {
			if tri := r.eval(p.cond); tri != No {
				return p, tri
			}
		}
	}
	return nil, No
}

// compute sets the value of a symbol. A symbol that depends on itself is off
// while it is computed.
func (r *Result) compute(s *Symbol) {
	st := &r.state[s.id]
	if st.valid {
		return
	}
	st.valid = true
	switch s.Type {
	case Unknown:
		st.str = s.Name
		return
	case Int:
		if st.str = "0"; r.tree.older {
			st.str = ""
		}
	case Hex:
		if st.str = "0x0"; r.tree.older {
			st.str = ""
		}
	case Bool, Tri:
		st.str = "n" // what a default of another type makes of it
	}
	r.visibility(s)
	st.write = st.visible != No
	if s.logical() {
		r.computeLogical(s, st)
	} else {
		r.computeText(s, st)
	}
	if r.tree.older && s.isChoice() {
		for _, m := range s.entries[0].members {
			if st.write && r.state[m.id].visible != No {
				r.state[m.id].write = true
			}
		}
	}
	if s.isChoice() || s.transitional || s.noWrite {
		st.write = false
	}
}

func (r *Result) computeLogical(s *Symbol, st *state) {
	switch {
	case r.tree.older:
		if r.computeOlder(s, st) {
			return
		}
	case s.choice != nil:
		r.choose(s.choice)
		return
	}
	tri := No
	if st.visible != No && st.asked {
		tri = min(st.askedTri, st.visible)
	} else {
		if st.revDep != No {
			st.write = true
		}
		if !s.isChoice() {
			if p, cond := r.active(s, propDefault); p != nil {
				if tri = min(r.eval(p.value), cond); tri != No {
					st.write = true
				}
			}
			if st.implied != No {
				st.write = true
				tri = min(max(tri, st.implied), st.dirDep)
			}
		}
	}
	tri = max(tri, st.revDep)
	if tri == Mod && r.typeOf(s) == Bool {
		tri = Yes
	}
	st.tri = tri
	if r.tree.older && s.isChoice() && tri == Yes {
		r.chooseOlder(s.entries[0])
	}
}

func (r *Result) computeText(s *Symbol, st *state) {
	if st.visible != No && st.asked {
		st.str = st.askedStr
	} else if p, _ := r.active(s, propDefault); p != nil && p.value.op == opSymbol {
		st.write = true
		r.compute(p.value.a)
		st.str = r.state[p.value.a.id].str
	}
	if s.Type != Int && s.Type != Hex {
		return
	}
	p, _ := r.active(s, propRange)
	if p == nil {
		return
	}
	base := 10
	if s.Type == Hex {
		base = 16
	}
	v := parseInt(st.str, base)
	switch {
	case v < r.bound(p.low, base):
		st.str = r.state[p.low.id].str
	case v > r.bound(p.high, base):
		st.str = r.state[p.high.id].str
	}
}

// bound is the number a range names.
func (r *Result) bound(s *Symbol, base int) int64 {
	r.compute(s)
	switch s.Type {
	case Int:
		base = 10
	case Hex:
		base = 16
	}
	return parseInt(r.state[s.id].str, base)
}

// Value is the final value of a symbol as a .config has it, "n" for one that
// is off, has no line or is unknown.
func (r *Result) Value(name string) string {
	s := r.tree.byName[name]
	if s == nil {
		return "n"
	}
	if r.compute(s); !r.state[s.id].write {
		return "n"
	}
	return r.written(s)
}

func (r *Result) written(s *Symbol) string {
	if s.Type == String {
		return quote(r.state[s.id].str)
	}
	return r.text(s)
}

// String sums a result up in one line.
func (r *Result) String() string {
	on := 0
	for _, s := range r.tree.Symbols() {
		if r.Value(s.Name) != "n" {
			on++
		}
	}
	return fmt.Sprintf("%s: %d of %d symbols are on", r.tree.Title(), on, len(r.tree.Symbols()))
}
