// Package continuity finds out whether a data disk is the one that its machine
// had last: not an older copy of it, not another history that began at one, not
// another machine's and not a new, empty one.
//
// The disk has a Record: its lineage, made once, and an epoch that every new
// record raises, each with the hash of the one before. Somebody beside the disk
// remembers the last record that was heard of, as a Witness. A record is written
// to the disk first and told second, so that a power cut between the two leaves
// the disk ahead of its witness, with a chain that leads there, and nobody is
// alarmed.
//
// # The decision
//
// Decide is a function of the two and nothing else; the first line that fits is
// the one.
//
//	disk                             witness         verdict      services
//	a record that cannot be read     any             unreadable   held
//	no record                        none            first        start: a lineage begins
//	no record                        there is one    blank        held
//	a record                         none            unwitnessed  start
//	its last hash is the witness's   there is one    equal        start
//	an earlier hash is the witness's there is one    ahead        start
//	another lineage                  there is one    foreign      held
//	an epoch before the witness's    there is one    behind       held
//	else                             there is one    forked       held
//
// Out of what is held only the owner's word leads: Accept makes a record that
// has the witness's among those before it.
//
// What it does not do: who may write to the disk and to the witness can forge
// both. It finds accidents, copies that were put back, clones and storage that
// loses what it was told to keep.
package continuity

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"
)

const (
	// maxChain is how many records before the last one a disk remembers. A
	// witness that is further behind finds itself no more; one that hears of a
	// machine hears of every record.
	maxChain = 256
	// Leap is what an epoch rises by when a rollback was accepted, so that the
	// history that was given up can never be mistaken for the one that goes on.
	Leap = 1 << 20
	// maxReason bounds an owner's words, in bytes.
	maxReason = 500
)

// Point is a record, without what it says.
type Point struct {
	Epoch uint64 `json:"epoch"`
	Hash  string `json:"hash"` // 64 hex digits
}

// Record is what the disk has.
type Record struct {
	Lineage string `json:"lineage"` // 32 hex digits
	Point
	Previous string    `json:"previous,omitempty"` // hash of the record before; empty of the first
	Nonce    string    `json:"nonce"`              // 32 hex digits: two histories never have the same hash
	Reason   string    `json:"reason"`             // "boot", "written", "shutdown", or the owner's
	At       time.Time `json:"at"`                 // by the guest's clock, for people
	// Clone is the word by which the disk, a copy of another machine's, was given
	// a lineage of its own; empty of others.
	Clone string `json:"clone,omitempty"`
	// Before are the records before, the newest last, at most 256; with them the
	// witnesses' that an owner has given up.
	Before []Point `json:"before,omitempty"`
}

// Witness is what somebody beside the disk remembers of it.
type Witness struct {
	Lineage string
	Point
}

// Witness is what a record leaves with those who hear of it.
func (r *Record) Witness() Witness { return Witness{r.Lineage, r.Point} }

// String is LINEAGE:EPOCH:HASH, as the kernel's command line has it.
func (w Witness) String() string { return fmt.Sprintf("%s:%d:%s", w.Lineage, w.Epoch, w.Hash) }

// ParseWitness reads what String makes.
func ParseWitness(text string) (Witness, error) {
	f := strings.Split(text, ":")
	if len(f) != 3 || !isHex(f[0], 32) || !isHex(f[2], 64) {
		return Witness{}, fmt.Errorf("want LINEAGE:EPOCH:HASH, of 32 hex digits, a number and 64 hex digits")
	}
	epoch, err := strconv.ParseUint(f[1], 10, 63)
	if err != nil {
		return Witness{}, fmt.Errorf("epoch %q: want a number", f[1])
	}
	return Witness{f[0], Point{epoch, f[2]}}, nil
}

func isHex(s string, digits int) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b)*2 == digits && strings.ToLower(s) == s
}

// Verdict is what Decide says.
type Verdict string

// Verdicts; see the package comment.
const (
	First       Verdict = "first"
	Equal       Verdict = "equal"
	Ahead       Verdict = "ahead"
	Unwitnessed Verdict = "unwitnessed"
	Blank       Verdict = "blank"
	Foreign     Verdict = "foreign"
	Behind      Verdict = "behind"
	Forked      Verdict = "forked"
	Unreadable  Verdict = "unreadable"
)

// Held says whether services are not to be started.
func (v Verdict) Held() bool {
	switch v {
	case First, Equal, Ahead, Unwitnessed:
		return false
	}
	return true
}

// Decide is the table in the package comment, but for its first line, which is
// Load's error.
func Decide(r *Record, w *Witness) Verdict {
	switch {
	case r == nil && w == nil:
		return First
	case r == nil:
		return Blank
	case w == nil:
		return Unwitnessed
	case r.Point == w.Point:
		return Equal
	case r.follows(w.Point):
		return Ahead
	case r.Lineage != w.Lineage:
		return Foreign
	case r.Epoch < w.Epoch:
		return Behind
	}
	return Forked
}

func (r *Record) follows(p Point) bool {
	for _, v := range r.Before {
		if v == p {
			return true
		}
	}
	return false
}

// Oldest is the epoch that the record's own reach back to: of what was before, a
// witness's words can be neither found among them nor missed there.
func (r *Record) Oldest() uint64 {
	if len(r.Before) > 0 {
		return r.Before[0].Epoch
	}
	return r.Epoch
}

// Begin makes the first record of a lineage.
func Begin(reason string, now time.Time) *Record {
	r := &Record{Lineage: random(), Point: Point{Epoch: 1}, Nonce: random(), Reason: reason, At: now}
	r.Hash = r.sum()
	return r
}

// BeginClone makes the first record of a copy that is to be a machine of its own.
// ID is the copy's, 32 hex digits.
func BeginClone(id string, now time.Time) *Record {
	r := Begin("clone", now)
	r.Clone = id
	r.Hash = r.sum()
	return r
}

// IsID says whether s is 32 hex digits, as lineages and copies are named.
func IsID(s string) bool { return isHex(s, 32) }

// NewID makes such a name.
func NewID() string { return random() }

// Next makes the record after r.
func (r *Record) Next(reason string, now time.Time) *Record {
	next := &Record{Lineage: r.Lineage, Point: Point{Epoch: r.Epoch + 1}, Previous: r.Hash, Nonce: random(), Reason: reason, At: now, Clone: r.Clone}
	next.Before = newest(append(next.Before, append(r.Before, r.Point)...))
	next.Hash = next.sum()
	return next
}

// Accept makes the record by which a disk that is held goes on: it has the
// lineage of the witness and an epoch far beyond both. A nil r is a disk without
// a record.
func Accept(r *Record, w Witness, reason string, now time.Time) (*Record, error) {
	if reason == "" || len(reason) > maxReason {
		return nil, fmt.Errorf("a reason of %d bytes: want 1 to %d", len(reason), maxReason)
	}
	next := &Record{Lineage: w.Lineage, Nonce: random(), Reason: "accepted: " + reason, At: now}
	next.Epoch = w.Epoch
	if r != nil {
		next.Clone = r.Clone
		next.Epoch = max(r.Epoch, w.Epoch)
		next.Previous = r.Hash
		next.Before = append(next.Before, append(r.Before, r.Point)...)
	}
	next.Epoch += Leap
	next.Before = newest(append(next.Before, w.Point))
	next.Hash = next.sum()
	return next, nil
}

func newest(list []Point) []Point { return list[max(0, len(list)-maxChain):] }

// sum is the hash of all that a record says but the list of those before, whose
// last one it has by Previous.
func (r *Record) sum() string {
	h := sha256.New()
	fmt.Fprintf(h, "sovereign continuity 1\n%s\n%d\n%s\n%s\n%q\n%s\n", r.Lineage, r.Epoch, r.Previous, r.Nonce, r.Reason, r.Clone)
	return hex.EncodeToString(h.Sum(nil))
}

func random() string {
	b := make([]byte, 16)
	rand.Read(b) //nolint:errcheck // it never fails
	return hex.EncodeToString(b)
}
