// Package witness remembers where the histories of data disks are, away from the
// disks: who puts an older copy of a disk back, and all that its host knows of it
// with it, is told so by somebody who was not put back.
//
// A disk's lineage, and the newest of its records (package continuity), come in;
// what is kept goes out, signed, with a number of the asker's own. A witness
// knows nothing of machines, and nothing that is on a disk. It never goes back,
// and never forgets; what it has answered stands on its disk.
//
// # The decision
//
// A teller says from which record, the one that it believes is kept, the history
// went on to which. Decide looks at these and nothing else; the first line that
// fits is the one.
//
//	kept     from      to                        verdict  answer
//	nothing  nothing   any                       kept     200, to
//	nothing  a record  any                       stale    409, nothing
//	K        any       K                         kept     200, K: it is told again
//	K        any       K's epoch, another hash   forked   422, K
//	K        not K     any other                 stale    409, K
//	K        K         an epoch before K's       forked   422, K
//	K        K         an epoch behind K's       kept     200, to
//
// So of two that went on from one record, the second is told what the first has
// said. Whether that is among its own is for it to know.
//
// A lineage belongs to the token that first told of it.
package witness

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/continuity"
)

// Point is a record of a disk's history.
type Point = continuity.Point

// Verdict is what Decide says.
type Verdict string

// Verdicts; see the package comment.
const (
	Kept   Verdict = "kept"
	Stale  Verdict = "stale"
	Forked Verdict = "forked"
)

// Decide is the table in the package comment; nil is nothing.
func Decide(kept, from *Point, to Point) Verdict {
	switch {
	case kept == nil && from == nil:
		return Kept
	case kept == nil:
		return Stale
	case to == *kept:
		return Kept
	case to.Epoch == kept.Epoch:
		return Forked
	case from == nil || *from != *kept:
		return Stale
	case to.Epoch < kept.Epoch:
		return Forked
	}
	return Kept
}

// Answer is what a witness says: what it keeps of a lineage, nil for nothing.
type Answer struct {
	Lineage string
	Kept    *Point
	// Since is when it was told so, by the witness's clock, in seconds.
	Since time.Time
	Nonce string // the asker's: 32 hex digits
}

const (
	// KeyName is that of every witness's key.
	KeyName  = "sovereign-witness"
	noteHead = "sovereign witness 1"
	nothing  = "nothing"
	// maxNote bounds a signed answer, in bytes.
	maxNote = 4 << 10
)

// Sign makes a note of an answer, as golang.org/x/mod/sumdb/note has them.
func (a Answer) Sign(s note.Signer) ([]byte, error) {
	kept := nothing
	if a.Kept != nil {
		kept = fmt.Sprintf("%d %s %d", a.Kept.Epoch, a.Kept.Hash, a.Since.Unix())
	}
	text := strings.Join([]string{noteHead, a.Lineage, kept, a.Nonce, ""}, "\n")
	return note.Sign(&note.Note{Text: text}, s)
}

// Open reads a signed answer to a question about a lineage with a nonce; another
// lineage's, another question's or another signer's is an error.
func Open(text []byte, v note.Verifier, lineage, nonce string) (Answer, error) {
	a := Answer{Lineage: lineage, Nonce: nonce}
	if len(text) > maxNote {
		return a, fmt.Errorf("an answer of more than %d bytes", maxNote)
	}
	n, err := note.Open(text, note.VerifierList(v))
	if err != nil {
		return a, fmt.Errorf("it is not signed by the witness's key: %w", err)
	}
	lines := strings.Split(n.Text, "\n")
	switch {
	case len(lines) != 5 || lines[0] != noteHead || lines[4] != "":
		return a, fmt.Errorf("it signs something else than an answer")
	case lines[1] != lineage || lines[3] != nonce:
		return a, fmt.Errorf("it is the answer to another question: an old one, said again")
	case lines[2] == nothing:
		return a, nil
	}
	f := strings.Split(lines[2], " ")
	if len(f) != 3 {
		return a, fmt.Errorf("what is kept: want an epoch, a hash and a time")
	}
	w, err := continuity.ParseWitness(lineage + ":" + f[0] + ":" + f[1])
	if err != nil {
		return a, fmt.Errorf("what is kept: %w", err)
	}
	since, err := strconv.ParseInt(f[2], 10, 64)
	if err != nil || since < 0 || since > 1<<40 {
		return a, fmt.Errorf("what is kept: a time of %.20q", f[2])
	}
	a.Kept, a.Since = &w.Point, time.Unix(since, 0).UTC()
	return a, nil
}

// Told is the body of a request that tells a witness of a record.
type Told struct {
	From  *Point `json:"from,omitempty"`
	To    Point  `json:"to"`
	Nonce string `json:"nonce"`
}

// check says what is wrong with the values.
func (t Told) check() error {
	if !continuity.IsID(t.Nonce) {
		return fmt.Errorf("nonce: want 32 hex digits")
	}
	points := []Point{t.To}
	if t.From != nil {
		points = append(points, *t.From)
	}
	for _, p := range points {
		w := continuity.Witness{Lineage: t.Nonce, Point: p} // for its form
		if _, err := continuity.ParseWitness(w.String()); err != nil || p.Epoch == 0 {
			return fmt.Errorf("from, to: want an epoch from 1 and a hash of 64 hex digits")
		}
	}
	return nil
}

// line is what a file of a lineage holds: owner, epoch, hash and time.
type kept struct {
	owner string
	point *Point
	since time.Time
}

func (k kept) line() []byte {
	return fmt.Appendf(nil, "%s %d %s %d\n", k.owner, k.point.Epoch, k.point.Hash, k.since.Unix())
}

func parseKept(text []byte) (k kept, err error) {
	f := strings.Split(string(bytes.TrimSuffix(text, []byte("\n"))), " ")
	if len(f) != 4 || !continuity.IsID(f[0]) {
		return k, fmt.Errorf("want an owner, an epoch, a hash and a time")
	}
	w, err := continuity.ParseWitness(f[0] + ":" + f[1] + ":" + f[2])
	if err != nil {
		return k, err
	}
	since, err := strconv.ParseInt(f[3], 10, 64)
	if err != nil || since < 0 || since > 1<<40 {
		return k, fmt.Errorf("a time of %.20q", f[3])
	}
	return kept{f[0], &w.Point, time.Unix(since, 0).UTC()}, nil
}
