package kconfig

import (
	"fmt"
	"slices"
	"strings"
)

// speaker puts conditions into words.
type speaker struct {
	r      *Result
	probes *[]string // questions to the compiler that came up
}

func (w speaker) probe(text string) {
	if text != "" && !slices.Contains(*w.probes, text) {
		*w.probes = append(*w.probes, text)
	}
}

// why says what keeps a symbol from its goal.
func (w speaker) why(s *Symbol, g goal, value string) []Unmet {
	st := &w.r.state[s.id]
	if s.logical() && !g.raises() {
		return w.pulled(s, g)
	}
	if s.member && s.choice != nil && st.visible != No {
		for _, m := range s.choice.members {
			if w.r.state[m.id].tri == Yes && m != s {
				return []Unmet{{Text: s.choice.choiceName() + " has another member", Symbol: m.Name, Value: "y"}}
			}
		}
	}
	if !s.Prompted() {
		return []Unmet{{Text: "has no prompt, so that no value asked for it counts", Unmet: w.sources(s)}}
	}
	if st.visible == Mod && g == atLeastYes {
		return w.unmet(s, atLeastYes, "can be m at most: needs", 0)
	}
	return w.unmet(s, atLeastMod, "needs", 0)
}

// unmet are the conditions of the symbol's most promising prompt that do not
// hold.
func (w speaker) unmet(s *Symbol, g goal, verb string, depth int) []Unmet {
	var best []Unmet
	for _, p := range s.props {
		if p.kind != propPrompt {
			continue
		}
		list := w.conditions(p.cond, g, verb, depth)
		if best == nil || len(list) < len(best) {
			best = list
		}
	}
	return best
}

// conditions are the parts of a conjunction that miss the goal.
func (w speaker) conditions(e *expr, g goal, verb string, depth int) []Unmet {
	var out []Unmet
	var visit func(e *expr)
	visit = func(e *expr) {
		switch {
		case e == nil || len(out) > maxUnmet || g.met(w.r.eval(e)):
		case len(out) == maxUnmet:
			out = append(out, Unmet{Text: "and more"})
		case e.op == opAnd:
			visit(e.l)
			visit(e.r)
		default:
			u := w.condition(e, g, verb, depth)
			if !slices.ContainsFunc(out, func(o Unmet) bool { return o.Text == u.Text }) {
				out = append(out, u)
			}
		}
	}
	visit(e)
	return out
}

func (w speaker) condition(e *expr, g goal, verb string, depth int) Unmet {
	e.symbols(func(_ *Symbol, probe string) { w.probe(probe) })
	switch {
	case e.op == opSymbol && e.probe == "" && !e.a.constant:
		return w.symbol(e.a, verb+" "+e.a.Name, depth)
	case e.op == opNot && e.l.op == opSymbol && e.l.probe == "" && !e.l.a.constant:
		u := Unmet{Text: verb + " " + e.l.a.Name + " off", Symbol: e.l.a.Name, Value: w.r.text(e.l.a)}
		if depth < maxUnmetDepth {
			u.Unmet = w.pulled(e.l.a, atMostNo)
		}
		return u
	case e.op == opSymbol && e.probe != "":
		return Unmet{Text: "the compiler answers n to " + e.probe}
	}
	u := Unmet{Text: verb + " " + e.String()}
	var names []string
	e.symbols(func(s *Symbol, _ string) {
		if text := s.Name + "=" + w.r.text(s); !s.constant && s.Type != Unknown && !slices.Contains(names, text) {
			names = append(names, text)
		}
	})
	u.Value = strings.Join(shorten(names), ", ")
	return u
}

// symbol describes a symbol that is too low.
func (w speaker) symbol(s *Symbol, text string, depth int) Unmet {
	u := Unmet{Text: text, Symbol: s.Name}
	if s.Defined() {
		u.Value = w.r.text(s)
	}
	switch {
	case !s.Defined():
		u.Unmet = []Unmet{{Text: "which no Kconfig file of this architecture has"}}
	case depth >= maxUnmetDepth:
	case !s.Prompted():
		if depth < 2 {
			u.Unmet = w.sources(s)
		}
	case w.r.state[s.id].visible == No:
		u.Unmet = w.unmet(s, atLeastMod, "needs", depth+1)
	}
	return u
}

// sources says what could set a symbol without a prompt.
func (w speaker) sources(s *Symbol) []Unmet {
	var out []Unmet
	for _, list := range []struct {
		word string
		by   []reverse
	}{{"selected by ", s.revDep}, {"implied by ", s.implied}} {
		var names []string
		for i := range list.by {
			if n := w.selector(&list.by[i]); !slices.Contains(names, n) {
				names = append(names, n)
			}
		}
		if len(names) > 0 {
			out = append(out, Unmet{Text: list.word + strings.Join(shorten(names), ", ")})
		}
	}
	for _, p := range s.props {
		if p.kind != propDefault || len(out) > 3 {
			continue
		}
		p.cond.symbols(func(_ *Symbol, probe string) { w.probe(probe) })
		p.value.symbols(func(_ *Symbol, probe string) { w.probe(probe) })
		value := p.value.String()
		if p.cond != nil {
			value += " if " + p.cond.String()
		}
		out = append(out, Unmet{Text: fmt.Sprintf("by default %s (%s)", value, p.at)})
	}
	return out
}

// selector names what selects a symbol, and what it lacks if it is on and
// selects the symbol on a condition.
func (w speaker) selector(v *reverse) string {
	name := v.by.display()
	if w.r.compute(v.by); w.r.state[v.by.id].tri == No {
		return name
	}
	var lacks []string
	for _, u := range w.conditions(v.cond, atLeastMod, "", maxUnmetDepth) {
		lacks = append(lacks, strings.TrimSpace(u.Text))
	}
	if len(lacks) == 0 {
		return name
	}
	return name + " if " + strings.Join(shorten(lacks), " && ")
}

// choiceName is a choice's prompt for people; a choice may have none.
func (e *entry) choiceName() string {
	if e.prompt == nil {
		return "a choice without a prompt"
	}
	return fmt.Sprintf("the choice %q", e.prompt.text)
}

// pulled says what keeps a symbol on.
func (w speaker) pulled(s *Symbol, g goal) []Unmet {
	var out []Unmet
	for i := range s.revDep {
		if sel := &s.revDep[i]; !g.met(w.r.pull(sel)) {
			out = append(out, Unmet{
				Text:   fmt.Sprintf("%s selects it (%s)", sel.by.display(), sel.at),
				Symbol: sel.by.Name, Value: w.r.text(sel.by),
			})
			if len(out) == maxNames {
				break
			}
		}
	}
	st := &w.r.state[s.id]
	switch {
	case len(out) > 0:
	case s.member && s.choice != nil:
		out = append(out, Unmet{Text: s.choice.choiceName() + " must have a member"})
	case st.visible == No:
		if p, _ := w.r.active(s, propDefault); p != nil {
			out = append(out, Unmet{Text: fmt.Sprintf("no prompt of it is visible, and its default is %s (%s)", p.value, p.at)})
		}
	}
	return out
}

// never says why no values lead to the goal: the first conditions that cannot
// be changed.
func (w speaker) never(e *expr, g goal) string {
	v := solver{r: w.r, asked: map[*Symbol]string{}, cost: map[node]int{}}
	v.relax(e, g)
	b := blame{speaker: w, v: &v, seen: map[node]bool{}}
	b.expr(e, g, 0)
	if len(b.missing) > 0 {
		b.reasons = append(b.reasons, "no Kconfig file of this architecture has "+strings.Join(shorten(b.missing), ", "))
	}
	return strings.Join(shorten(b.reasons), "; ")
}

// blame collects what has no way to its goal.
type blame struct {
	speaker
	v       *solver
	seen    map[node]bool
	reasons []string
	missing []string // symbols without an entry
}

func (b *blame) add(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(b.reasons, text) {
		b.reasons = append(b.reasons, text)
	}
}

func (b *blame) expr(e *expr, g goal, depth int) {
	if e == nil || b.v.expr(e, g) < never || len(b.reasons)+len(b.missing) > 2*maxNames {
		return
	}
	switch {
	case e.op == opSymbol && e.probe != "":
		b.probe(e.probe)
		b.add("the compiler answers %s to %s", e.a.Name, e.probe)
	case e.op == opSymbol && e.a.id == idMod:
		b.add("it depends on m, so that it can be a module at most")
	case e.op == opSymbol && e.a.constant:
		b.add("a constant %s", e.a.Name)
	case e.op == opSymbol:
		b.symbol(e.a, g, depth)
	case e.op == opNot:
		b.expr(e.l, g.not(), depth)
	case e.op.compares():
		word := "holds"
		if g.raises() {
			word = "does not hold"
		}
		b.add("%s %s", e, word)
	default:
		b.expr(e.l, g, depth)
		b.expr(e.r, g, depth)
	}
}

func (b *blame) symbol(s *Symbol, g goal, depth int) {
	n := node{s, g}
	if b.seen[n] {
		return
	}
	b.seen[n] = true
	switch {
	case !s.Defined():
		b.missing = append(b.missing, s.Name)
	case !g.raises():
		b.add("%s cannot be turned off", s.display())
	case depth > 12:
		b.add("%s cannot be turned on", s.Name)
	case s.Prompted():
		for _, p := range s.props {
			if p.kind == propPrompt {
				b.expr(p.cond, b.v.sight(s, g), depth+1)
			}
		}
	case len(s.revDep) == 0 && len(s.implied) == 0 && !hasDefault(s):
		b.add("nothing sets %s on this architecture", s.Name)
	default:
		before := len(b.reasons)
		for _, p := range s.props {
			if p.kind == propDefault {
				b.expr(p.cond, atLeastMod, depth+1)
				b.expr(p.value, atLeastMod, depth+1)
			}
		}
		if len(s.revDep) > 0 || len(b.reasons) == before {
			var names []string
			for i := range s.revDep {
				names = append(names, s.revDep[i].by.display())
			}
			slices.Sort(names)
			if len(names) == 0 {
				b.add("%s cannot be turned on", s.Name)
			} else {
				b.add("%s has no prompt, and what selects it (%s) cannot be turned on", s.Name, strings.Join(shorten(slices.Compact(names)), ", "))
			}
		}
	}
}

func hasDefault(s *Symbol) bool {
	return slices.ContainsFunc(s.props, func(p *property) bool { return p.kind == propDefault })
}

// shorten cuts a list of names.
func shorten(names []string) []string {
	if n := len(names); n > maxNames {
		return append(slices.Clone(names[:maxNames]), fmt.Sprintf("and %d more", n-maxNames))
	}
	return names
}
