package kconfig

import (
	"fmt"
	"io/fs"
	"strconv"
)

// Type is the type of a symbol.
type Type uint8

const (
	Unknown Type = iota // no entry gives it a type, or it has no entry at all
	Bool
	Tri
	Int
	Hex
	String
)

func (t Type) String() string {
	return [...]string{"unknown", "bool", "tristate", "int", "hex", "string"}[t]
}

// Symbol is a configuration symbol, a constant, or a choice (which has no
// name).
type Symbol struct {
	Name string // without CONFIG_
	Type Type

	id       int
	constant bool // y, m, n or a quoted word
	entries  []*entry
	props    []*property // of all entries, in the order of the files
	dirDep   []*expr     // the dependencies of each entry that has some; any will do
	revDep   []reverse   // what selects it
	implied  []reverse   // what implies it
	choice   *entry      // the choice whose member it is
	member   bool        // it was written inside a choice
	// transitional is the old name of another symbol: what is asked for it
	// counts without a prompt, in the defaults of others, and it has no line
	// in the .config.
	transitional bool
	// Of the language before 6.10: a choice that may be off altogether, and a
	// symbol that allnoconfig switches on.
	optional bool
	allNoYes bool
	noWrite  bool
}

// Places of the built-in constants in Tree.symbols.
const (
	idNo = iota
	idMod
	idYes
)

func (s *Symbol) isChoice() bool { return s.Name == "" && len(s.entries) > 0 }

func (s *Symbol) logical() bool { return s.Type == Bool || s.Type == Tri }

// display is the symbol as it is written in an expression.
func (s *Symbol) display() string {
	switch {
	case s.isChoice():
		return "<choice>"
	case s.constant && s.id > idYes:
		return strconv.Quote(s.Name)
	}
	return s.Name
}

// reverse is one select or imply that points at a symbol: it counts as by &&
// cond.
type reverse struct {
	by   *Symbol
	cond *expr
	at   Pos
}

// Pos is a place in a Kconfig file.
type Pos struct {
	File string `json:"file"`
	Line int    `json:"line"`
}

func (p Pos) String() string { return p.File + ":" + strconv.Itoa(p.Line) }

type entryKind uint8

const (
	kindConfig entryKind = iota
	kindChoice
	kindMenu
	kindComment
	kindIf
)

// entry is a node of the menu tree.
type entry struct {
	kind       entryKind
	sym        *Symbol // of a config or choice
	parent     *entry
	children   []*entry
	props      []*property
	prompt     *property
	visibility *expr // visible if
	dep        *expr // with those of all blocks around it, once the tree is whole
	members    []*Symbol
	at         Pos
}

type propKind uint8

const (
	propPrompt propKind = iota
	propDefault
	propSelect
	propImply
	propRange
)

type property struct {
	kind propKind
	text string // of a prompt
	// value of a default; the target of a select or imply.
	value *expr
	// low and high of a range.
	low, high *Symbol
	// cond is the "if", with the dependencies of the entry once the tree is
	// whole.
	cond *expr
	at   Pos
}

// Tree is a parsed Kconfig tree for one architecture. It does not change, and
// may be used from any number of goroutines.
type Tree struct {
	source  fs.FS
	symbols []*Symbol
	byName  map[string]*Symbol
	root    *entry
	modules *Symbol
	version string
	// older is true for the language of before Linux 6.10: see older.go.
	older bool
	files int
	bytes int
}

// Version is that of the kernel, "6.12.107", as its makefile or KERNELVERSION
// says it; "" where neither does.
func (t *Tree) Version() string { return t.version }

// Lookup returns the symbol of that name (without CONFIG_), or nil when no
// Kconfig file that was read mentions it.
func (t *Tree) Lookup(name string) *Symbol { return t.byName[name] }

// Defined says whether a config entry for the symbol was read.
func (s *Symbol) Defined() bool { return s != nil && len(s.entries) > 0 }

// Entries are the places of the symbol's config entries.
func (s *Symbol) Entries() []Pos {
	var out []Pos
	for _, e := range s.entries {
		out = append(out, e.at)
	}
	return out
}

// Prompted says whether the symbol has a prompt, so that a value can be asked
// for.
func (s *Symbol) Prompted() bool {
	for _, p := range s.props {
		if p.kind == propPrompt {
			return true
		}
	}
	return false
}

// Symbols are the symbols that have a config entry, in the order in which they
// were first mentioned.
func (t *Tree) Symbols() []*Symbol {
	var out []*Symbol
	for _, s := range t.symbols {
		if s.Name != "" && !s.constant && len(s.entries) > 0 {
			out = append(out, s)
		}
	}
	return out
}

// Files is the number of Kconfig files that were read, Bytes their size.
func (t *Tree) Files() int { return t.files }

// Bytes is the size of the Kconfig files that were read.
func (t *Tree) Bytes() int { return t.bytes }

// Title is the text of mainmenu.
func (t *Tree) Title() string { return t.root.prompt.text }

// Menus is the path of menus of the symbol's first entry with a prompt, or its
// first entry; nil for a symbol outside every menu.
func (t *Tree) Menus(name string) []string {
	s := t.byName[name]
	if !s.Defined() {
		return nil
	}
	at := s.entries[0]
	for _, e := range s.entries {
		if e.prompt != nil {
			at = e
			break
		}
	}
	var path []string
	for e := at.parent; e != nil && e != t.root; e = e.parent {
		if e.kind == kindMenu {
			path = append([]string{e.prompt.text}, path...)
		}
	}
	return path
}

// finalize hands the dependencies of every block down to what is inside it.
func (t *Tree) finalize() error {
	if t.older {
		t.typeChoices(t.root)
	}
	t.pushDown(t.root)
	if t.older {
		t.finishChoices()
	}
	for _, s := range t.symbols {
		s.choice = choiceOf(s)
		if !s.transitional {
			continue
		}
		for _, e := range s.entries {
			if e.dep != nil || len(e.props) > 0 {
				return fmt.Errorf("%s: the transitional symbol %s has more than a type and a help text", e.at, s.Name)
			}
		}
	}
	return nil
}

func (t *Tree) pushDown(parent *entry) {
	around := parent.dep
	if t.older && parent.kind == kindChoice {
		around = symbolExpr(parent.sym, "")
	}
	for _, e := range parent.children {
		e.dep = and(around, e.dep.withModules(t.modules))
		if t.older && parent.kind == kindChoice && parent.sym.Type == Tri && e.kind == kindConfig && e.sym.Type != Tri {
			// Such a member is there only where one of all is chosen.
			e.dep = and(&expr{op: opEqual, a: parent.sym, b: t.symbols[idYes], depth: 1}, e.dep)
		}
		for _, p := range e.props {
			p.cond = and(e.dep, p.cond.withModules(t.modules))
			switch p.kind {
			case propSelect:
				p.value.a.revDep = append(p.value.a.revDep, reverse{e.sym, p.cond, p.at})
			case propImply:
				p.value.a.implied = append(p.value.a.implied, reverse{e.sym, p.cond, p.at})
			}
		}
		// An entry without dependencies does not free the symbol from those
		// of another entry; conf has it that way.
		if e.kind == kindConfig && parent.kind != kindChoice && e.dep != nil {
			e.sym.dirDep = append(e.sym.dirDep, e.dep)
		}
	}
	for _, e := range parent.children {
		t.pushDown(e)
	}
}

// choiceOf finds the choice around the symbol's first entry with a prompt.
func choiceOf(s *Symbol) *entry {
	for _, e := range s.entries {
		if e.prompt == nil {
			continue
		}
		for p := e.parent; p != nil; p = p.parent {
			if p.kind == kindChoice {
				return p
			}
		}
		return nil
	}
	return nil
}

// walk calls f for every entry below e, a parent before its children.
func (e *entry) walk(f func(*entry)) {
	for _, c := range e.children {
		f(c)
		c.walk(f)
	}
}
