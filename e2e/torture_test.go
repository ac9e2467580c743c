package e2e

import (
	"bytes"
	"testing"

	"github.com/sovereign-build/sovereign/internal/torture"
)

// TestTorture is make torture, small: a cut into a first boot, a cut under load
// that loses what was not flushed with another into the recovery, each kind of
// kill once, garbage.
func TestTorture(t *testing.T) {
	rep, err := torture.Run(t.Context(), torture.Options{
		Bundle: needBundle(t),
		Rounds: 2,
		Seed:   1,
		Accel:  "auto",
		Only:   []string{"cuts", "kills", "garbage"},
		Report: func(line string) { t.Log(line) },
	})
	if rep != nil {
		var text bytes.Buffer
		if err := rep.WriteText(&text); err != nil {
			t.Error(err)
		}
		t.Log("\n" + text.String())
	}
	if err != nil {
		t.Fatal(err)
	}
	if n := rep.Failed(); n > 0 {
		t.Errorf("%d things that should not have been", n)
	}
}
