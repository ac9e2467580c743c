package kconfig

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
)

// Limits of a tree. Linux 6.12 has 1,500 files and 6 MB for one architecture.
const (
	maxFileSize = 4 << 20
	maxTreeSize = 64 << 20
	maxFiles    = 20_000
	maxInclude  = 100     // files that include each other
	maxBlocks   = 200     // menus, choices and ifs in each other
	maxSymbols  = 100_000 // constants included
	maxParens   = 200
	maxMembers  = 1000 // of a choice
)

// Options say for what a tree is read.
type Options struct {
	// Arch is ARCH= of the kernel's makefiles: x86, arm64 and so on.
	Arch string
	// Env are variables that the kernel's makefiles hand to Kconfig, such as
	// CC and KERNELVERSION. ARCH, SRCARCH and srctree are set from Arch unless
	// they are here.
	Env map[string]string
	// Shell answers $(shell) calls; nil takes Toolchain's answers.
	Shell Shell
	// File is the first file; "" is Kconfig.
	File string
}

// Parse reads a Kconfig tree. Paths in it are relative to the root of files.
//
// What is wrong with a Kconfig file is an error of class fault.Source that
// begins with FILE:LINE.
func Parse(files fs.FS, o Options) (*Tree, error) {
	env := map[string]string{"ARCH": o.Arch, "SRCARCH": srcArch(o.Arch), "srctree": "."}
	maps.Copy(env, o.Env)
	if o.Shell == nil {
		tc := Clang19(o.Arch)
		for k, v := range tc.Env() {
			if _, ok := env[k]; !ok {
				env[k] = v
			}
		}
		o.Shell = tc.Shell
	}
	if _, ok := env["KERNELVERSION"]; !ok {
		env["KERNELVERSION"] = kernelVersion(files)
	}
	p := &parser{
		files: files,
		macros: &macros{
			vars: map[string]*variable{}, shell: o.Shell,
			env: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
		},
		tree:   &Tree{source: files, version: env["KERNELVERSION"], older: olderLanguage(env["KERNELVERSION"]), byName: map[string]*Symbol{}, root: &entry{kind: kindMenu}},
		quoted: map[string]*Symbol{},
	}
	for _, name := range []string{"n", "m", "y"} {
		p.tree.symbols = append(p.tree.symbols, &Symbol{Name: name, Type: Tri, id: len(p.tree.symbols), constant: true})
	}
	p.menu, p.entry = p.tree.root, p.tree.root
	if o.File == "" {
		o.File = "Kconfig"
	}
	if err := p.file(o.File); err != nil {
		return nil, languageFault(err, env["KERNELVERSION"])
	}
	t := p.tree
	if t.root.prompt == nil {
		t.root.prompt = &property{text: "Main menu"}
	}
	if t.modules == nil {
		t.modules = t.symbols[idNo]
	}
	if err := t.finalize(); err != nil {
		return nil, languageFault(err, env["KERNELVERSION"])
	}
	return t, nil
}

// srcArch is the directory in arch/ for an ARCH; the kernel's top makefile has
// the same list.
func srcArch(arch string) string {
	switch arch {
	case "i386", "x86_64":
		return "x86"
	case "sparc32", "sparc64":
		return "sparc"
	case "parisc64":
		return "parisc"
	}
	return arch
}

type parser struct {
	files  fs.FS
	macros *macros
	tree   *Tree
	quoted map[string]*Symbol // constants by text

	stack  []string // names of the files that are open
	menu   *entry   // the block around
	blocks int
	choice *entry // the choice around
	entry  *entry // what takes options
	opts   bool   // whether it still does
	at     Pos    // of the statement
}

// file reads one Kconfig file.
func (p *parser) file(name string) error {
	name = path.Clean(name)
	if len(p.stack) >= maxInclude {
		return fmt.Errorf("files include each other deeper than %d", maxInclude)
	}
	for _, open := range p.stack {
		if open == name {
			return fmt.Errorf("%s includes itself", name)
		}
	}
	text, err := fs.ReadFile(p.files, name)
	if err != nil {
		return fmt.Errorf("kernel source: %w", err)
	}
	t := p.tree
	t.files++
	t.bytes += len(text)
	if len(text) > maxFileSize || t.bytes > maxTreeSize || t.files > maxFiles {
		return fmt.Errorf("%s: the Kconfig files are too large: more than %d bytes in one, %d in all, or %d files", name, maxFileSize, maxTreeSize, maxFiles)
	}
	p.stack = append(p.stack, name)
	s := &scanner{name: name, text: string(text), line: 1}
	around := p.menu
	for {
		tokens, rest, err := s.next(p.macros)
		at := Pos{name, s.start}
		if err != nil {
			return fmt.Errorf("%s: %w", Pos{name, s.line}, err)
		}
		if len(tokens) == 0 {
			break
		}
		p.at = at
		if err := p.statement(s, tokens, rest); err != nil {
			var nested includeError
			if errors.As(err, &nested) {
				return err
			}
			return fmt.Errorf("%s: %w", at, err)
		}
		if len(t.symbols) > maxSymbols {
			return fmt.Errorf("%s: more than %d symbols", at, maxSymbols)
		}
	}
	if p.menu != around {
		return fmt.Errorf("%s: this block does not end in its file", p.menu.at)
	}
	p.opts = false
	p.stack = p.stack[:len(p.stack)-1]
	return nil
}

// includeError has a position of its own.
type includeError struct{ error }

func (e includeError) Unwrap() error { return e.error }

func (p *parser) statement(s *scanner, tokens []token, rest string) error {
	first := tokens[0]
	if first.kind == tokWord {
		if len(tokens) == 2 && tokens[1].kind == tokOperator {
			switch tokens[1].text {
			case "=":
				return p.macros.assign(first.text, rest, assignRecursive)
			case ":=":
				return p.macros.assign(first.text, rest, assignSimple)
			case "+=":
				return p.macros.assign(first.text, rest, assignAppend)
			}
		}
		if first.text == "osource" || first.text == "rsource" || first.text == "orsource" {
			return p.source(first.text, tokens[1:])
		}
		if first.text == "---help---" && p.tree.older && p.opts {
			s.skipHelp() // as it was written up to 5.8
			return nil
		}
		if p.tree.older && p.opts {
			if ok, err := p.olderOption(first.text, &reader{p: p, tokens: tokens[1:]}); ok || err != nil {
				return err
			}
		}
		// A name and no keyword: before 6.18 it could be that of a symbol.
		if first.text == "transitional" && p.opts && p.entry.kind == kindConfig {
			p.entry.sym.transitional = true
			return (&reader{p: p, tokens: tokens[1:]}).end()
		}
		return fmt.Errorf("unknown statement %q", first.text)
	}
	if first.kind != tokKeyword {
		return fmt.Errorf("%q begins no statement", first.text)
	}
	if p.tree.older && first.text == "source" && len(tokens) > 1 && tokens[1].kind == tokWord {
		return p.source(first.text, []token{{kind: tokString, text: s.bareName()}})
	}
	args := &reader{p: p, tokens: tokens[1:]}
	if p.opts {
		if ok, err := p.option(s, first.text, args); ok || err != nil {
			return err
		}
	}
	p.opts = false
	if err := p.block(first.text, args); err != nil {
		return err
	}
	return args.end()
}

// block is a statement that is no option of the entry before it.
func (p *parser) block(word string, args *reader) error {
	if p.choice != nil {
		switch word {
		case "config", "comment", "if", "endif", "endchoice":
		default:
			return fmt.Errorf("%q does not belong into a choice", word)
		}
	}
	switch word {
	case "config", "menuconfig":
		name, err := args.name()
		if err != nil {
			return err
		}
		sym := p.tree.lookup(name.text)
		if sym.constant {
			return fmt.Errorf("%q cannot be a symbol", name.text)
		}
		e := p.add(kindConfig, sym)
		if p.choice != nil {
			if len(p.choice.members) >= maxMembers {
				return fmt.Errorf("a choice has more than %d members", maxMembers)
			}
			if !sym.member {
				p.choice.members = append(p.choice.members, sym)
			}
			sym.member = true
		}
		p.entry = e
	case "choice":
		sym := &Symbol{Type: Bool, id: len(p.tree.symbols)}
		if p.tree.older {
			sym.Type = Unknown // of what it or its members say
		}
		p.tree.symbols = append(p.tree.symbols, sym)
		p.choice = p.add(kindChoice, sym)
		return p.open(p.choice)
	case "menu", "comment":
		title, err := args.string()
		if err != nil {
			return err
		}
		kind := kindMenu
		if word == "comment" {
			kind = kindComment
		}
		e := p.add(kind, nil)
		e.prompt = &property{kind: propPrompt, text: title, at: p.at}
		e.props = append(e.props, e.prompt)
		if word == "menu" {
			return p.open(e)
		}
	case "if":
		cond, err := args.expr()
		if err != nil {
			return err
		}
		e := p.add(kindIf, nil)
		e.dep = cond
		p.opts = false
		if err := p.open(e); err != nil {
			return err
		}
		p.opts = false
	case "endmenu":
		return p.close(kindMenu, word)
	case "endchoice":
		return p.close(kindChoice, word)
	case "endif":
		return p.close(kindIf, word)
	case "mainmenu":
		title, err := args.string()
		if err != nil {
			return err
		}
		p.tree.root.prompt = &property{text: title}
	case "source":
		tokens := args.tokens
		args.tokens = nil
		return p.source(word, tokens)
	default:
		return fmt.Errorf("%q does not belong here", word)
	}
	return nil
}

// add appends an entry, which takes the options that follow.
func (p *parser) add(kind entryKind, sym *Symbol) *entry {
	e := &entry{kind: kind, sym: sym, parent: p.menu, at: p.at}
	p.menu.children = append(p.menu.children, e)
	if sym != nil {
		sym.entries = append(sym.entries, e)
	}
	p.entry, p.opts = e, true
	return e
}

func (p *parser) open(e *entry) error {
	if p.blocks++; p.blocks > maxBlocks {
		return fmt.Errorf("blocks are nested deeper than %d", maxBlocks)
	}
	p.menu = e
	return nil
}

func (p *parser) close(kind entryKind, word string) error {
	e := p.menu
	switch {
	case e == p.tree.root || e.kind != kind:
		return fmt.Errorf("%q ends nothing here", word)
	case e.at.File != p.at.File:
		return fmt.Errorf("%q is in another file than its beginning (%s)", word, e.at)
	}
	if kind == kindChoice {
		p.choice = nil
	}
	p.blocks--
	p.menu = e.parent
	return nil
}

// source reads the file that a source statement names. rsource takes a path
// relative to the file it is in, osource one that may be missing; other
// projects than Linux have them.
func (p *parser) source(word string, tokens []token) error {
	p.opts = false
	if len(tokens) != 1 || tokens[0].kind != tokString {
		return fmt.Errorf("%s takes one file name in quotes", word)
	}
	name := tokens[0].text
	if word == "rsource" || word == "orsource" {
		name = path.Join(path.Dir(p.at.File), name)
	}
	if word == "osource" || word == "orsource" {
		if _, err := fs.Stat(p.files, path.Clean(name)); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	at := p.at
	if err := p.file(name); err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
			return fmt.Errorf("source %q: %w", name, err)
		}
		return includeError{err}
	}
	p.at = at
	return nil
}

// lookup returns the symbol of that name, making it if need be.
func (t *Tree) lookup(name string) *Symbol {
	switch name {
	case "n":
		return t.symbols[idNo]
	case "m":
		return t.symbols[idMod]
	case "y":
		return t.symbols[idYes]
	}
	s, ok := t.byName[name]
	if !ok {
		s = &Symbol{Name: name, id: len(t.symbols)}
		t.byName[name] = s
		t.symbols = append(t.symbols, s)
	}
	return s
}

// quote returns the constant of that text.
func (p *parser) quote(text string) *Symbol {
	if text == "n" || text == "m" || text == "y" {
		return p.tree.lookup(text)
	}
	s, ok := p.quoted[text]
	if !ok {
		s = &Symbol{Name: text, id: len(p.tree.symbols), constant: true}
		p.quoted[text] = s
		p.tree.symbols = append(p.tree.symbols, s)
	}
	return s
}
