package kconfig

// choose computes the members of a choice: exactly one of those that are
// visible is y.
func (r *Result) choose(c *entry) {
	chosen := r.chosen(c)
	c.walk(func(e *entry) {
		if e.sym == nil {
			return
		}
		st := &r.state[e.sym.id]
		if st.visible == No {
			return
		}
		st.tri = No
		if e.sym == chosen {
			st.tri = Yes
		}
		st.valid, st.write = true, true
	})
}

// chosen picks the member: the last that was asked for, else the default
// unless it was refused, else the first nothing was asked of, else the first
// that was refused.
func (r *Result) chosen(c *entry) *Symbol {
	members := r.members(c)
	for _, s := range members {
		r.visibility(s)
		if st := &r.state[s.id]; st.visible != No && st.asked && st.askedTri == Yes {
			return s
		}
	}
	if s := r.choiceDefault(c); s != nil {
		if st := &r.state[s.id]; !st.asked || st.askedTri != No {
			return s
		}
	}
	var found *Symbol
	c.walk(func(e *entry) {
		if found == nil && e.sym != nil && r.state[e.sym.id].visible != No && !r.state[e.sym.id].asked {
			found = e.sym
		}
	})
	for i := len(members) - 1; found == nil && i >= 0; i-- {
		if r.state[members[i].id].visible != No {
			found = members[i]
		}
	}
	return found
}

// choiceDefault is the first default that is visible, else the first member
// that is.
func (r *Result) choiceDefault(c *entry) *Symbol {
	for _, p := range c.sym.props {
		if p.kind == propDefault && p.value.op == opSymbol && r.eval(p.cond) != No {
			if s := p.value.a; r.state[s.id].visible != No {
				return s
			}
		}
	}
	var found *Symbol
	c.walk(func(e *entry) {
		if found == nil && e.sym != nil && r.state[e.sym.id].visible != No {
			found = e.sym
		}
	})
	return found
}
