package kconfig

import (
	"fmt"
	"slices"
	"strings"
)

// Explanation says why a symbol is not what was asked, and what to ask for so
// that it is. It marshals to JSON.
type Explanation struct {
	Symbol string `json:"symbol"` // without CONFIG_
	Asked  string `json:"asked"`
	Got    string `json:"got"`
	// At is where the Kconfig files define the symbol.
	At []Pos `json:"at,omitempty"`
	// Unmet is what stands in the way; all of it has to change.
	Unmet []Unmet `json:"unmet,omitempty"`
	// Add are the values to ask for besides, what others depend on first.
	// They were tried: with them the symbol is what was asked, and without any
	// one of them it is not.
	Add []Value `json:"add,omitempty"`
	// Breaks are symbols that were asked for and kept, and that Add changes.
	Breaks []string `json:"breaks,omitempty"`
	// Never says why nothing helps, "" if Add does.
	Never string `json:"never,omitempty"`
	// Compiler are the questions to the compiler that stand in the way.
	Compiler []string `json:"compiler,omitempty"`
}

// Unmet is a condition that does not hold.
type Unmet struct {
	Text   string  `json:"text"`             // "needs BLK_DEV", in words
	Symbol string  `json:"symbol,omitempty"` // when the condition is one symbol
	Value  string  `json:"value,omitempty"`  // its value
	Unmet  []Unmet `json:"unmet,omitempty"`  // why it has that value
}

// String says it in one line: "VIRTIO_BLK=y lost: needs BLK_DEV (n; needs BLOCK
// (n)). Add BLOCK=y and BLK_DEV=y".
func (x Explanation) String() string {
	var b strings.Builder
	switch {
	case x.Asked == x.Got:
		return x.Symbol + "=" + x.Asked + " kept"
	case kept(x.Asked, x.Got):
		return x.Symbol + "=" + x.Asked + " kept as " + x.Got
	case x.Got == "n":
		fmt.Fprintf(&b, "%s=%s lost", x.Symbol, x.Asked)
	default:
		fmt.Fprintf(&b, "%s=%s became %s", x.Symbol, x.Asked, x.Got)
	}
	said := map[string]bool{}
	for _, u := range x.Unmet {
		if u.Symbol != "" && len(u.Unmet) == 0 {
			said[u.Symbol] = true
		}
	}
	for i, u := range x.Unmet {
		b.WriteString([]string{": ", "; "}[min(i, 1)] + u.say(said, true))
	}
	b.WriteByte('.')
	switch {
	case x.Never != "":
		b.WriteString(" Cannot be met: " + x.Never)
	case len(x.Add) > 0:
		b.WriteString(" Add " + sayValues(x.Add))
	}
	if len(x.Breaks) > 0 {
		b.WriteString(" (which changes " + strings.Join(x.Breaks, ", ") + ")")
	}
	if len(x.Compiler) > 0 {
		b.WriteString(" [depends on the compiler: " + strings.Join(x.Compiler, ", ") + "]")
	}
	return b.String()
}

// String says it in one line, with its reasons in parentheses.
func (u Unmet) String() string { return u.say(map[string]bool{}, true) }

// say leaves out the reasons for a symbol that have been said.
func (u Unmet) say(said map[string]bool, first bool) string {
	if u.Symbol != "" && said[u.Symbol] && !first {
		return u.Text
	}
	said[u.Symbol] = true
	var why []string
	if u.Value != "" {
		why = append(why, u.Value)
	}
	for _, w := range u.Unmet {
		why = append(why, w.say(said, false))
	}
	if len(why) == 0 {
		return u.Text
	}
	return u.Text + " (" + strings.Join(why, "; ") + ")"
}

func sayValues(values []Value) string {
	var words []string
	for _, v := range values {
		words = append(words, v.Symbol+"="+v.Value)
	}
	if n := len(words); n > 1 {
		return strings.Join(words[:n-1], ", ") + " and " + words[n-1]
	}
	return strings.Join(words, "")
}

// Limits of an explanation.
const (
	maxUnmetDepth = 4  // conditions in conditions
	maxUnmet      = 10 // conditions of one symbol
	maxNames      = 6  // names in a list
	maxRounds     = 6  // attempts at values to add
	maxMinimise   = 40 // values that are tried without
)

// Explainer explains what became of a configuration. It holds what was asked
// and what came of it.
type Explainer struct {
	tree   *Tree
	base   Base
	values []Value
	asked  map[*Symbol]string
	result *Result
}

// Explainer evaluates the values and explains them. Those of pinned were asked
// for by someone, and are not overruled lightly by what an explanation adds;
// the other values are a configuration to start from.
func (t *Tree) Explainer(base Base, start, pinned []Value) *Explainer {
	x := &Explainer{tree: t, base: base, values: slices.Concat(start, pinned), asked: map[*Symbol]string{}}
	for _, v := range pinned {
		if s := t.byName[v.Symbol]; s != nil {
			x.asked[s] = v.Value
		}
	}
	x.result = t.Evaluate(base, x.values)
	return x
}

// Result is the configuration that is explained.
func (x *Explainer) Result() *Result { return x.result }

// kept says whether the value satisfies what was asked: m is met by y too, and
// hexadecimal numbers are equal with and without their 0x.
func kept(asked, got string) bool {
	hex := func(v string) bool { return validNumber(Hex, v) && !validNumber(Int, v) }
	return asked == got || asked == "m" && got == "y" ||
		hex(asked) && hex(got) && parseInt(asked, 16) == parseInt(got, 16)
}

// Explain explains one symbol. For a symbol that is what was asked, Asked and
// Got say so and nothing else is filled in.
func (x *Explainer) Explain(v Value) Explanation {
	e := Explanation{Symbol: v.Symbol, Asked: v.Value, Got: x.result.Value(v.Symbol)}
	s := x.tree.byName[v.Symbol]
	if !s.Defined() {
		e.Never = "no Kconfig file of this architecture has it"
		if at := x.tree.elsewhere(v.Symbol); len(at) > 0 {
			e.At = at
			e.Never += "; " + at[0].String() + " does, which another one reads"
		} else if near := x.tree.nearest(v.Symbol); near != "" {
			e.Never += "; did you mean " + near + "?"
		}
		return e
	}
	e.At = s.Entries()
	if kept(v.Value, e.Got) {
		return e
	}
	if s.transitional {
		e.Never = "it is transitional and has no line in the .config"
		if heirs := x.tree.heirs(s); len(heirs) > 0 {
			e.Never += "; ask for what takes its value: " + strings.Join(shorten(heirs), ", ")
		}
		return e
	}
	say := speaker{r: x.result, probes: &e.Compiler}
	if bad := misfit(s, x.result, v.Value); bad != "" {
		e.Never = bad
		return e
	}
	target, g := x.target(s, v.Value)
	e.Unmet = say.why(s, g, v.Value)
	add, tried, ok := x.fix(target, g, v)
	if ok {
		if len(add) > 0 {
			e.Add, e.Breaks = add, x.breaks(v, add)
		} else {
			// Asked for once more, as the last, it is kept.
			e.Never = "another member is asked for after it, and only the last one counts"
		}
		return e
	}
	// What is in the way now: it may have turned up with the first additions.
	e.Never = speaker{r: tried, probes: &e.Compiler}.never(target, g)
	if e.Never == "" && !s.logical() {
		// Visible it may be clipped all the same.
		p, _ := tried.active(s, propRange)
		if p != nil {
			e.Never = fmt.Sprintf("with %s it can be asked for, but its range is %s to %s (%s)",
				sayValues(add), tried.text(p.low), tried.text(p.high), p.at)
		}
	}
	if e.Never == "" {
		e.Never = "no set of values was found that keeps it"
	}
	return e
}

// heirs are the names of the symbols whose defaults use a transitional one.
func (t *Tree) heirs(old *Symbol) []string {
	var names []string
	for _, s := range t.Symbols() {
		if slices.ContainsFunc(s.props, func(p *property) bool {
			uses := false
			if p.kind == propDefault {
				p.value.symbols(func(of *Symbol, _ string) { uses = uses || of == old })
			}
			return uses
		}) {
			names = append(names, s.Name)
		}
	}
	return names
}

// misfit says why the type has no such value.
func misfit(s *Symbol, r *Result, value string) string {
	ok := true
	switch s.Type {
	case Bool:
		ok = value == "y" || value == "n"
	case Tri:
		ok = value == "y" || value == "n" || value == "m"
	case Int, Hex:
		ok = validNumber(s.Type, value)
	case String:
		_, ok = unquote(value)
	}
	if !ok {
		return fmt.Sprintf("it is of type %s, which has no value %s", s.Type, value)
	}
	if s.logical() {
		return ""
	}
	if p, _ := r.active(s, propRange); p != nil {
		base := 10
		if s.Type == Hex {
			base = 16
		}
		if n := parseInt(value, base); n < r.bound(p.low, base) || n > r.bound(p.high, base) {
			return fmt.Sprintf("its range is %s to %s (%s)", r.text(p.low), r.text(p.high), p.at)
		}
	}
	return ""
}

// target is the expression that has to reach a goal for the symbol to have the
// value.
func (x *Explainer) target(s *Symbol, value string) (*expr, goal) {
	if s.logical() {
		g := atMostNo
		switch value {
		case "y":
			g = atLeastYes
		case "m":
			g = atLeastMod
		}
		return symbolExpr(s, ""), g
	}
	var e *expr
	for _, p := range s.props {
		if p.kind == propPrompt {
			if p.cond == nil {
				return nil, atLeastMod
			}
			e = join(opOr, e, p.cond)
		}
	}
	if e == nil {
		e = symbolExpr(x.tree.symbols[idNo], "")
	}
	return e, atLeastMod
}

// fix finds values to add, tries them, and takes out those that are not
// needed. What it finds is not proven to be the smallest set, only that none
// of it can be left out. When nothing helps it returns what was tried last.
func (x *Explainer) fix(target *expr, g goal, v Value) (added []Value, r *Result, ok bool) {
	for range maxRounds {
		r = x.with(added, v)
		if kept(v.Value, r.Value(v.Symbol)) {
			return x.minimise(added, v), r, true
		}
		s := solver{r: r, asked: x.asked, cost: map[node]int{}}
		more, ok := s.solve(target, g)
		if !ok {
			return added, r, false
		}
		changed := false
		for _, m := range more {
			if m.Symbol == v.Symbol || slices.Contains(added, m) {
				continue
			}
			added = slices.DeleteFunc(added, func(a Value) bool { return a.Symbol == m.Symbol })
			added = append(added, m)
			changed = true
		}
		if !changed {
			break
		}
	}
	return added, r, false
}

// with evaluates with more values; the one that is explained comes last.
func (x *Explainer) with(added []Value, v Value) *Result {
	return x.tree.start(x.base, slices.Concat(x.values, added, []Value{v}))
}

func (x *Explainer) minimise(added []Value, v Value) []Value {
	for i := len(added) - 1; i >= 0 && len(added) <= maxMinimise; i-- {
		without := slices.Delete(slices.Clone(added), i, i+1)
		if kept(v.Value, x.with(without, v).Value(v.Symbol)) {
			added = without
		}
	}
	return added
}

// breaks are asked symbols that were kept and no longer are.
func (x *Explainer) breaks(v Value, added []Value) []string {
	var out []string
	r := x.with(added, v)
	for s, asked := range x.asked {
		if kept(asked, x.result.Value(s.Name)) && !kept(asked, r.Value(s.Name)) {
			out = append(out, s.Name)
		}
	}
	slices.Sort(out)
	return out
}

// Together are values to add so that all the explained symbols are kept, and
// the symbols for which that did not work, sorted.
func (x *Explainer) Together(list []Explanation) (add []Value, left []string) {
	for _, e := range list {
		for _, v := range e.Add {
			if !slices.Contains(add, v) {
				add = append(add, v)
			}
		}
	}
	r := x.tree.start(x.base, slices.Concat(x.values, add))
	for _, e := range list {
		if !kept(e.Asked, r.Value(e.Symbol)) {
			left = append(left, e.Symbol)
		}
	}
	slices.Sort(left)
	return add, left
}
