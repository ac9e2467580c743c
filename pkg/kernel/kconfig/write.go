package kconfig

import (
	"bytes"
	"io"
)

// WriteTo writes the .config, byte for byte as conf does.
func (r *Result) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(r.Bytes())
	return int64(n), err
}

// Bytes is what WriteTo writes.
func (r *Result) Bytes() []byte {
	w := writer{r: r, done: make([]bool, len(r.state))}
	w.b.WriteString("#\n# Automatically generated file; DO NOT EDIT.\n# " + r.tree.Title() + "\n#\n")
	for _, e := range r.tree.root.children {
		w.entry(e)
	}
	return w.b.Bytes()
}

type writer struct {
	r    *Result
	b    bytes.Buffer
	done []bool
	gap  bool // an empty line comes before the next symbol
}

func (w *writer) entry(e *entry) {
	heading := (e.kind == kindMenu || e.kind == kindComment) &&
		w.r.eval(e.visibility) != No && w.r.eval(e.prompt.cond) != No
	if heading {
		w.b.WriteString("\n#\n# " + e.prompt.text + "\n#\n")
		w.gap = false
	}
	if e.kind == kindConfig {
		w.symbol(e.sym)
	}
	for _, c := range e.children {
		w.entry(c)
	}
	if heading && e.kind == kindMenu && len(e.children) > 0 {
		w.b.WriteString("# end of " + e.prompt.text + "\n")
		w.gap = true
	}
}

func (w *writer) symbol(s *Symbol) {
	if w.done[s.id] || !w.r.state[s.id].write {
		return
	}
	w.done[s.id] = true
	if w.gap {
		w.b.WriteByte('\n')
		w.gap = false
	}
	if s.Type != Unknown {
		w.b.WriteString(Value{s.Name, w.r.written(s)}.text(s))
		w.b.WriteByte('\n')
	}
}

// text is Text, where only a bool or tristate can be "not set".
func (v Value) text(s *Symbol) string {
	if s.logical() {
		return v.Text()
	}
	return "CONFIG_" + v.Symbol + "=" + v.Value
}
