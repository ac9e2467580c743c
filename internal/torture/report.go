package torture

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is what came out. Its JSON is what --json prints.
type Report struct {
	Schema     int       `json:"schema"`
	Seed       uint64    `json:"seed"`
	Rounds     int       `json:"rounds"`
	Commit     string    `json:"commit,omitempty"` // of this program's sources
	Bundle     string    `json:"bundle"`           // its digest
	Host       string    `json:"host"`
	Hypervisor string    `json:"hypervisor"`
	Accel      string    `json:"accel"`
	Started    time.Time `json:"started"`
	Seconds    float64   `json:"seconds"`
	Results    []Result  `json:"results"`
	// Ran are the families that came to their end, in order.
	Ran []Ran `json:"ran"`
}

// Ran is one family of faults, whatever the guests did.
type Ran struct {
	Family  string    `json:"family"`
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
}

// Result is one row: one kind of fault.
type Result struct {
	Family string `json:"family"`
	Fault  string `json:"fault"`
	Times  int    `json:"times"`
	// Problems are what should not have been: a lost commit, a boot that
	// failed. Empty is well.
	Problems []string `json:"problems,omitempty"`
	// Heal is the time from the fault's end to health.
	Heal *Heal `json:"heal,omitempty"`
	// Figures are what else was counted, in order.
	Figures []Figure `json:"figures,omitempty"`
	// Skipped says why the fault could not be tried.
	Skipped string `json:"skipped,omitempty"`
}

// Figure is a number with its unit, or a word.
type Figure struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Heal sums up times to health, in seconds.
type Heal struct {
	Median float64 `json:"median_s"`
	Worst  float64 `json:"worst_s"`
}

// heal sums durations up; nil for none.
func heal(all []time.Duration) *Heal {
	if len(all) == 0 {
		return nil
	}
	sorted := slices.Sorted(slices.Values(all))
	return &Heal{Median: sorted[len(sorted)/2].Seconds(), Worst: sorted[len(sorted)-1].Seconds()}
}

func figure(name, format string, args ...any) Figure {
	return Figure{name, fmt.Sprintf(format, args...)}
}

// Failed counts the problems of all rows.
func (r *Report) Failed() int {
	n := 0
	for _, res := range r.Results {
		n += len(res.Problems)
	}
	return n
}

// WriteJSON prints the report as one JSON value.
func (r *Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// WriteText prints the report for people.
func (r *Report) WriteText(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "FAULT\tTIMES\tPROBLEMS\tMEDIAN\tWORST\tFIGURES")
	for _, res := range r.Results {
		fmt.Fprintln(tw, strings.Join(res.cells(), "\t"))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	var b strings.Builder
	for _, res := range r.Results {
		for _, p := range res.Problems {
			fmt.Fprintf(&b, "\n%s: %s\n", res.Fault, p)
		}
	}
	_, err := fmt.Fprintf(w, "%s\n%s\n", b.String(), r.where(r.Started, r.Seconds))
	return err
}

// Markdown is what one family gave, as a table of docs/reliability.md.
func (r *Report) Markdown(ran Ran) string {
	var b strings.Builder
	b.WriteString("| fault | times | problems | median | worst | figures |\n|---|---|---|---|---|---|\n")
	for _, res := range r.Results {
		if res.Family == ran.Family {
			fmt.Fprintf(&b, "| %s |\n", strings.ReplaceAll(strings.Join(res.cells(), " | "), "\n", " "))
		}
	}
	fmt.Fprintf(&b, "\n%s\n", r.where(ran.Started, ran.Seconds))
	return b.String()
}

func (res Result) cells() []string {
	if res.Skipped != "" {
		return []string{res.Fault, "0", "", "", "", "not tried: " + res.Skipped}
	}
	median, worst := "", ""
	if res.Heal != nil {
		median, worst = fmt.Sprintf("%.2f s", res.Heal.Median), fmt.Sprintf("%.2f s", res.Heal.Worst)
	}
	var figures []string
	for _, f := range res.Figures {
		figures = append(figures, f.Name+" "+f.Value)
	}
	return []string{res.Fault, strconv.Itoa(res.Times), strconv.Itoa(len(res.Problems)), median, worst, strings.Join(figures, ", ")}
}

// where says on what the figures were read.
func (r *Report) where(started time.Time, seconds float64) string {
	return fmt.Sprintf("Seed %d, %d rounds, in %s on %s: commit %s, bundle %.19s, %s (%s), %s.",
		r.Seed, r.Rounds, time.Duration(seconds*float64(time.Second)).Round(time.Second),
		started.Format("2006-01-02"), r.Commit, r.Bundle, r.Hypervisor, r.Accel, r.Host)
}
