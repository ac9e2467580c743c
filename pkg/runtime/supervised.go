package runtime

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Wanted is what the owner wants of an instance.
type Wanted string

// What can be wanted.
const (
	// Unsupervised: it was started by Start (run), and nobody starts it again.
	Unsupervised Wanted = ""
	Up           Wanted = "up"
	Down         Wanted = "down"
)

// Restart says when a machine that ended by itself is started again.
type Restart string

// Restart policies.
const (
	RestartAlways Restart = "always"
	RestartNever  Restart = "never"
)

// Policy is what a supervisor does about ends that nobody asked for.
type Policy struct {
	Restart Restart `json:"restart"`
	// Limit is the number of such ends in a row, each before the guest had
	// been ready for a minute, after which the supervisor gives up. 0: never.
	Limit int `json:"limit"`
}

// DefaultPolicy is that of an instance whose owner asked for no other. Ten
// ends in a row are about four minutes of pauses and ten boots.
func DefaultPolicy() Policy { return Policy{Restart: RestartAlways, Limit: 10} }

// allows says whether a machine may be started after so many ends in a row.
func (p Policy) allows(inARow int) bool {
	if p.Restart == RestartNever {
		return inARow == 0
	}
	return p.Limit == 0 || inARow < p.Limit
}

// Options are what every start of a supervised machine uses.
type Options struct {
	MemoryMiB int         `json:"memory_mib,omitempty"` // 0: the manifest's
	CPUs      int         `json:"cpus,omitempty"`       // 0: the manifest's
	Ports     map[int]int `json:"ports,omitempty"`      // guest to host, those asked for
	Accel     string      `json:"accel,omitempty"`
	Outbound  bool        `json:"outbound,omitempty"`
}

// SlotName is "a" or "b"; "" where a machine runs from a bundle's own
// directory.
type SlotName string

// other is the slot that s is not.
func (s SlotName) other() SlotName {
	if s == "a" {
		return "b"
	}
	return "a"
}

// Slot is a bundle that was installed.
type Slot struct {
	Digest    string    `json:"digest"`
	Source    string    `json:"source"` // the directory it was copied from
	Installed time.Time `json:"installed"`
}

// Trial is an update or a rollback that is under way.
type Trial struct {
	Kind string   `json:"kind"` // "update" or "rollback"
	Slot SlotName `json:"slot"`
	// Limit is the time the services have to become healthy, from the
	// machine's start, and Steady how long they must then stay so.
	Limit  Duration `json:"limit_s"`
	Steady Duration `json:"steady_s,omitempty"`
	// Optional are the optional services that were healthy before, and are to
	// be healthy again.
	Optional []string `json:"optional,omitempty"`
	// Began is when the last attempt did, in the device's time awake.
	Began Duration `json:"began_s,omitempty"`
	// Attempt counts the starts from the slot. A second one comes after a
	// power cut of the host or a stop by the owner.
	Attempt int `json:"attempt"`
	// Why is set when the trial has failed and the old slot is on its way
	// back.
	Why string `json:"why,omitempty"`
}

// Outcome is how the last update or rollback ended.
type Outcome struct {
	Kind string    `json:"kind"`
	From string    `json:"from"` // digests of the bundles
	To   string    `json:"to"`
	Time time.Time `json:"time"`
	// Committed is false when the old slot was put back; Why says for what.
	Committed bool   `json:"committed"`
	Why       string `json:"why,omitempty"`
}

// Ends are the ends of a machine that nobody asked for.
type Ends struct {
	Total int `json:"total"`
	// InARow is without those before which the guest had been ready for a
	// minute.
	InARow int  `json:"in_a_row"`
	Last   *End `json:"last,omitempty"`
}

// End is one of them.
type End struct {
	Time time.Time `json:"time"`
	At   Moment    `json:"at,omitzero"`
	Why  string    `json:"why"`
	// Class and Hint are those of an error that kept the machine from
	// starting at all; 0 where it ran.
	Class fault.Class `json:"class,omitempty"`
	Hint  string      `json:"hint,omitempty"`
}

// Moment is a time on a device whose clock may be set at any time, by any
// amount: it serves to measure what has passed, within one boot.
type Moment struct {
	Boot string `json:"boot"` // the device's boot_id
	// Awake is the time since then in which the device did not sleep.
	Awake Duration `json:"awake_s"`
}

// Waiting is why a machine that is wanted up cannot be started, when that lies
// with its host: no room, a port in use, a data disk that is not there. It is
// tried again for ever, with pauses of up to a minute.
type Waiting struct {
	Since time.Time `json:"since"` // of the first try
	Tries int       `json:"tries"`
	Last  Moment    `json:"last"` // of the last one
	Why   string    `json:"why"`
	Hint  string    `json:"hint,omitempty"`
}

// pause is how long to wait for the next try.
func (v *Waiting) pause() time.Duration { return pauseAfter(v.Tries + 1) }

// paused is the sum of the pauses until now, the one that goes on too: what
// has passed at least, by no clock.
func (v *Waiting) paused() time.Duration {
	var sum time.Duration
	for n := range min(v.Tries, 1<<12) { // more than two days
		sum += pauseAfter(n + 2)
	}
	return sum
}

// again is v after another try, the first when v is nil.
func (v *Waiting) again(now time.Time, at Moment, err error) *Waiting {
	next := Waiting{Since: now, Tries: 1, Last: at, Why: err.Error(), Hint: fault.HintOf(err)}
	if v != nil {
		next.Since, next.Tries = v.Since, v.Tries+1
	}
	return &next
}

// Duration is a time.Duration that is whole milliseconds and a number of
// seconds in JSON.
type Duration time.Duration

// MarshalJSON writes seconds.
func (d Duration) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, time.Duration(d).Seconds(), 'f', -1, 64), nil
}

// maxSeconds is the longest Duration that is read: a century, which the time
// since a boot stays below.
const maxSeconds = 100 * 366 * 86400

// UnmarshalJSON reads seconds, from 0 to a century.
func (d *Duration) UnmarshalJSON(b []byte) error {
	s, err := strconv.ParseFloat(string(b), 64)
	if err != nil || !(s >= 0 && s <= maxSeconds) {
		return fmt.Errorf("%.40s is not a number of seconds from 0 to %d", b, maxSeconds)
	}
	*d = Duration(time.Duration(s*1000) * time.Millisecond)
	return nil
}

// Supervision is the part of a status that is about an instance's supervisor.
type Supervision struct {
	Wanted Wanted `json:"wanted"`
	Policy Policy `json:"policy"`
	// Supervisor says whether a sovereignd runs for the state directory.
	Supervisor bool              `json:"sovereignd"`
	Active     SlotName          `json:"active"`
	Previous   SlotName          `json:"previous,omitempty"`
	Slots      map[SlotName]Slot `json:"slots"`
	Ends       Ends              `json:"ends"`
	// Waiting is nil but for a machine that its host keeps from starting.
	Waiting *Waiting `json:"waiting,omitempty"`
	// GaveUp says that the policy allows no further start.
	GaveUp     bool     `json:"gave_up"`
	Trial      *Trial   `json:"trial,omitempty"`
	LastUpdate *Outcome `json:"last_update,omitempty"`
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
	Ends    Ends     `json:"ends,omitzero"`
	Waiting *Waiting `json:"waiting,omitempty"`
}

// fresh forgets what went wrong before: somebody asked for a start.
func (in *installed) fresh() { in.Ends.InARow, in.Waiting = 0, nil }

// gaveUp says whether nothing is going to start the machine that does not run.
func (in *installed) gaveUp() bool {
	return in.Wanted == Up && in.Trial == nil && !in.Policy.allows(in.Ends.InARow)
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
	switch {
	case in.Wanted != Unsupervised && in.Wanted != Up && in.Wanted != Down:
		return fmt.Errorf("wanted: %q is neither up nor down", in.Wanted)
	case in.Wanted != Unsupervised && in.Active == "":
		return fmt.Errorf("wanted %s without an active slot", in.Wanted)
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

// SupervisorSocket is the file in the state directory at which its supervisor
// listens. A connection, without a word, makes it look at every instance.
const SupervisorSocket = "sovereignd.sock"
