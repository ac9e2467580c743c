package runtime

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/sovereign-build/sovereign/internal/requests"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/continuity"
)

// Continuity is a moment in the history of a data disk: which disk it is, how
// often its history was written on, and which of all histories it is.
type Continuity struct {
	Lineage string `json:"lineage"` // 32 hex digits, made with the disk
	Epoch   uint64 `json:"epoch"`
	Hash    string `json:"hash"` // 64 hex digits: of this record, and so of all before
}

// Witnessed is what is remembered of a disk's history.
type Witnessed struct {
	Continuity
	Time time.Time `json:"time"` // by the clock of who remembers it, for people
	// By is who remembers it, a witness's URL say; "" is the machine's host.
	By string `json:"by,omitempty"`
}

// Stale is an error of class fault.Stale where the machine's services are held,
// as its data disk is not the one that it had last; it says what would be lost.
// Else it is nil.
func (s *Status) Stale() error {
	if s.Guest == nil || s.Guest.Continuity == nil || !s.Guest.Continuity.Held {
		return nil
	}
	return fault.Errorf(fault.Stale, "the services of %s are held: %s", s.Name, lacks(*s.Guest.Continuity, s.Continuity)).
		Hintf("put the newest disk back; only to go on with this one: sovereign-build accept-rollback %s --reason TEXT", s.Name)
}

// lacks says in words what a disk lacks.
func lacks(c agent.Continuity, w *Witnessed) string {
	had := "nobody remembers what it was"
	if w != nil {
		had = fmt.Sprintf("the one that it had last was at epoch %d of %s", w.Epoch, w.Time.UTC().Format(time.RFC3339))
		if w.By != "" {
			had += ", as " + w.By + " remembers"
		}
	}
	has := fmt.Sprintf("it is at epoch %d of %s", c.Epoch, c.At.UTC().Format(time.RFC3339))
	switch continuity.Verdict(c.Verdict) {
	case continuity.Behind:
		text := "its data disk is an older copy: " + has + ", and " + had
		if w != nil && w.Epoch > c.Epoch {
			between := fmt.Sprintf("in the %d epochs between", w.Epoch-c.Epoch)
			if w.Epoch-c.Epoch >= continuity.Leap {
				between = "since, behind a rollback that was accepted,"
			}
			text += ": what was written " + between + " is not on it"
			if d := w.Time.Sub(c.At).Round(time.Minute); d > 0 {
				text += fmt.Sprintf(" (about %v)", d)
			}
		}
		return text
	case continuity.Forked:
		return "its data disk went another way: " + has + ", and " + had + ", which is not among its own: what was written to that one since the two parted is not on it"
	case continuity.Foreign:
		return "its data disk is another machine's: " + has + ", and " + had + ": nothing of that is on it"
	case continuity.Blank:
		return "its data disk is a new one, or a copy of very long ago, and " + had + ": nothing of that is on it"
	}
	return "the record of continuity on its data disk cannot be read, and " + had
}

// AcceptRollback is the owner's word that a machine whose services are held goes
// on with the data disk that it has, in a history of its own; the reason, at
// most 450 bytes, is kept on the disk. The machine is started anew: WaitReady
// waits for it. One that is not held is an error of class fault.Usage.
func (m *Machine) AcceptRollback(ctx context.Context, reason string) (Continuity, error) {
	var c Continuity
	if reason == "" || len(reason) > 450 {
		return c, fault.Errorf(fault.Usage, "a reason of %d bytes: want 1 to 450", len(reason))
	}
	err := m.h.call(ctx, http.MethodPost, machinePath(m.name, "accept-rollback"), requests.Reason{Reason: reason}, &c)
	return c, err
}
