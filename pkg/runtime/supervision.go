package runtime

import (
	"time"

	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

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
	// Kept is the data disk from before the last update; nil where none was kept.
	Kept *Kept `json:"kept,omitempty"`
	// Release is what is known of the key that signs the machine's bundles; nil
	// where they need not be signed.
	Release *signature.Trust `json:"release,omitempty"`
}

// SlotName is "a" or "b"; "" where a machine runs from a bundle's own
// directory.
type SlotName string

// Slot is a bundle that was installed.
type Slot struct {
	Digest    string    `json:"digest"`
	Source    string    `json:"source"` // the directory it was copied from
	Installed time.Time `json:"installed"`
	// Version and Index are those of the bundle's signature; empty where it has
	// none.
	Version string `json:"version,omitempty"`
	Index   int64  `json:"index,omitempty"`
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
	// Data is what is done with the data disk before the first start, and undone
	// where the trial fails; "" is nothing.
	Data TrialData `json:"data,omitempty"`
	// Former is the disk whose place a kept copy has taken, by its name in the
	// machine's directory.
	Former string `json:"former,omitempty"`
}

// TrialData is what a trial does with the data disk.
type TrialData string

// What a trial does with the data disk: to keep a copy of it first, or to put
// the copy that is kept in its place; and each when that is done.
const (
	DataKeep TrialData = "keep"
	DataKept TrialData = "kept"
	DataBack TrialData = "back"
	DataGone TrialData = "gone"
)

// Kept is a copy of the data disk from before an update.
type Kept struct {
	Time   time.Time `json:"time"`   // when it was made, by the host's clock
	Bundle string    `json:"bundle"` // the digest of the bundle that it was used by
	Size   int64     `json:"size"`   // of what is not holes, bytes
	// FileSystem is its UUID, and Continuity its place in its history.
	FileSystem string      `json:"file_system,omitempty"`
	Continuity *Continuity `json:"continuity,omitempty"`
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
	// Disk is where the data disk is whose place another has taken with it; ""
	// where none has.
	Disk string `json:"disk,omitempty"`
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
