package kernel

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/kernel/kconfig"
)

// Explained is what becomes of fragments in a kernel, computed from its Kconfig
// files. It marshals to JSON.
type Explained struct {
	Arch  string `json:"arch"`  // the kernel's name
	Asked int    `json:"asked"` // symbols the fragments name
	OK    bool   `json:"ok"`    // nothing is lost
	Lost  []Lost `json:"lost"`  // sorted by symbol, each with Why; never null
	// Add are values to ask for so that nothing is lost, in an order in which
	// each depends on earlier ones.
	Add []kconfig.Value `json:"add"` // never null
	// Left are the symbols that are lost with Add too.
	Left      []string   `json:"left,omitempty"`
	Overrides []Override `json:"overrides,omitempty"`
	// Version is the kernel's, "6.12.107": what is said holds for it. It is ""
	// for files that do not say.
	Version string `json:"version,omitempty"`
}

// Kconfig reads the Kconfig files of a source tree for an architecture, with
// the answers of the project's toolchain to what they ask of the compiler.
func Kconfig(files fs.FS, a Arch) (*kconfig.Tree, error) {
	return kconfig.Parse(files, kconfig.Options{Arch: a.Linux})
}

// Explain computes the configuration that fragments lead to and explains each
// symbol that is not what was asked.
//
// Symbols that no fragment names are n, as in this project's kernels, or, with
// a base, as in that .config and otherwise by default, as olddefconfig has it.
func Explain(tree *kconfig.Tree, a Arch, base *Config, asked *Merged) *Explained {
	x := explainer(tree, base, asked)
	final := x.Result()
	out := &Explained{Arch: a.Linux, Version: tree.Version(), Asked: len(asked.Asked), Lost: []Lost{}, Add: []kconfig.Value{}}
	for _, s := range asked.Asked {
		got := final.Value(s.Symbol)
		loss := compare(s.Value, got)
		// A whole .config of another version may well refuse what is gone.
		if !tree.Lookup(s.Symbol).Defined() && (base == nil || s.Value != Off) {
			loss = Unknown
		}
		if loss != "" {
			out.Lost = append(out.Lost, Lost{Asked: s, Got: got, Loss: loss})
		}
	}
	why(x, out.Lost)
	out.OK = len(out.Lost) == 0
	out.Add, out.Left = together(x, out.Lost)
	return out
}

func explainer(tree *kconfig.Tree, base *Config, asked *Merged) *kconfig.Explainer {
	var start, pinned []kconfig.Value
	mode := kconfig.AllNo
	if base != nil {
		mode = kconfig.Defaults
		for s := range base.All() {
			start = append(start, kconfig.Value{Symbol: s.Symbol, Value: s.Value})
		}
	}
	for _, s := range asked.Asked {
		pinned = append(pinned, kconfig.Value{Symbol: s.Symbol, Value: s.Value})
	}
	return tree.Explainer(mode, start, pinned)
}

// why fills in Lost.Why.
func why(x *kconfig.Explainer, lost []Lost) {
	for i, l := range lost {
		e := x.Explain(kconfig.Value{Symbol: l.Symbol, Value: l.Value})
		lost[i].Why = &e
	}
}

func together(x *kconfig.Explainer, lost []Lost) (add []kconfig.Value, left []string) {
	var list []kconfig.Explanation
	for _, l := range lost {
		if l.Why != nil {
			list = append(list, *l.Why)
		}
	}
	add, left = x.Together(list)
	if add == nil {
		add = []kconfig.Value{}
	}
	return add, left
}

// ExplainError adds to an error of VerifyError what the kernel's Kconfig files
// say about each lost symbol, and the lines that would keep all of them. Any
// other error comes back as it is.
func ExplainError(err error, tree *kconfig.Tree, asked *Merged) error {
	var le *LostError
	if !errors.As(err, &le) {
		return err
	}
	x := explainer(tree, nil, asked)
	out := &LostError{Lost: slices.Clone(le.Lost), Asked: le.Asked}
	why(x, out.Lost)
	out.Add, out.Left = together(x, out.Lost)
	return lostFault(out)
}

// lostFault classes a LostError and says what to do.
func lostFault(e *LostError) error {
	out := fault.Errorf(fault.Verification, "%w", e)
	if len(e.Add) > 0 {
		return out.Hintf("add to a fragment:\n%s", strings.TrimRight(addText(e.Add), "\n"))
	}
	return out.Hintf("ask in a fragment for what each symbol depends on (and for the menus around it), or take the symbol out")
}

func addText(add []kconfig.Value) string {
	var b strings.Builder
	for _, v := range add {
		b.WriteString(v.Text() + "\n")
	}
	return b.String()
}

// WriteText writes the explanation for people: a line for each lost symbol
// with its place, and then the lines that would keep all of them.
func (e *Explained) WriteText(w io.Writer) error {
	var b strings.Builder
	for _, o := range e.Overrides {
		fmt.Fprintf(&b, "%s\n", o)
	}
	of := e.Arch
	if e.Version != "" {
		of = "Linux " + e.Version + ", " + e.Arch
	}
	fmt.Fprintf(&b, "%s: %d of %d symbols asked for are lost\n", of, len(e.Lost), e.Asked)
	for _, l := range e.Lost {
		fmt.Fprintf(&b, "\n%s: %s\n", l.Pos(), l.Why)
		if l.Reason != "" {
			fmt.Fprintf(&b, "  wanted because: %s\n", l.Reason)
		}
	}
	if len(e.Add) > 0 {
		fmt.Fprintf(&b, "\nAdd to a fragment:\n\n%s", addText(e.Add))
	}
	if len(e.Left) > 0 {
		fmt.Fprintf(&b, "\nStill lost then: %s\n", strings.Join(e.Left, ", "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
