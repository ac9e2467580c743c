package cli

import (
	"fmt"
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime"
)

// progress reports events as lines with the time since now and the phase.
func progress(report func(string)) runtime.Report {
	begin := time.Now()
	return func(e runtime.Event) {
		report(fmt.Sprintf("%5.1f s  %-8s %s", time.Since(begin).Seconds(), e.Phase, e.Text))
	}
}

// told notes the text of events.
func (s *session) told() runtime.Report {
	p := s.printer()
	return func(e runtime.Event) { p.note(e.Text) }
}
