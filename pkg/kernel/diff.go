package kernel

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/kernel/kconfig"
)

// ChangeKind says what happened to a symbol between two configurations.
type ChangeKind string

const (
	Added   ChangeKind = "added"   // off before
	Removed ChangeKind = "removed" // off after
	Altered ChangeKind = "changed" // on in both, with different values
)

// Change is one symbol that differs.
type Change struct {
	Symbol string     `json:"symbol"`
	Kind   ChangeKind `json:"kind"`
	Before string     `json:"before"`
	After  string     `json:"after"`
}

// Group is the changes under one menu.
type Group struct {
	// Menu is the path of Kconfig menus, "General setup > Timers subsystem";
	// empty for symbols outside every menu.
	Menu    string   `json:"menu"`
	Changes []Change `json:"changes"` // sorted by symbol
}

// Diff compares two .config files and returns what differs, grouped by menu
// and sorted by it. A symbol that is n, "is not set" or absent is off in either
// way. The menus are those of the headings in the files; a symbol that is in
// both is under b's.
func Diff(a, b *Config) []Group {
	return DiffBy(a, b, func(s Setting) string { return s.Menu })
}

// DiffBy is Diff with another notion of a setting's menu.
func DiffBy(a, b *Config, menu func(Setting) string) []Group {
	groups := map[string][]Change{}
	add := func(menu string, s Change) {
		switch {
		case equal(s.Before, s.After):
			return
		case s.Before == Off:
			s.Kind = Added
		case s.After == Off:
			s.Kind = Removed
		default:
			s.Kind = Altered
		}
		groups[menu] = append(groups[menu], s)
	}
	for s := range b.All() {
		add(menu(s), Change{Symbol: s.Symbol, Before: a.Value(s.Symbol), After: s.Value})
	}
	for s := range a.All() {
		if _, ok := b.Lookup(s.Symbol); !ok {
			add(menu(s), Change{Symbol: s.Symbol, Before: s.Value, After: Off})
		}
	}
	out := make([]Group, 0, len(groups))
	for menu, changes := range groups {
		slices.SortFunc(changes, func(x, y Change) int { return cmp.Compare(x.Symbol, y.Symbol) })
		out = append(out, Group{Menu: menu, Changes: changes})
	}
	slices.SortFunc(out, func(x, y Group) int { return cmp.Compare(x.Menu, y.Menu) })
	return out
}

// KconfigMenus gives settings the menus of a source tree's Kconfig files, and
// those of the file they are from where the tree does not know the symbol.
func KconfigMenus(tree *kconfig.Tree) func(Setting) string {
	return func(s Setting) string {
		if !tree.Lookup(s.Symbol).Defined() {
			return s.Menu
		}
		return strings.Join(tree.Menus(s.Symbol), " > ")
	}
}

// WriteDiff writes groups for people: the menu, then "+ SYMBOL=y",
// "- SYMBOL=y" or "~ SYMBOL: 4 -> 64" for each symbol.
func WriteDiff(w io.Writer, groups []Group) error {
	var b strings.Builder
	for i, g := range groups {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s\n", cmp.Or(g.Menu, "(no menu)"))
		for _, c := range g.Changes {
			switch c.Kind {
			case Added:
				fmt.Fprintf(&b, "  + %s=%s\n", c.Symbol, c.After)
			case Removed:
				fmt.Fprintf(&b, "  - %s=%s\n", c.Symbol, c.Before)
			case Altered:
				fmt.Fprintf(&b, "  ~ %s: %s -> %s\n", c.Symbol, c.Before, c.After)
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
