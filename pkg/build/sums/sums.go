// Package sums is sovereign.sums: the file beside a recipe that says what every
// step of its build makes, by digest, so that a build on any machine sees
// whether it made the same, and which step was the first that did not.
//
// A line holds the SHA-256 of an output, the beginning of the key of the step's
// inputs, and "STEP: OUTPUT". The key tells a step that made something else of
// the same inputs, which is a fault, from one whose inputs are others, which
// only says that the file was not written anew.
//
// Text comes in and values go out, and the other way round always the same
// bytes for the same values. The package runs nothing.
package sums

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/remedy"
)

// File is the name of the sums beside a recipe.
const File = "sovereign.sums"

// KeyLength is how many hexadecimal digits of a step's key a line holds.
const KeyLength = 16

// Limits of a file.
const (
	maxLine  = 1 << 10 // bytes
	maxLines = 100_000
)

// Sum is one output of one step.
type Sum struct {
	// Step is its name, with the architecture: "port zlib amd64".
	Step string
	// Output is the name of what it made: "apk zlib".
	Output string
	// Key is the beginning of the key of its inputs, KeyLength digits.
	Key    string
	Digest store.Digest
}

var (
	keyForm  = regexp.MustCompile(`^[0-9a-f]{16}$`)
	nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9 ._+/-]*$`)
)

// Parse reads a file. Errors are of class fault.Usage and begin with NAME:LINE.
func Parse(name string, r io.Reader) ([]Sum, error) {
	in := bufio.NewScanner(r)
	in.Buffer(nil, maxLine)
	var sums []Sum
	seen := map[[2]string]int{}
	n := 0
	fail := func(format string, args ...any) error {
		return remedy.By(remedy.Remedy{Kind: remedy.WriteSums},
			fault.Errorf(fault.Usage, "%s:%d: "+format, append([]any{name, n}, args...)...).Hintf("write it anew"))
	}
	for in.Scan() {
		n++
		line := in.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		if len(sums) == maxLines {
			return nil, fail("more than %d outputs", maxLines)
		}
		hex, rest, ok1 := strings.Cut(line, "  ")
		key, rest, ok2 := strings.Cut(rest, "  ")
		step, output, ok3 := strings.Cut(rest, ": ")
		if !ok1 || !ok2 || !ok3 {
			return nil, fail("%.60q is not DIGEST  KEY  STEP: OUTPUT", line)
		}
		s := Sum{Step: step, Output: output, Key: key}
		var err error
		if s.Digest, err = store.ParseDigest("sha256:" + hex); err != nil {
			return nil, fail("%.80q is not a SHA-256 in hexadecimal digits", hex)
		}
		switch {
		case !keyForm.MatchString(key):
			return nil, fail("the key %.80q is not %d hexadecimal digits", key, KeyLength)
		case !nameForm.MatchString(step) || !nameForm.MatchString(output):
			return nil, fail("%.80q is not the name of a step and an output", rest)
		case seen[[2]string{step, output}] != 0:
			return nil, fail("%s: %s stands in line %d too", step, output, seen[[2]string{step, output}])
		}
		seen[[2]string{step, output}] = n
		sums = append(sums, s)
	}
	if err := in.Err(); err != nil {
		n++
		return nil, fail("%w", err)
	}
	return sums, nil
}

// header explains the file to whoever opens it.
const header = `# What each step of this recipe makes, by digest; the same on every machine.
# Written by sovereign-build build --write-sums, compared by every build.
`

// Format writes the sums sorted by step and output.
func Format(sums []Sum) []byte {
	sorted := slices.Clone(sums)
	slices.SortFunc(sorted, func(a, b Sum) int {
		return cmp.Or(strings.Compare(a.Step, b.Step), strings.Compare(a.Output, b.Output))
	})
	var b strings.Builder
	b.WriteString(header)
	for _, s := range sorted {
		fmt.Fprintf(&b, "%s  %s  %s: %s\n", s.Digest.Hex(), s.Key, s.Step, s.Output)
	}
	return []byte(b.String())
}

// Difference is an output that is not what the file says.
type Difference struct {
	Step   string       `json:"step"`
	Output string       `json:"output"`
	Want   store.Digest `json:"want,omitempty"` // of the file; "" where it has none
	Have   store.Digest `json:"have,omitempty"` // of the build; "" where it made none
	// SameInputs is true when the step's inputs are those of the file, and so
	// the step is at fault.
	SameInputs bool `json:"same_inputs"`
}

func (d Difference) String() string {
	what := d.Step + ": " + d.Output
	switch {
	case d.Want == "":
		return what + " is not in the sums"
	case d.Have == "":
		return what + " was not made"
	case d.SameInputs:
		return fmt.Sprintf("%s is %s, the sums say %s for the same inputs", what, d.Have, d.Want)
	}
	return fmt.Sprintf("%s is %s, the sums say %s; its inputs are others too", what, d.Have, d.Want)
}

// Compare gives the outputs of a build for an architecture that are not what
// the file says, in the order of made, in which a step comes after those whose
// outputs it needs: the first is where to look. Steps with the same outputs of
// other inputs are no difference.
func Compare(file, made []Sum, arch string) []Difference {
	want := map[[2]string]Sum{}
	for _, s := range file {
		if of(s.Step, arch) {
			want[[2]string{s.Step, s.Output}] = s
		}
	}
	var out []Difference
	for _, s := range made {
		at := [2]string{s.Step, s.Output}
		w, ok := want[at]
		delete(want, at)
		if !ok || w.Digest != s.Digest {
			out = append(out, Difference{Step: s.Step, Output: s.Output, Want: w.Digest, Have: s.Digest, SameInputs: ok && w.Key == s.Key})
		}
	}
	for _, s := range file {
		if _, ok := want[[2]string{s.Step, s.Output}]; ok {
			out = append(out, Difference{Step: s.Step, Output: s.Output, Want: s.Digest})
		}
	}
	return out
}

// Has says whether a file has an output of an architecture's own.
func Has(file []Sum, arch string) bool {
	return slices.ContainsFunc(file, func(s Sum) bool { return strings.HasSuffix(s.Step, " "+arch) })
}

// Merge puts what was made for an architecture in the place of what the file
// has for it.
func Merge(file, made []Sum, arch string) []Sum {
	merged := slices.DeleteFunc(slices.Clone(file), func(s Sum) bool { return of(s.Step, arch) })
	return append(merged, made...)
}

// of says whether a step is one of an architecture's; those of none in
// particular are everybody's.
func of(step, arch string) bool {
	return strings.HasSuffix(step, " "+arch) || !strings.HasSuffix(step, " amd64") && !strings.HasSuffix(step, " arm64")
}
