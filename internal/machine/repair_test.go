package machine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// A slot that was damaged is repaired by an update to the very same bundle.
func TestRepairOfTheActiveSlot(t *testing.T) {
	for _, file := range []string{"root.img", "bzImage", bundle.ManifestFile} {
		t.Run(file, func(t *testing.T) {
			f, i := silent(t, "quick")
			if changed, err := f.Update(t.Context(), "sql", f.bundle, 0, nil); changed || err != nil {
				t.Fatalf("undamaged: %v, %v", changed, err)
			}
			f.stopped(t)
			path := filepath.Join(i.slotDir("a"), file)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			text[len(text)-2] ^= 1
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := f.Up(t.Context(), "sql", UpOptions{}, nil); err != nil {
				t.Fatal(err)
			}
			step := f.step(t, Seen{})
			now, err := f.load("sql")
			if err != nil {
				t.Fatal(err)
			}
			last := now.rec.Ends.Last
			if !strings.Contains(step.Did, "the bundle in slot a is damaged") || last == nil || last.Class != fault.Verification ||
				!strings.HasSuffix(last.Hint, "sovereign-build update sql "+f.bundle) {
				t.Errorf("did %q, %+v", step.Did, last)
			}
			if changed, err := f.Update(t.Context(), "sql", f.bundle, 0, nil); !changed || err != nil {
				t.Fatalf("the same bundle: %v, %v", changed, err)
			}
			if err := settle(t.Context(), f.Runtime); err != nil {
				t.Fatal(err)
			}
			if now, err = f.load("sql"); err != nil {
				t.Fatal(err)
			}
			if in := now.rec.installed; in.Active != "b" || in.Previous != "" || len(in.Slots) != 1 || in.Outcome == nil || !in.Outcome.Committed {
				t.Errorf("record %+v", in)
			}
			if err := now.verifySlot(t.Context(), "b"); err != nil {
				t.Error(err)
			}
			if changed, err := f.Update(t.Context(), "sql", f.bundle, 0, nil); changed || err != nil {
				t.Errorf("repaired: %v, %v", changed, err)
			}
		})
	}
}
