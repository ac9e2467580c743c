package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Note is the kind of text that a report is, for signatures (see
// signature.SignNote).
const Note = "sovereign-audit-v1"

// MaxReport bounds a report's JSON, in bytes; a real one has 30 KiB.
const MaxReport = 4 << 20

// Marshal writes a report for keeps: JSON in one form, which Parse reads.
func (r *Report) Marshal() ([]byte, error) {
	text, err := json.MarshalIndent(r, "", "  ")
	return append(text, '\n'), err
}

var bundleDigest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// Parse reads what Marshal wrote, and holds a report to itself: its counts are
// those of its rows, and its rows the items. Errors are of class
// fault.Verification.
func Parse(text []byte) (*Report, error) {
	var r Report
	err := fmt.Errorf("it has %d bytes, more than %d", len(text), MaxReport)
	if len(text) <= MaxReport {
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		if err = d.Decode(&r); err == nil {
			if _, more := d.Token(); !errors.Is(more, io.EOF) {
				err = errors.New("something stands behind it")
			}
		}
	}
	if err == nil {
		err = r.check()
	}
	if err != nil {
		return nil, fault.Errorf(fault.Verification, "the report of an audit: %w", err)
	}
	return &r, nil
}

func (r *Report) check() error {
	switch {
	case r.Schema != Schema:
		return fmt.Errorf("schema %d is not %d", r.Schema, Schema)
	case r.Kind != KindBundle && r.Kind != KindMachine:
		return fmt.Errorf("it is of a %q", r.Kind)
	case !bundleDigest.MatchString(r.Bundle) && (r.Bundle != "" || r.Kind == KindBundle):
		return fmt.Errorf("bundle %q is not sha256: and 64 hex digits", r.Bundle)
	case len(r.Rows) != len(items):
		return fmt.Errorf("%d rows are not those of the %d items", len(r.Rows), len(items))
	}
	if _, err := time.Parse(time.RFC3339, r.Time); r.Time != "" && err != nil {
		return fmt.Errorf("time: %w", err)
	}
	counts := map[Verdict]int{}
	for i, row := range r.Rows {
		if row.Number != i+1 || row.Item != items[i].title {
			return fmt.Errorf("row %d is of item %d, %q", i+1, row.Number, row.Item)
		}
		if !slices.Contains([]Verdict{Proven, Failed, NotProven, NotApplicable}, row.Verdict) {
			return fmt.Errorf("row %d is %q", i+1, row.Verdict)
		}
		counts[row.Verdict]++
	}
	if want := (Counts{counts[Proven], counts[Failed], counts[NotProven], counts[NotApplicable]}); r.Counts != want {
		return fmt.Errorf("it counts %+v, and its rows are %+v", r.Counts, want)
	}
	return nil
}
