package kconfig

import (
	"slices"
	"strings"
)

// The language of before Linux 6.10, as its scripts/kconfig has it. A choice is
// a symbol with a value: y, and one of its members is; or m, if it is a
// tristate, and any number of its members are m. Its members depend on it. One
// that is not optional is selected by its own prompt, up to m.

// olderOption takes the options that Linux 6.10 gave up.
func (p *parser) olderOption(word string, args *reader) (bool, error) {
	switch {
	case word == "optional" && p.entry.kind == kindChoice:
		p.entry.sym.optional = true
		return true, args.end()
	case word != "option" || p.entry.kind != kindConfig:
		return false, nil
	}
	t, err := args.take()
	if err != nil {
		return true, err
	}
	switch t.text {
	case "modules":
		p.tree.modules = p.entry.sym
	case "defconfig_list":
		p.entry.sym.noWrite = true
	case "allnoconfig_y":
		p.entry.sym.allNoYes = true
	default: // as "env" of before 4.18: nothing that a value depends on
		return true, p.ignore(args)
	}
	return true, args.end()
}

// ignore drops the rest of a statement.
func (p *parser) ignore(args *reader) error {
	args.tokens = nil
	return nil
}

// typeChoices gives a choice without a type that of its first member with one,
// and members without a type that of their choice.
func (t *Tree) typeChoices(parent *entry) {
	for _, e := range parent.children {
		t.typeChoices(e)
	}
	if parent.kind != kindChoice {
		return
	}
	if parent.sym.Type == Unknown {
		i := slices.IndexFunc(parent.members, func(s *Symbol) bool { return s.Type != Unknown })
		if parent.sym.Type = Bool; i >= 0 {
			parent.sym.Type = parent.members[i].Type
		}
	}
	for _, m := range parent.members {
		if m.Type == Unknown {
			m.Type = parent.sym.Type
		}
	}
}

// finishChoices has each choice that is not optional selected by its prompt.
func (t *Tree) finishChoices() {
	for _, s := range t.symbols {
		if !s.isChoice() || s.optional {
			continue
		}
		for _, e := range s.entries {
			if e.prompt != nil {
				s.revDep = append(s.revDep, reverse{t.symbols[idMod], e.prompt.cond, e.at})
			}
		}
	}
}

// askOlder notes what a value that was asked for means to the choice around the
// symbol.
func (r *Result) askOlder(s *Symbol) {
	c := &r.state[s.choice.sym.id]
	switch tri := r.state[s.id].askedTri; tri {
	case Mod:
		if c.askedTri == Yes {
			c.asked = false
		}
	case Yes:
		r.picked[s.choice] = s
	}
	c.askedTri = max(c.askedTri, r.state[s.id].askedTri)
}

// hidden says whether a tristate member's prompt does not count: its choice is
// y, and the prompt is visible as a module only.
func (r *Result) hidden(s *Symbol, prompt Tristate) bool {
	return r.tree.older && s.member && s.choice != nil && s.Type == Tri && prompt == Mod && r.state[s.choice.sym.id].tri == Yes
}

// computeOlder sets the value of a member of a choice from which one is chosen,
// and reports false for any other symbol.
func (r *Result) computeOlder(s *Symbol, st *state) bool {
	if !s.member || s.choice == nil || st.visible != Yes {
		return false
	}
	r.compute(s.choice.sym)
	if st.tri = No; r.chosenOlder[s.choice] == s {
		st.tri = Yes
	}
	return true
}

// chooseOlder picks the member of a choice that is y: the one that was asked
// for last, where it is visible, and else the default.
func (r *Result) chooseOlder(c *entry) {
	st := &r.state[c.sym.id]
	asked := st.asked
	for _, m := range c.members {
		r.visibility(m)
		if r.state[m.id].visible != No {
			asked = asked && r.state[m.id].asked
		}
	}
	st = &r.state[c.sym.id]
	st.asked = st.asked && asked
	chosen := r.picked[c]
	if chosen == nil || r.state[chosen.id].visible == No {
		chosen = r.choiceDefault(c)
	}
	if chosen == nil {
		st.tri = No
	}
	r.chosenOlder[c] = chosen
}

// bareName is the file name of a source statement without quotes, which busybox
// has: the statement is the line before where the scanner is.
func (s *scanner) bareName() string {
	line := strings.TrimSuffix(s.text[:s.pos], "\n")
	line = line[strings.LastIndexByte(line, '\n')+1:]
	words := strings.Fields(line)
	if len(words) == 0 {
		return ""
	}
	return words[len(words)-1]
}
