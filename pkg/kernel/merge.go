package kernel

import (
	"bytes"
	"fmt"
	"io"
	"slices"
)

// Asked is what the fragments together ask for one symbol.
type Asked struct {
	Setting // the fragment that decided: the last one
	// Also are other fragments that asked for the same value, each with a
	// reason of its own.
	Also []Setting `json:"also,omitempty"`
}

// Merged is what a list of fragments asks for.
type Merged struct {
	// Asked is sorted by symbol.
	Asked []Asked
}

// Override is a symbol that a later fragment set to another value than an
// earlier one.
type Override struct {
	Before Setting `json:"before"`
	After  Setting `json:"after"`
}

// String says it in one line.
func (o Override) String() string {
	return fmt.Sprintf("%s: CONFIG_%s=%s overrides %s from %s",
		o.After.Pos(), o.After.Symbol, o.After.Value, o.Before.Value, o.Before.Pos())
}

// Merge joins fragments in order: a later one wins. Every symbol that got
// another value on the way is reported, in the order of the fragments. Asking
// for the same value twice is no override.
func Merge(fragments ...*Config) (*Merged, []Override) {
	var overrides []Override
	asked := map[string]Asked{}
	for _, f := range fragments {
		for s := range f.All() {
			old, ok := asked[s.Symbol]
			switch {
			case !ok:
				asked[s.Symbol] = Asked{Setting: s}
			case equal(old.Value, s.Value):
				asked[s.Symbol] = Asked{Setting: s, Also: append(slices.Clone(old.Also), old.Setting)}
			default:
				overrides = append(overrides, Override{Before: old.Setting, After: s})
				asked[s.Symbol] = Asked{Setting: s}
			}
		}
	}
	m := &Merged{Asked: make([]Asked, 0, len(asked))}
	for _, a := range asked {
		m.Asked = append(m.Asked, a)
	}
	slices.SortFunc(m.Asked, func(a, b Asked) int { return bySymbol(a.Setting, b.Setting) })
	return m, overrides
}

// WriteTo writes the input of the kernel steps: one line a symbol, sorted,
// without comments, so that a reworded reason or a moved line does not build a
// kernel again.
func (m *Merged) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(m.Bytes())
	return int64(n), err
}

// Bytes is what WriteTo writes.
func (m *Merged) Bytes() []byte {
	var b bytes.Buffer
	for _, a := range m.Asked {
		b.WriteString(a.Text())
		b.WriteByte('\n')
	}
	return b.Bytes()
}
