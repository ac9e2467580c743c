package kconfig

import (
	"fmt"
	"strconv"
	"strings"
)

// Limits of the macro language.
const (
	maxExpansion  = 64 << 10 // bytes of one expansion
	maxMacroDepth = 200      // nesting of expansions
	maxMacroArgs  = 16       // conf's own limit
	maxExpansions = 200_000  // in the whole tree; Linux 6.12 makes about 2,000
	maxExpanded   = 32 << 20 // bytes of all of them
)

// A Shell answers a $(shell) call: it returns what the command prints. The
// command is as /bin/sh would get it.
type Shell func(command string) (string, error)

// macros is the state of the macro language: $(NAME), $(function,arguments).
type macros struct {
	vars  map[string]*variable
	env   func(string) (string, bool)
	shell Shell
	count int
	bytes int

	// at is where the parser is, for $(filename), $(lineno) and errors.
	at Pos
	// probe is the text of the outermost call since it was last cleared that
	// ran a command, "" if none did.
	probe string
}

type variable struct {
	value  string
	simple bool // := and not =
	probe  string
	busy   int
}

type flavor uint8

const (
	assignRecursive flavor = iota // =
	assignSimple                  // :=
	assignAppend                  // +=
)

// assign is a statement NAME = value.
func (m *macros) assign(name, value string, f flavor) error {
	v, ok := m.vars[name]
	appending := f == assignAppend && ok
	if !ok {
		v = &variable{}
		m.vars[name] = v
	}
	if f != assignAppend {
		v.simple = f == assignSimple
		v.probe = ""
	}
	if v.simple {
		m.probe = ""
		expanded, err := m.expand(value, nil, 0)
		if err != nil {
			return err
		}
		value = expanded
		if m.probe != "" {
			v.probe = m.probe
		}
	}
	if appending {
		value = v.value + " " + value
	}
	if len(value) > maxExpansion {
		return fmt.Errorf("variable %s is longer than %d bytes", name, maxExpansion)
	}
	v.value = value
	return nil
}

// expand replaces every reference in the text.
func (m *macros) expand(s string, args []string, depth int) (string, error) {
	if strings.IndexByte(s, '$') < 0 {
		return s, nil
	}
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '$')
		if i < 0 {
			b.WriteString(s)
			return b.String(), nil
		}
		b.WriteString(s[:i])
		out, rest, err := m.dollar(s[i+1:], args, depth)
		if err != nil {
			return "", err
		}
		if b.Len()+len(out) > maxExpansion {
			return "", fmt.Errorf("an expansion is longer than %d bytes", maxExpansion)
		}
		if m.bytes += len(out); m.bytes > maxExpanded {
			return "", fmt.Errorf("macros expand to more than %d bytes", maxExpanded)
		}
		b.WriteString(out)
		s = rest
	}
}

// word expands the word that s begins with, which ends at the first byte
// outside a reference that is no part of a word. It returns the rest of s.
func (m *macros) word(s string) (out, rest string, err error) {
	var b strings.Builder
	for {
		i := 0
		for i < len(s) && isWord(s[i]) {
			i++
		}
		b.WriteString(s[:i])
		s = s[i:]
		if s == "" || s[0] != '$' {
			return b.String(), s, nil
		}
		out, rest, err := m.dollar(s[1:], nil, 0)
		if err != nil {
			return "", "", err
		}
		if b.Len()+len(out) > maxExpansion {
			return "", "", fmt.Errorf("an expansion is longer than %d bytes", maxExpansion)
		}
		b.WriteString(out)
		s = rest
	}
}

// dollar expands what follows a $ at the beginning of s and returns the rest.
// A $ that no parenthesis follows is itself.
func (m *macros) dollar(s string, args []string, depth int) (out, rest string, err error) {
	if s == "" || s[0] != '(' {
		return "$", s, nil
	}
	nest := 0
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '(':
			nest++
		case ')':
			if nest > 0 {
				nest--
				continue
			}
			out, err = m.clause(s[1:i], args, depth+1)
			if depth == 0 && m.probe != "" {
				m.probe = "$" + s[:i+1]
			}
			return out, s[i+1:], err
		}
	}
	return "", "", fmt.Errorf("unterminated reference to %.40q: missing )", s[1:])
}

// clause evaluates the inside of $(…).
func (m *macros) clause(text string, args []string, depth int) (string, error) {
	if m.count++; m.count > maxExpansions {
		return "", fmt.Errorf("more than %d macro expansions", maxExpansions)
	}
	if depth > maxMacroDepth {
		return "", fmt.Errorf("macros are nested deeper than %d", maxMacroDepth)
	}
	if n, err := strconv.ParseUint(text, 10, 32); err == nil && n > 0 && n <= uint64(len(args)) {
		return args[n-1], nil
	}
	parts, err := splitArgs(text)
	if err != nil {
		return "", err
	}
	for i := range parts {
		if parts[i], err = m.expand(parts[i], args, depth); err != nil {
			return "", err
		}
	}
	name, args := parts[0], parts[1:]
	if v, ok := m.vars[name]; ok {
		return m.variable(name, v, args, depth)
	}
	if out, ok, err := m.builtin(name, args); ok || err != nil {
		return out, err
	}
	if len(args) == 0 && name != "" {
		if out, ok := m.env(name); ok {
			return out, nil
		}
	}
	return "", nil
}

// splitArgs cuts at the commas outside parentheses.
func splitArgs(text string) ([]string, error) {
	var parts []string
	nest, start := 0, 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '(':
			nest++
		case ')':
			nest--
		case ',':
			if nest == 0 {
				parts = append(parts, text[start:i])
				start = i + 1
			}
		}
		if len(parts) >= maxMacroArgs {
			return nil, fmt.Errorf("a macro has more than %d arguments", maxMacroArgs-1)
		}
	}
	return append(parts, text[start:]), nil
}

func (m *macros) variable(name string, v *variable, args []string, depth int) (string, error) {
	if v.probe != "" {
		m.probe = v.probe
	}
	if v.simple {
		return v.value, nil
	}
	if len(args) == 0 && v.busy > 0 {
		return "", fmt.Errorf("variable %q refers to itself", name)
	}
	v.busy++
	defer func() { v.busy-- }()
	return m.expand(v.value, args, depth)
}

// builtin runs a built-in function; ok is false for a name that is none.
func (m *macros) builtin(name string, args []string) (out string, ok bool, err error) {
	want, known := map[string]int{
		"error-if": 2, "filename": 0, "info": 1, "lineno": 0, "shell": 1, "warning-if": 2,
	}[name]
	if !known {
		return "", false, nil
	}
	if len(args) != want {
		return "", true, fmt.Errorf("$(%s) takes %d arguments, not %d", name, want, len(args))
	}
	switch name {
	case "error-if":
		if args[0] == "y" {
			return "", true, fmt.Errorf("the Kconfig file itself reports: %s", args[1])
		}
	case "filename":
		return m.at.File, true, nil
	case "lineno":
		return strconv.Itoa(m.at.Line), true, nil
	case "shell":
		m.probe = "$(shell)"
		out, err := m.shell(args[0])
		if err != nil {
			return "", true, fmt.Errorf("$(shell,%s): %w", args[0], err)
		}
		// As conf does: one buffer, line ends at the end removed, others made
		// blanks.
		out = strings.TrimRight(out[:min(len(out), 4095)], "\n")
		return strings.ReplaceAll(out, "\n", " "), true, nil
	}
	return "", true, nil // $(info) and $(warning-if) print
}

func isWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}
