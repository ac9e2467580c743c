package kconfig

import "strings"

// Tristate is n, m or y. The operators && and || of Kconfig are the smaller
// and the larger of two, ! is 2 minus the value.
type Tristate uint8

const (
	No Tristate = iota
	Mod
	Yes
)

func (t Tristate) String() string { return "nmy"[t : t+1] }

type op uint8

const (
	opSymbol op = iota
	opNot
	opAnd
	opOr
	opEqual
	opUnequal
	opLess
	opLessEqual
	opGreater
	opGreaterEqual
)

func (o op) compares() bool { return o >= opEqual }

func (o op) String() string {
	return [...]string{"", "!", "&&", "||", "=", "!=", "<", "<=", ">", ">="}[o]
}

// expr is an expression; nil is an absent one, which holds. Expressions are
// shared and never change.
type expr struct {
	op   op
	l, r *expr   // operands of ! (l only), && and ||
	a, b *Symbol // the symbol (a only), or what is compared
	// probe is the text of the $(shell) call that a symbol's name came from.
	probe string
	// hasM says that the constant m is inside.
	hasM  bool
	depth int
}

// maxDepth is the nesting of an expression; deeper ones are refused by the
// parser. Linux 6.12 has about 60.
const maxDepth = 5000

func symbolExpr(s *Symbol, probe string) *expr {
	return &expr{op: opSymbol, a: s, probe: probe, hasM: s.id == idMod, depth: 1}
}

func not(e *expr) *expr { return &expr{op: opNot, l: e, hasM: e.hasM, depth: e.depth + 1} }

func and(l, r *expr) *expr { return join(opAnd, l, r) }

// join is && or ||, where an absent operand leaves the other one.
func join(o op, l, r *expr) *expr {
	switch {
	case l == nil:
		return r
	case r == nil:
		return l
	}
	return &expr{op: o, l: l, r: r, hasM: l.hasM || r.hasM, depth: 1 + max(l.depth, r.depth)}
}

// withModules replaces the constant m by m && modules: without modules nothing
// can depend on m.
func (e *expr) withModules(modules *Symbol) *expr {
	if e == nil || !e.hasM {
		return e
	}
	switch e.op {
	case opSymbol:
		return and(e, symbolExpr(modules, ""))
	case opNot:
		return not(e.l.withModules(modules))
	case opAnd, opOr:
		return join(e.op, e.l.withModules(modules), e.r.withModules(modules))
	}
	return e
}

// isNo is the condition that e is n. It is built as the kernel's conf builds it
// for the "if" of "depends on": every symbol in e is compared on its own, so
// that the condition is n or y and never m, and what stands behind a ! counts
// as on already when it is m.
func (e *expr) isNo(no *Symbol) *expr {
	switch {
	case e.op == opSymbol:
		return &expr{op: opEqual, a: e.a, b: no, probe: e.probe, depth: 1}
	case e.op == opNot:
		return e.l.isOn(no)
	case e.op == opAnd:
		return join(opOr, e.l.isNo(no), e.r.isNo(no))
	case e.op == opOr:
		return join(opAnd, e.l.isNo(no), e.r.isNo(no))
	}
	return not(e)
}

// isOn is the condition that e is m or y; see isNo.
func (e *expr) isOn(no *Symbol) *expr {
	switch {
	case e.op == opSymbol:
		return &expr{op: opUnequal, a: e.a, b: no, probe: e.probe, depth: 1}
	case e.op == opNot:
		return e.l.isNo(no)
	case e.op.compares():
		return e
	}
	return not(e.isNo(no))
}

// String writes the expression as in a Kconfig file.
func (e *expr) String() string {
	if e == nil {
		return "y"
	}
	var b strings.Builder
	e.write(&b, opOr)
	return b.String()
}

func (e *expr) write(b *strings.Builder, around op) {
	switch {
	case e.op == opSymbol && e.probe != "":
		b.WriteString(e.probe)
	case e.op == opSymbol:
		b.WriteString(e.a.display())
	case e.op == opNot:
		b.WriteByte('!')
		e.l.write(b, opNot)
	case e.op.compares():
		b.WriteString(e.a.display() + e.op.String() + e.b.display())
	default:
		paren := around == opNot || around == opAnd && e.op == opOr
		if paren {
			b.WriteByte('(')
		}
		e.l.write(b, e.op)
		b.WriteString(" " + e.op.String() + " ")
		e.r.write(b, e.op)
		if paren {
			b.WriteByte(')')
		}
	}
}

// symbols calls f for every symbol of the expression.
func (e *expr) symbols(f func(s *Symbol, probe string)) {
	switch {
	case e == nil:
	case e.op == opSymbol:
		f(e.a, e.probe)
	case e.op.compares():
		f(e.a, "")
		f(e.b, e.probe)
	default:
		e.l.symbols(f)
		e.r.symbols(f)
	}
}
