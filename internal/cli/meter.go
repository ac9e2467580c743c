package cli

import (
	"fmt"
	"time"
)

// meterEvery is how often a long transfer says how far it is.
const meterEvery = 5 * time.Second

// meter returns a function that notes how far a transfer is, a line now and
// then; calls come one at a time.
func (s *session) meter(what string) func(done, total int64) {
	p := s.printer()
	said := time.Now()
	return func(done, total int64) {
		if now := time.Now(); now.Sub(said) >= meterEvery {
			said = now
			p.note(fmt.Sprintf("sovereign-build: %s %s of %s", what, mebibytes(done), mebibytes(total)))
		}
	}
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
