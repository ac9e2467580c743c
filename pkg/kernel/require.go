package kernel

import (
	"embed"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// The sets are fragments, so that a reason stands beside its symbol.
//
//go:embed require/*.config
var requireFS embed.FS

// RequirementSets names the requirement sets, sorted.
func RequirementSets() ([]string, error) {
	files, err := requireFS.ReadDir("require")
	if err != nil {
		return nil, fmt.Errorf("requirement sets: %w", err)
	}
	names := make([]string, 0, len(files))
	for _, f := range files {
		names = append(names, strings.TrimSuffix(f.Name(), ".config"))
	}
	slices.Sort(names)
	return names, nil
}

// Require returns a requirement set: what a kernel's .config must hold for a
// purpose, with a reason for each symbol. An unknown name is an error of class
// fault.Usage that lists the known ones.
func Require(name string) (*Config, error) {
	names, err := RequirementSets()
	if err != nil {
		return nil, err
	}
	if !slices.Contains(names, name) {
		return nil, fault.Errorf(fault.Usage, "no requirement set %q", name).
			Hintf("use one of %s", strings.Join(names, ", "))
	}
	f, err := requireFS.Open(path.Join("require", name+".config"))
	if err != nil {
		return nil, fmt.Errorf("requirement set %s: %w", name, err)
	}
	c, err := ParseFragment(name, f)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return c, err
}

// SetResult is one requirement set held against a .config.
type SetResult struct {
	Name    string `json:"name"`
	Topic   string `json:"topic"`
	Symbols int    `json:"symbols"` // in the set
	Lost    []Lost `json:"lost"`    // not met, sorted by symbol; never null
}

// Report is a .config held against requirement sets. It marshals to JSON.
type Report struct {
	File string      `json:"file"`
	OK   bool        `json:"ok"`
	Sets []SetResult `json:"sets"` // in the order asked
}

// Check holds a .config (or /proc/config.gz) against requirement sets.
func Check(c *Config, sets ...string) (*Report, error) {
	r := &Report{File: c.File, OK: true, Sets: []SetResult{}}
	for _, name := range sets {
		set, err := Require(name)
		if err != nil {
			return nil, err
		}
		m, _ := Merge(set)
		res := SetResult{Name: name, Topic: set.Topic, Symbols: set.Len(), Lost: Verify(m, c, Notes{})}
		if res.Lost == nil {
			res.Lost = []Lost{}
		}
		r.OK = r.OK && len(res.Lost) == 0
		r.Sets = append(r.Sets, res)
	}
	return r, nil
}

// WriteText writes the report for people: a line for each set, and below it a
// line for each symbol that is not met, with what is there and the reason.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	for _, s := range r.Sets {
		word := "ok"
		if len(s.Lost) > 0 {
			word = fmt.Sprintf("%d of %d not met", len(s.Lost), s.Symbols)
		}
		fmt.Fprintf(&b, "%s: %s\n", s.Name, word)
		for _, l := range s.Lost {
			fmt.Fprintf(&b, "  %s\n", l.need())
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// need says what a requirement wants; the position in an embedded file would
// help nobody.
func (l Lost) need() string {
	return fmt.Sprintf("CONFIG_%s must be %s and is %s: %s", l.Symbol, l.Value, l.Got, l.Reason)
}

// Err is nil for a report without findings, otherwise an *UnmetError of class
// fault.Verification.
func (r *Report) Err() error {
	if r.OK {
		return nil
	}
	e := &UnmetError{File: r.File}
	for _, s := range r.Sets {
		for _, l := range s.Lost {
			e.Unmet = append(e.Unmet, Unmet{Set: s.Name, Lost: l})
		}
	}
	return fault.Errorf(fault.Verification, "%w", e).Hintf("add the symbols to a kernel fragment of the recipe")
}

// UnmetError is the error of a .config that does not meet requirement sets.
type UnmetError struct {
	File  string
	Unmet []Unmet
}

// Unmet is a symbol that is not as a requirement set wants it.
type Unmet struct {
	Set string `json:"set"`
	Lost
}

// Error has a line for each symbol after the first line.
func (e *UnmetError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s does not meet its kernel requirements:", e.File)
	for _, u := range e.Unmet {
		fmt.Fprintf(&b, "\n  %s: %s", u.Set, u.need())
	}
	return b.String()
}

// Findings are the symbols, for programs.
func (e *UnmetError) Findings() any { return e.Unmet }
