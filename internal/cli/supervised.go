package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	runtime "github.com/sovereign-build/sovereign/internal/machine"
)

// Supervised is the part of Runtime that works by way of sovereignd.
type Supervised interface {
	// Up installs a bundle, or takes an instance as it is, and returns when
	// its services are healthy.
	Up(ctx context.Context, r UpRequest, report func(string)) (*Machine, error)
	// Restart stops a machine in order and returns when its services are
	// healthy again.
	Restart(ctx context.Context, name string, grace, timeout time.Duration, report func(string)) (*RestartResult, error)
	// Update tries another bundle and returns when that is committed, or the
	// former one is back.
	Update(ctx context.Context, name, bundle string, limit time.Duration, report func(string)) (*UpdateResult, error)
	// Rollback tries the bundle before the last update, in the same way, or
	// gives up what is staged.
	Rollback(ctx context.Context, name string, limit time.Duration, report func(string)) (*UpdateResult, error)
}

// UpRequest is what the flags of up say.
type UpRequest struct {
	// Target is a bundle's directory, or a name: that of an instance or else
	// of a bundle in dist.
	Target    string
	Ports     map[int]int
	MemoryMiB int    // 0: as it was
	CPUs      int    // 0: as it was
	Accel     string // "": as it was
	Outbound  *bool  // nil: as it was
	Restart   string // "": as it was
	Limit     *int   // nil: as it was
	NewData   bool   // whatever is there is its data disk, or a blank one
	Timeout   time.Duration
}

// RestartResult is what restart --json prints.
type RestartResult struct {
	StopResult
	Ports map[string]int `json:"ports"`
	// ReadySeconds is the time from the command's start until the services
	// were healthy again.
	ReadySeconds float64 `json:"ready_seconds"`
}

// Ways in which an update ends.
const (
	updateCommitted = "committed" // the new bundle runs
	updateReverted  = "reverted"  // the former one is back
	updateStaged    = "staged"    // the machine is down; it is tried at the next up
	updateUnchanged = "unchanged" // that very bundle ran already
	updateCancelled = "cancelled" // one that was staged is given up
)

// UpdateResult is what update and rollback --json print.
type UpdateResult struct {
	Name    string         `json:"name"`
	Kind    string         `json:"kind"` // "update" or "rollback"
	Result  string         `json:"result"`
	Why     string         `json:"why,omitempty"` // it was reverted
	From    string         `json:"from,omitempty"`
	To      string         `json:"to,omitempty"`
	Ports   map[string]int `json:"ports,omitempty"`
	Seconds float64        `json:"seconds"`
}

// Supervision is what status --json prints of a supervised machine.
type Supervision = runtime.Supervision

// writeSupervision writes what status says of one.
func writeSupervision(w io.Writer, m MachineStatus) {
	s := m.Supervision
	if s == nil {
		return
	}
	by := ""
	if s.Wanted == runtime.Up && !s.Supervisor {
		by = ", but no sovereignd runs: sovereign-build up " + m.Name
	}
	wanted := string(s.Wanted)
	if s.Wanted == runtime.Unsupervised {
		wanted = "not supervised"
	}
	limit := "without a limit"
	if s.Policy.Limit > 0 {
		limit = fmt.Sprintf("at most %d in a row", s.Policy.Limit)
	}
	if s.Policy.Restart == runtime.RestartAlways {
		fmt.Fprintf(w, "  wanted\t%s%s\trestarts %s, %s\n", wanted, by, s.Policy.Restart, limit)
	} else {
		fmt.Fprintf(w, "  wanted\t%s%s\trestarts %s\n", wanted, by, s.Policy.Restart)
	}
	if e := s.Ends; e.Last != nil {
		fmt.Fprintf(w, "  ended\t%d times, %d in a row\tlast %s: %s\n", e.Total, e.InARow, e.Last.Time.Format(time.RFC3339), oneLine(e.Last.Why))
	}
	if v := s.Waiting; v != nil {
		fmt.Fprintf(w, "  waiting\t%d tries\tsince %s: %s\n", v.Tries, v.Since.Format(time.RFC3339), oneLine(v.Why))
	}
	for _, name := range []runtime.SlotName{s.Active, s.Previous} {
		if slot, ok := s.Slots[name]; ok {
			role := "previous"
			if name == s.Active {
				role = "active"
			}
			fmt.Fprintf(w, "  slot %s\t%s, %.19s\t%s\n", name, role, slot.Digest, oneLine(slot.Source))
		}
	}
	if t := s.Trial; t != nil {
		state := "to be tried"
		switch {
		case t.Why != "":
			state = "failed, the former bundle comes back: " + oneLine(t.Why)
		case t.Attempt > 0:
			state = fmt.Sprintf("being tried, %s to become healthy", time.Duration(t.Limit))
		}
		fmt.Fprintf(w, "  %s\tslot %s\t%s\n", t.Kind, t.Slot, state)
	}
	if o := s.LastUpdate; o != nil {
		state := "committed"
		if !o.Committed {
			state = "reverted: " + oneLine(o.Why)
		}
		fmt.Fprintf(w, "  last %s\t%s\t%s\n", o.Kind, o.Time.Format(time.RFC3339), state)
	}
}
