package backup

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/pkg/backup/wal"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// LogFile is the file that says what a part of a service's log has. Such a part
// is a snapshot of its own kind in a repository, a directory of it and of the
// log's segments by PostgreSQL's own names, the last one with ".partial" behind
// where it is not whole.
const LogFile = "log.json"

// MaxLog bounds it, in bytes.
const MaxLog = 4 << 20

// Log is a part of a service's log of changes, or all of a branch.
type Log struct {
	Schema  int    `json:"schema"`
	Machine string `json:"machine"`
	Service string `json:"service"`
	// Branch is the log without a break that it is of.
	Branch wal.Branch `json:"branch"`
	Extent wal.Extent `json:"extent"`
	// AsOf is when the log ended at Extent.To, by the server's clock: until then
	// nothing more was done.
	AsOf time.Time `json:"as_of,omitzero"`
	At   time.Time `json:"at"` // when it was kept
}

// Covers is the newest moment that can be restored from it; zero: none.
func (l Log) Covers() time.Time {
	if l.AsOf.After(l.Extent.Newest) {
		return l.AsOf
	}
	return l.Extent.Newest
}

// ParseLog reads log.json. Errors are of class fault.Verification.
func ParseLog(text []byte) (Log, error) {
	var l Log
	if len(text) > MaxLog {
		return l, fault.Errorf(fault.Verification, "%s has more than %d bytes", LogFile, MaxLog)
	}
	if err := json.Unmarshal(text, &l); err != nil {
		return l, fault.Errorf(fault.Verification, "%s: %w", LogFile, err)
	}
	switch {
	case l.Schema != Schema:
		return l, fault.Errorf(fault.Verification, "%s: schema %d is not one that this program reads", LogFile, l.Schema).Hintf("use a newer one")
	case !machineForm.MatchString(l.Machine) || !machineForm.MatchString(l.Service):
		return l, fault.Errorf(fault.Verification, "%s is of no service of a machine", LogFile)
	case l.Extent.From > l.Extent.Last || l.Extent.Last > l.Extent.To:
		return l, fault.Errorf(fault.Verification, "%s: from %v to %v, with the last record at %v, is nothing", LogFile, l.Extent.From, l.Extent.To, l.Extent.Last)
	}
	return l, l.Branch.Check()
}

// LogPosition is where a service was in its log when its disk was backed up.
// The disk is from between the two places.
type LogPosition struct {
	Service  string       `json:"service"`
	Branch   string       `json:"branch"`
	Timeline wal.Timeline `json:"timeline"`
	Before   wal.LSN      `json:"before"`
	After    wal.LSN      `json:"after"`
}

// String is as ParseLogPosition reads it.
func (p LogPosition) String() string {
	return fmt.Sprintf("%s %s %d %v %v", p.Service, p.Branch, p.Timeline, p.Before, p.After)
}

var branchForm = regexp.MustCompile(`^[0-9a-f]{16}$`)

// ParseLogPosition reads what String has written.
func ParseLogPosition(text string) (LogPosition, error) {
	f := strings.Split(text, " ")
	if len(f) == 5 && machineForm.MatchString(f[0]) && branchForm.MatchString(f[1]) {
		tli, err := strconv.ParseUint(f[2], 10, 32)
		before, err1 := wal.ParseLSN(f[3])
		after, err2 := wal.ParseLSN(f[4])
		if err == nil && err1 == nil && err2 == nil && tli > 0 && before <= after {
			return LogPosition{f[0], f[1], wal.Timeline(tli), before, after}, nil
		}
	}
	return LogPosition{}, fault.Errorf(fault.Verification, "%.100q is no place in a log", text)
}

// Target is the moment that is to be restored: one of the fields. All zero is
// the end of the log.
type Target struct {
	// Time: all that was committed by then, by the server's clock.
	Time time.Time `json:"time,omitzero"`
	// LSN: all that was written before this place.
	LSN wal.LSN `json:"lsn,omitzero"`
	// Point: until the restore point of this name was set; the last of them.
	Point string `json:"point,omitempty"`
}

// IsEnd says whether it is the end of the log.
func (t Target) IsEnd() bool { return t == Target{} }

// String says it for people.
func (t Target) String() string {
	switch {
	case !t.Time.IsZero():
		return t.Time.UTC().Format(time.RFC3339Nano)
	case t.LSN != 0:
		return t.LSN.String()
	case t.Point != "":
		return "the point " + t.Point
	}
	return "the end of the log"
}

// maxPoint bounds the name of a restore point, in bytes: PostgreSQL's own.
const maxPoint = 63

// Check says what is wrong with it. Errors are of class fault.Usage.
func (t Target) Check() error {
	n := 0
	for _, given := range []bool{!t.Time.IsZero(), t.LSN != 0, t.Point != ""} {
		if given {
			n++
		}
	}
	if n > 1 {
		return fault.Errorf(fault.Usage, "a time, a place in the log and a point are three ways to say one moment: choose one")
	}
	if len(t.Point) > maxPoint || strings.ContainsFunc(t.Point, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fault.Errorf(fault.Usage, "a restore point's name has at most %d bytes, and no control characters", maxPoint)
	}
	return nil
}

// ParseTime reads a moment: RFC 3339, with its offset from UTC.
func ParseTime(text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return t, fault.Errorf(fault.Usage, "%.60q is no moment that everybody reads alike", text).
			Hintf("write it as 2026-03-01T14:30:00Z, or with an offset as 2026-03-01T15:30:00+01:00")
	}
	return t, nil
}

// Reached is what a log that is handed to a machine leads to.
type Reached struct {
	LSN      wal.LSN      `json:"lsn"` // the last record
	Timeline wal.Timeline `json:"timeline"`
	// Time is when the newest transaction ended that is in it; zero: none has
	// since the backup.
	Time time.Time `json:"time,omitzero"`
	// Transactions that ended in it.
	Transactions int64 `json:"transactions"`
	Bytes        int64 `json:"bytes"` // of the log
}
