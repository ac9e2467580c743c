package kernel

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/kernel/kconfig"
)

// Loss says how a symbol was lost.
type Loss string

const (
	// Unknown is a symbol no Kconfig file of this kernel has.
	Unknown Loss = "unknown"
	// Dropped is a symbol that is off although it was asked for: something it
	// depends on is off.
	Dropped Loss = "dropped"
	// Changed is a number, a string or a choice with another value: clamped
	// to a range, or m where y was asked.
	Changed Loss = "changed"
	// Forced is a symbol that is on although it should be off: another symbol
	// selects it, or it has no prompt and a default.
	Forced Loss = "forced"
)

// Lost is a symbol whose final value is not what was asked.
type Lost struct {
	Asked
	Got  string `json:"got"`
	Loss Loss   `json:"loss"`
	// Depends is what Kconfig says the symbol depends on, with the place:
	// "drivers/net/Kconfig:380: (NETDEVICES) && (INET)". Empty when unknown.
	Depends []string `json:"depends,omitempty"`
	// Why is what Explain or ExplainError found out.
	Why *kconfig.Explanation `json:"why,omitempty"`
}

// String says it in one line: where, what, how, and why it was wanted.
func (l Lost) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: ", l.Pos())
	switch {
	case l.Why != nil:
		b.WriteString(l.Why.String())
	case l.Loss == Unknown:
		fmt.Fprintf(&b, "CONFIG_%s: no such symbol in this kernel", l.Symbol)
	case l.Loss == Dropped:
		fmt.Fprintf(&b, "CONFIG_%s=%s was dropped (something it depends on is off)", l.Symbol, l.Value)
	case l.Loss == Forced:
		fmt.Fprintf(&b, "CONFIG_%s should be off and is %s (something selects it)", l.Symbol, l.Got)
	default:
		fmt.Fprintf(&b, "CONFIG_%s=%s became %s", l.Symbol, l.Value, l.Got)
	}
	for _, d := range l.Depends {
		if l.Why == nil {
			fmt.Fprintf(&b, "; depends on %s", d)
		}
	}
	for _, s := range append([]Setting{l.Setting}, l.Also...) {
		if s.Reason == "" {
			continue
		}
		if s.Pos() == l.Pos() {
			fmt.Fprintf(&b, "; wanted because: %s", s.Reason)
		} else {
			fmt.Fprintf(&b, "; also %s: %s", s.Pos(), s.Reason)
		}
	}
	return b.String()
}

// Verify compares what the fragments asked with the final .config, by the
// rules of the package comment, and returns what got lost, sorted by symbol.
// Only the fragments' own symbols are compared. Asking for a symbol that the
// notes call unknown is a loss even when the value asked is n, since it is a
// misspelling or a symbol that went away.
func Verify(asked *Merged, final *Config, notes Notes) []Lost {
	var lost []Lost
	for _, a := range asked.Asked {
		got := final.Value(a.Symbol)
		loss := compare(a.Value, got)
		if slices.Contains(notes.Unknown, a.Symbol) {
			loss = Unknown
		}
		if loss != "" {
			lost = append(lost, Lost{Asked: a, Got: got, Loss: loss, Depends: notes.Depends[a.Symbol]})
		}
	}
	return lost
}

// compare returns how want got lost, or "" when it did not.
func compare(want, got string) Loss {
	switch {
	case equal(want, got), want == "m" && got == "y":
		return ""
	case want == Off:
		return Forced
	case got == Off:
		return Dropped
	default:
		return Changed
	}
}

// LostError is the error of a kernel that is not what was asked.
type LostError struct {
	Lost  []Lost `json:"lost"`
	Asked int    `json:"asked"` // symbols the fragments name
	// Add are values to ask for so that all are kept, and Left the symbols
	// that are lost with them too; ExplainError finds them.
	Add  []kconfig.Value `json:"add,omitempty"`
	Left []string        `json:"left,omitempty"`
}

// Error has a line for each lost symbol after the first line.
func (e *LostError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "kernel: %d of %d symbols asked for are not in the final .config", len(e.Lost), e.Asked)
	for _, l := range e.Lost {
		b.WriteString("\n  " + l.String())
	}
	return b.String()
}

// Findings are the lost symbols, for programs.
func (e *LostError) Findings() any { return e.Lost }

// VerifyError is Verify as an error: nil when nothing got lost, otherwise a
// *LostError of class fault.Verification.
func VerifyError(asked *Merged, final *Config, notes Notes) error {
	lost := Verify(asked, final, notes)
	if len(lost) == 0 {
		return nil
	}
	return lostFault(&LostError{Lost: lost, Asked: len(asked.Asked)})
}
