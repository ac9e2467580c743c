package kconfig

import (
	"cmp"
	"slices"
	"strconv"
)

// A goal is what a symbol or expression shall become.
type goal uint8

const (
	atLeastMod goal = iota
	atLeastYes
	atMostNo
	atMostMod
)

// not is the goal for an expression whose negation has goal g.
func (g goal) not() goal {
	return [...]goal{atLeastMod: atMostMod, atLeastYes: atMostNo, atMostNo: atLeastYes, atMostMod: atLeastMod}[g]
}

func (g goal) raises() bool { return g <= atLeastYes }

func (g goal) met(t Tristate) bool {
	return [...]bool{atLeastMod: t >= Mod, atLeastYes: t == Yes, atMostNo: t == No, atMostMod: t <= Mod}[g]
}

// value is what one asks of a symbol to reach the goal. y is clipped to m where
// only m can be had.
func (v *solver) value(s *Symbol, g goal) string {
	switch {
	case g.raises():
		return "y"
	case g == atMostMod && v.r.typeOf(s) == Tri:
		return "m"
	}
	return "n"
}

// Costs of one step towards a goal. Asking for a symbol is the unit that is
// kept small; going against what was asked is the last resort.
const (
	costAsk     = 10
	costDerived = 1    // a default or select that follows from another step
	costSelect  = 50   // on top: selecting what has a prompt but cannot be seen
	costAgainst = 1000 // on top: another value was asked for
	never       = 1 << 28
)

// maxPasses is how often costs are computed anew.
const maxPasses = 100

// solver looks for the cheapest values to ask for that reach a goal, on top of
// a result. It treats the steps as independent; the caller evaluates what comes
// out.
type solver struct {
	r     *Result
	asked map[*Symbol]string // by the user, whose wishes are not overruled
	cost  map[node]int
	nodes []node
}

type node struct {
	s *Symbol
	g goal
}

// solve returns the values to ask for, what they depend on first, so that e
// reaches g. It returns false when there is no way.
func (v *solver) solve(e *expr, g goal) ([]Value, bool) {
	v.relax(e, g)
	if v.expr(e, g) >= never {
		return nil, false
	}
	p := plan{v: v, seen: map[node]bool{}}
	p.expr(e, g)
	return p.values, true
}

// relax computes the cost of everything below e.
func (v *solver) relax(e *expr, g goal) {
	v.expr(e, g) // finds the first nodes
	for i := 0; i < len(v.nodes); i++ {
		v.symbol(v.nodes[i]) // finds more
	}
	// Costs only fall. Linux 6.12 is settled after about ten passes.
	changed := true
	for pass := 0; changed && pass < maxPasses; pass++ {
		changed = false
		for _, n := range slices.Backward(v.nodes) {
			if c := v.symbol(n); c < v.cost[n] {
				v.cost[n] = c
				changed = true
			}
		}
	}
}

// get is the cost of a symbol's goal as known so far.
func (v *solver) get(s *Symbol, g goal) int {
	v.r.compute(s)
	if g.met(v.r.state[s.id].tri) {
		return 0
	}
	if s.constant || !s.Defined() {
		return never
	}
	n := node{s, g}
	c, ok := v.cost[n]
	if !ok {
		c = never
		v.cost[n] = c
		v.nodes = append(v.nodes, n)
	}
	return c
}

func add(a, b int) int { return min(a+b, never) }

// expr is the cost of an expression's goal.
func (v *solver) expr(e *expr, g goal) int {
	if g.met(v.r.eval(e)) {
		return 0
	}
	if e == nil {
		return never
	}
	switch {
	case e.op == opSymbol:
		return v.get(e.a, g)
	case e.op == opNot:
		return v.expr(e.l, g.not())
	case (e.op == opAnd) == g.raises() && !e.op.compares():
		return add(v.expr(e.l, g), v.expr(e.r, g))
	case e.op == opAnd || e.op == opOr:
		return min(v.expr(e.l, g), v.expr(e.r, g))
	}
	cost := never
	for _, way := range v.comparison(e, g) {
		c := 0
		for _, n := range way.nodes {
			c = add(c, v.get(n.s, n.g))
		}
		if way.number != "" {
			c = add(c, add(costAsk, v.visible(e.a, atLeastMod)))
		}
		cost = min(cost, c)
	}
	return cost
}

// way is one way to make a comparison what it shall be: all nodes, or a number
// for its left side.
type way struct {
	nodes  []node
	number string
}

func (v *solver) comparison(e *expr, g goal) []way {
	o := e.op
	if !g.raises() {
		o = [...]op{opEqual: opUnequal, opUnequal: opEqual, opLess: opGreaterEqual, opGreaterEqual: opLess, opLessEqual: opGreater, opGreater: opLessEqual}[o]
	}
	if e.a.logical() && e.b.id <= idYes {
		one := func(gs ...goal) (w way) {
			for _, g := range gs {
				w.nodes = append(w.nodes, node{e.a, g})
			}
			return w
		}
		switch {
		case o == opEqual && e.b.id == idYes:
			return []way{one(atLeastYes)}
		case o == opEqual && e.b.id == idMod:
			return []way{one(atLeastMod, atMostMod)}
		case o == opEqual:
			return []way{one(atMostNo)}
		case o == opUnequal && e.b.id == idYes:
			return []way{one(atMostMod)}
		case o == opUnequal && e.b.id == idMod:
			return []way{one(atMostNo), one(atLeastYes)}
		case o == opUnequal:
			return []way{one(atLeastMod)}
		}
		return nil
	}
	if e.a.Type != Int || !e.a.Prompted() || e.b.Defined() || v.asked[e.a] != "" {
		return nil
	}
	n, err := strconv.ParseInt(e.b.Name, 10, 32)
	if err != nil {
		return nil
	}
	switch o {
	case opLess:
		n--
	case opGreater:
		n++
	case opUnequal:
		return nil
	}
	return []way{{number: strconv.FormatInt(n, 10)}}
}

// visible is the cost of making one of the symbol's prompts visible, up to g.
func (v *solver) visible(s *Symbol, g goal) int {
	cost := never
	for _, p := range s.props {
		if p.kind == propPrompt {
			cost = min(cost, v.expr(p.cond, v.sight(s, g)))
		}
	}
	return cost
}

// sight is how visible a symbol must be for a value of g: to a bool m is as
// good as y.
func (v *solver) sight(s *Symbol, g goal) goal {
	if v.r.typeOf(s) != Tri {
		return atLeastMod
	}
	return g
}

// symbol is the cost of the cheapest step for a symbol.
func (v *solver) symbol(n node) int {
	cost := never
	v.steps(n, func(c int, _ func(*plan)) { cost = min(cost, c) })
	return cost
}

// steps offers every way to bring a symbol to a goal, with its cost and how to
// write it down.
func (v *solver) steps(n node, offer func(cost int, take func(*plan))) {
	if n.g.raises() {
		v.raise(n.s, n.g, offer)
	} else {
		v.lower(n.s, n.g, offer)
	}
}

func (v *solver) against(s *Symbol, g goal) int {
	if was := v.asked[s]; was != "" && was != v.value(s, g) {
		return costAgainst
	}
	return 0
}

func (v *solver) raise(s *Symbol, g goal, offer func(int, func(*plan))) {
	if !s.logical() {
		return
	}
	sight := v.sight(s, g)
	seen := never
	for _, p := range s.props {
		if p.kind != propPrompt {
			continue
		}
		c := v.expr(p.cond, sight)
		seen = min(seen, c)
		c = add(c, costAsk+v.against(s, g))
		if s.member && s.choice != nil {
			c = add(c, v.rivals(s))
		}
		offer(c, func(t *plan) {
			t.expr(p.cond, sight)
			t.ask(s, v.value(s, g))
		})
	}
	extra := costDerived
	if s.Prompted() {
		if seen < never || s.member {
			return
		}
		extra += costSelect
	}
	for i := range s.revDep {
		sel := &s.revDep[i]
		offer(add(extra, add(v.get(sel.by, sight), v.expr(sel.cond, sight))), func(t *plan) {
			t.expr(sel.cond, sight)
			t.symbol(node{sel.by, sight})
		})
	}
	// What is implied, other than what is selected, needs its dependencies.
	var deps *expr
	for _, d := range s.dirDep {
		deps = join(opOr, deps, d)
	}
	for i := range s.implied {
		imp := &s.implied[i]
		cost := add(v.expr(deps, sight), add(v.get(imp.by, sight), v.expr(imp.cond, sight)))
		offer(add(extra, cost), func(t *plan) {
			t.expr(deps, sight)
			t.expr(imp.cond, sight)
			t.symbol(node{imp.by, sight})
		})
	}
	for _, p := range s.props {
		if p.kind == propDefault {
			offer(add(extra, add(v.expr(p.cond, sight), v.expr(p.value, sight))), func(t *plan) {
				t.expr(p.cond, sight)
				t.expr(p.value, sight)
			})
		}
	}
}

// rivals is the cost of choosing against a member that was asked for.
func (v *solver) rivals(s *Symbol) int {
	for _, m := range s.choice.members {
		if m != s && v.asked[m] == "y" {
			return costAgainst
		}
	}
	return 0
}

func (v *solver) lower(s *Symbol, g goal, offer func(int, func(*plan))) {
	st := &v.r.state[s.id]
	if s.member && s.choice != nil {
		for _, m := range s.choice.members {
			if v.r.compute(m); m != s && v.r.state[m.id].visible != No {
				offer(add(costAsk+v.against(s, g), v.against(m, atLeastYes)), func(t *plan) { t.ask(m, "y") })
			}
		}
		return
	}
	cost := 0
	for i := range s.revDep {
		if sel := &s.revDep[i]; !g.met(v.r.pull(sel)) {
			cost = add(cost, min(v.get(sel.by, g), v.expr(sel.cond, g)))
		}
	}
	selects := func(t *plan) {
		for i := range s.revDep {
			if sel := &s.revDep[i]; !g.met(v.r.pull(sel)) {
				t.either(sel, g)
			}
		}
	}
	if st.visible != No {
		offer(add(cost, costAsk+v.against(s, g)), func(t *plan) {
			selects(t)
			t.ask(s, v.value(s, g))
		})
		return
	}
	for _, p := range s.props {
		if p.kind == propPrompt {
			offer(add(cost, add(v.expr(p.cond, atLeastMod), costAsk+v.against(s, g))), func(t *plan) {
				selects(t)
				t.expr(p.cond, atLeastMod)
				t.ask(s, v.value(s, g))
			})
		}
	}
	p, cond := v.r.active(s, propDefault)
	if p != nil && !g.met(min(cond, v.r.eval(p.value))) {
		cost = add(cost, add(costDerived, min(v.expr(p.cond, g), v.expr(p.value, g))))
	} else {
		p = nil
	}
	offer(add(cost, costDerived), func(t *plan) {
		selects(t)
		switch {
		case p == nil:
		case v.expr(p.value, g) <= v.expr(p.cond, g):
			t.expr(p.value, g)
		default:
			t.expr(p.cond, g)
		}
	})
}

// plan writes the cheapest steps down.
type plan struct {
	v      *solver
	seen   map[node]bool
	values []Value
}

func (t *plan) ask(s *Symbol, value string) {
	t.values = slices.DeleteFunc(t.values, func(v Value) bool { return v.Symbol == s.Name })
	t.values = append(t.values, Value{s.Name, value})
}

func (t *plan) symbol(n node) {
	if t.seen[n] || t.v.get(n.s, n.g) == 0 {
		return
	}
	t.seen[n] = true
	best, take := never, func(*plan) {}
	t.v.steps(n, func(c int, f func(*plan)) {
		if c < best {
			best, take = c, f
		}
	})
	take(t)
}

func (t *plan) either(sel *reverse, g goal) {
	if t.v.get(sel.by, g) <= t.v.expr(sel.cond, g) {
		t.symbol(node{sel.by, g})
	} else {
		t.expr(sel.cond, g)
	}
}

func (t *plan) expr(e *expr, g goal) {
	v := t.v
	if e == nil || g.met(v.r.eval(e)) {
		return
	}
	switch {
	case e.op == opSymbol:
		t.symbol(node{e.a, g})
	case e.op == opNot:
		t.expr(e.l, g.not())
	case e.op.compares():
		t.comparison(e, g)
	case (e.op == opAnd) == g.raises():
		t.expr(e.l, g)
		t.expr(e.r, g)
	case v.expr(e.l, g) <= v.expr(e.r, g):
		t.expr(e.l, g)
	default:
		t.expr(e.r, g)
	}
}

func (t *plan) comparison(e *expr, g goal) {
	ways := t.v.comparison(e, g)
	if len(ways) == 0 {
		return
	}
	best := slices.MinFunc(ways, func(a, b way) int { return cmp.Compare(t.v.sum(a), t.v.sum(b)) })
	for _, n := range best.nodes {
		t.symbol(n)
	}
	if best.number != "" {
		for _, p := range e.a.props {
			if p.kind == propPrompt {
				t.expr(p.cond, atLeastMod)
				break
			}
		}
		t.ask(e.a, best.number)
	}
}

func (v *solver) sum(w way) int {
	c := 0
	for _, n := range w.nodes {
		c = add(c, v.get(n.s, n.g))
	}
	return c
}
