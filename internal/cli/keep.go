package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime"
)

// writeSupervision writes what is wanted of a machine, and what became of that.
func writeSupervision(w io.Writer, m MachineStatus) {
	v := m.Supervision
	if v == nil {
		return
	}
	wanted := string(v.Wanted)
	limit := "without a limit"
	if v.Policy.Limit > 0 {
		limit = fmt.Sprintf("at most %d in a row", v.Policy.Limit)
	}
	if v.Policy.Restart == runtime.RestartAlways {
		fmt.Fprintf(w, "  wanted\t%s\trestarts %s, %s\n", wanted, v.Policy.Restart, limit)
	} else {
		fmt.Fprintf(w, "  wanted\t%s\trestarts %s\n", wanted, v.Policy.Restart)
	}
	if e := v.Ends; e.Last != nil {
		fmt.Fprintf(w, "  ended\t%d times, %d in a row\tlast %s: %s\n", e.Total, e.InARow, e.Last.Time.Format(time.RFC3339), oneLine(e.Last.Why))
	}
	if t := v.Waiting; t != nil {
		fmt.Fprintf(w, "  waiting\t%d tries\tsince %s: %s\n", t.Tries, t.Since.Format(time.RFC3339), oneLine(t.Why))
	}
	for _, name := range []runtime.SlotName{v.Active, v.Previous} {
		if slot, ok := v.Slots[name]; ok {
			role := "previous"
			if name == v.Active {
				role = "active"
			}
			fmt.Fprintf(w, "  slot %s\t%s, %.19s\t%s\n", name, role, slot.Digest, oneLine(slot.Source))
		}
	}
	if k := v.Kept; k != nil {
		fmt.Fprintf(w, "  kept data\t%s\tof %s, for rollback --with-data\n", mebibytes(k.Size), k.Time.Format(time.RFC3339))
	}
	if r := v.Release; r != nil {
		fmt.Fprintf(w, "  signed\tversion %s, index %d\tby %s\n", oneLine(r.Version), r.Index, oneLine(string(r.Key)))
		if n := len(r.Rollbacks); n > 0 {
			last := r.Rollbacks[n-1]
			fmt.Fprintf(w, "  rolled back\t%s\tfrom index %d to %d, as was allowed\n", last.Time.Format(time.RFC3339), last.From, last.To)
		}
	}
	if t := v.Trial; t != nil {
		state := "to be tried"
		switch {
		case t.Why != "":
			state = "failed, the former bundle comes back: " + oneLine(t.Why)
		case t.Attempt > 0:
			state = fmt.Sprintf("being tried, %s to become healthy", time.Duration(t.Limit))
		}
		fmt.Fprintf(w, "  %s\tslot %s\t%s\n", t.Kind, t.Slot, state)
	}
	if o := v.LastUpdate; o != nil {
		state := "committed"
		if !o.Committed {
			state = "reverted: " + oneLine(o.Why)
		}
		fmt.Fprintf(w, "  last %s\t%s\t%s\n", o.Kind, o.Time.Format(time.RFC3339), state)
	}
}
