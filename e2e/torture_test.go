package e2e

import (
	"bytes"
	"testing"

	"github.com/sovereign-build/sovereign/internal/torture"
)

// TestTorture is make torture, small: each kind of power cut once or twice,
// kills, garbage, a day of an unsteady network.
func TestTorture(t *testing.T) {
	rep, err := torture.Run(t.Context(), torture.Options{
		Bundle: needBundle(t),
		Rounds: 4,
		Seed:   1,
		Accel:  "auto",
		Only:   []string{"cuts", "kills", "network", "garbage"},
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
