package machine

import (
	"errors"
	"fmt"
	"time"

	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// allows says whether a machine may be started after so many ends in a row.
func allows(p Policy, inARow int) bool {
	if p.Restart == RestartNever {
		return inARow == 0
	}
	return p.Limit == 0 || inARow < p.Limit
}

// otherSlot is the slot that s is not.
func otherSlot(s SlotName) SlotName {
	if s == "a" {
		return "b"
	}
	return "a"
}

// nextPause is how long to wait for the next try.
func nextPause(v *Waiting) time.Duration { return pauseAfter(v.Tries + 1) }

// pausedFor is the sum of the pauses until now, the one that goes on too: what
// has passed at least, by no clock.
func pausedFor(v *Waiting) time.Duration {
	var sum time.Duration
	for n := range min(v.Tries, 1<<12) { // more than two days
		sum += pauseAfter(n + 2)
	}
	return sum
}

// waitAgain is v after another try, the first when v is nil.
func waitAgain(v *Waiting, now time.Time, at Moment, err error) *Waiting {
	next := Waiting{Since: now, Tries: 1, Last: at, Why: err.Error(), Hint: fault.HintOf(err)}
	if v != nil {
		next.Since, next.Tries = v.Since, v.Tries+1
	}
	return &next
}

// homeless takes down what has no slot to start from: a machine that an older
// version started from a bundle's directory, when it has ended. Up copies that
// into a slot.
func (in *installed) homeless() {
	if in.Active == "" {
		in.Wanted = Down
	}
}

// installed is the part of the record that Up, Update and Rollback write.
type installed struct {
	Wanted  Wanted  `json:"wanted,omitempty"`
	Policy  Policy  `json:"policy,omitzero"`
	Options Options `json:"options,omitzero"`
	// Slots are whole copies of bundles. A slot that is neither the active
	// nor the previous nor the trial's is not here, and its directory may hold
	// anything.
	Slots    map[SlotName]Slot `json:"slots,omitempty"`
	Active   SlotName          `json:"active,omitempty"`
	Previous SlotName          `json:"previous,omitempty"`
	// Slot is where the machine was last started from.
	Slot    SlotName `json:"slot,omitempty"`
	Trial   *Trial   `json:"trial,omitempty"`
	Outcome *Outcome `json:"last_update,omitempty"`
	// Release is what has to sign the bundles from here on; nil for nobody.
	Release *signature.Trust `json:"release,omitempty"`
	Ends    Ends             `json:"ends,omitzero"`
	Waiting *Waiting         `json:"waiting,omitempty"`
}

// fresh forgets what went wrong before: somebody asked for a start.
func (in *installed) fresh() { in.Ends.InARow, in.Waiting = 0, nil }

// gaveUp says whether nothing is going to start the machine that does not run.
func (in *installed) gaveUp() bool {
	return in.Wanted == Up && in.Trial == nil && !allows(in.Policy, in.Ends.InARow)
}

// check says what is wrong with the values, as far as the code relies on them.
func (in *installed) check() error {
	named := map[string]SlotName{"active": in.Active, "previous": in.Previous}
	if in.Trial != nil {
		named["trial.slot"] = in.Trial.Slot
		if in.Trial.Slot == in.Active || in.Trial.Slot == "" {
			return fmt.Errorf("trial.slot %q is the active one or none", in.Trial.Slot)
		}
	}
	for key, slot := range named {
		if _, ok := in.Slots[slot]; slot != "" && !ok {
			return fmt.Errorf("%s: there is no slot %q", key, slot)
		}
	}
	for name := range in.Slots {
		if name != "a" && name != "b" {
			return fmt.Errorf("slots: %q is neither a nor b", name)
		}
	}
	if in.Release != nil {
		if err := in.Release.Check(); err != nil {
			return fmt.Errorf("release: %w", err)
		}
	}
	switch {
	case in.Wanted != notAdopted && in.Wanted != Up && in.Wanted != Down:
		return fmt.Errorf("wanted: %q is neither up nor down", in.Wanted)
	case in.Previous != "" && in.Previous == in.Active:
		return fmt.Errorf("previous: %q is the active one", in.Previous)
	case in.Ends.InARow > 0 && in.Ends.Last == nil:
		return errors.New("ends: there were some, and the last is not there")
	case in.Waiting != nil && in.Waiting.Tries < 1:
		return fmt.Errorf("waiting.tries: %d is less than 1", in.Waiting.Tries)
	case in.Policy.Limit < 0 || in.Ends.InARow < 0 || in.Ends.Total < 0:
		return errors.New("a count is below 0")
	}
	return nil
}
