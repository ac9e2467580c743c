package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/sovereign-build/sovereign/internal/hints"
	"github.com/sovereign-build/sovereign/internal/printable"
	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// printer is how a command speaks: as text for people or as JSON for programs.
// Results go to standard output, everything else to standard error.
//
// What others have said, a guest above all, stands in all of it. So that no
// terminal obeys it, text loses its control characters here, and JSON has them
// escaped. That a text function puts each word of others on one line of its own
// is that function's care: see oneLine.
type printer interface {
	// result prints what the command was called for: v as one JSON object, or
	// what text writes.
	result(v any, text func(w io.Writer) error) error
	// note prints a line about what is going on.
	note(line string)
	// fail prints the error the command ends with, and for programs its exit
	// code.
	fail(class fault.Class, code int, err error)
}

func (s *session) printer() printer {
	if s.json {
		return jsonPrinter{s.Stdout, s.Stderr}
	}
	return textPrinter{s.Stdout, s.Stderr}
}

type textPrinter struct{ out, err io.Writer }

func (p textPrinter) result(_ any, text func(w io.Writer) error) error {
	return clean(p.out, text)
}

// clean has text write to a writer, without control characters.
func clean(to io.Writer, text func(w io.Writer) error) error {
	w := printable.NewWriter(to)
	if err := text(w); err != nil {
		return err
	}
	return w.Flush()
}

func (p textPrinter) note(line string) { writeNote(p.err, line) }

// writeNote writes a note. A guest's words in it do not get to the begin of a
// line.
func writeNote(w io.Writer, line string) { fmt.Fprintln(w, printable.Lines(line)) }

func (p textPrinter) fail(_ fault.Class, _ int, err error) {
	writeNote(p.err, "sovereign-build: "+err.Error())
	var step *engine.StepError
	if errors.As(err, &step) {
		for _, line := range step.Tail {
			fmt.Fprintf(p.err, "  | %s\n", printable.Line(line))
		}
	}
	if hint := hints.Of(err); hint != "" {
		fmt.Fprintf(p.err, "hint: %s\n", printable.Line(hint))
	}
}

// oneLine makes a word or a reason of others fit for a table.
func oneLine(s string) string { return strings.Join(strings.Fields(printable.Line(s)), " ") }

type jsonPrinter struct{ out, err io.Writer }

// result prints one line, so that "the last line" is the whole object.
func (p jsonPrinter) result(v any, _ func(w io.Writer) error) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	_, err := p.out.Write(printable.JSON(b.Bytes()))
	return err
}

func (p jsonPrinter) note(line string) { writeNote(p.err, line) }

// failure is what a failed command prints under --json.
type failure struct {
	Error string `json:"error"`
	Class string `json:"class"`
	Code  int    `json:"code"`
	Hint  string `json:"hint"`
	// Log and Tail are a failed step's: the file with all it printed, and the
	// last lines of it.
	Log  string   `json:"log,omitempty"`
	Tail []string `json:"tail,omitempty"`
	// Findings is a list of objects where more than one thing may be wrong;
	// Error is then the first line of what people get.
	Findings any `json:"findings,omitempty"`
}

// newFailure is what programs are told of an error.
func newFailure(class fault.Class, code int, err error) failure {
	f := failure{Error: err.Error(), Class: className(class), Code: code, Hint: hints.Of(err)}
	var step *engine.StepError
	if errors.As(err, &step) {
		f.Log, f.Tail = step.Log, step.Tail
	}
	var list interface{ Findings() any }
	if errors.As(err, &list) {
		first, _, _ := strings.Cut(f.Error, "\n")
		f.Error, f.Findings = strings.TrimSuffix(first, ":"), list.Findings()
	}
	return f
}

func (p jsonPrinter) fail(class fault.Class, code int, err error) {
	if err := p.result(newFailure(class, code, err), nil); err != nil {
		writeNote(p.err, "sovereign-build: "+err.Error())
	}
}

// className is the class's name in JSON; scripts may rely on it.
func className(c fault.Class) string {
	switch c {
	case fault.Usage:
		return "usage"
	case fault.Environment:
		return "environment"
	case fault.Source:
		return "source"
	case fault.Step:
		return "step"
	case fault.Verification:
		return "verification"
	case fault.Differ:
		return "differ"
	case fault.Device:
		return "device"
	case fault.Stale:
		return "stale"
	case fault.Cancelled:
		return "cancelled"
	default:
		return "internal"
	}
}
