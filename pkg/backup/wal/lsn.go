package wal

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// LSN is a place in a log, in bytes from its beginning. Its text is
// PostgreSQL's, 16/B374D848.
type LSN uint64

// String is as ParseLSN reads it.
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// MarshalJSON implements json.Marshaler.
func (l LSN) MarshalJSON() ([]byte, error) { return json.Marshal(l.String()) }

// UnmarshalJSON implements json.Unmarshaler.
func (l *LSN) UnmarshalJSON(text []byte) error {
	var s string
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	v, err := ParseLSN(s)
	*l = v
	return err
}

var lsnForm = regexp.MustCompile(`^([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})$`)

// ParseLSN reads 16/B374D848. An error is of class fault.Usage.
func ParseLSN(text string) (LSN, error) {
	m := lsnForm.FindStringSubmatch(text)
	if m == nil {
		return 0, fault.Errorf(fault.Usage, "%.40q is no place in PostgreSQL's log", text).Hintf("write it as pg_current_wal_lsn() does: 16/B374D848")
	}
	high, _ := strconv.ParseUint(m[1], 16, 32) // of this form
	low, _ := strconv.ParseUint(m[2], 16, 32)
	return LSN(high<<32 | low), nil
}

// Timeline is the number of a server's history, which a promotion adds one to.
type Timeline uint32

// Segments have one of these sizes, in bytes.
const (
	minSegment = 1 << 20
	maxSegment = 1 << 30
)

// CheckSegmentSize says whether segments can have so many bytes. Errors are of
// class fault.Verification.
func CheckSegmentSize(n int64) error {
	if n < minSegment || n > maxSegment || n&(n-1) != 0 {
		return fault.Errorf(fault.Verification, "segments of %d bytes are none", n)
	}
	return nil
}

// floor is the beginning of the segment that a place is in.
func (l LSN) floor(segment int64) LSN { return l - l%LSN(segment) }

// Floor is the beginning of the segment of so many bytes that a place is in.
func (l LSN) Floor(segment int64) LSN { return l.floor(segment) }

// SegmentName is the name of the file with a place in it.
func SegmentName(tli Timeline, at LSN, segment int64) string {
	perID := uint64(1<<32) / uint64(segment)
	n := uint64(at) / uint64(segment)
	return fmt.Sprintf("%08X%08X%08X", uint32(tli), uint32(n/perID), uint32(n%perID))
}

var segmentForm = regexp.MustCompile(`^[0-9A-F]{24}$`)

// ParseSegmentName is the other way round.
func ParseSegmentName(name string, segment int64) (tli Timeline, at LSN, ok bool) {
	if !segmentForm.MatchString(name) || CheckSegmentSize(segment) != nil {
		return 0, 0, false
	}
	perID := uint64(1<<32) / uint64(segment)
	var part [3]uint64
	for i := range part {
		part[i], _ = strconv.ParseUint(name[i*8:i*8+8], 16, 32) // of this form
	}
	if part[0] == 0 || part[2] >= perID {
		return 0, 0, false
	}
	return Timeline(part[0]), LSN((part[1]*perID + part[2]) * uint64(segment)), true
}

// HistoryName is the name of the file with a timeline's history.
func HistoryName(tli Timeline) string { return fmt.Sprintf("%08X.history", uint32(tli)) }

// Switch is where a timeline was left for the next one.
type Switch struct {
	Timeline Timeline
	At       LSN
}

// maxHistory bounds such a file, in bytes, and maxSwitches its lines.
const (
	maxHistory  = 1 << 20
	maxSwitches = 10_000
)

// ParseHistory reads a timeline's history: the timelines before it, oldest
// first. Errors are of class fault.Verification.
func ParseHistory(text []byte) ([]Switch, error) {
	bad := func(format string, args ...any) ([]Switch, error) {
		return nil, fault.Errorf(fault.Verification, "a timeline's history: "+format, args...)
	}
	if len(text) > maxHistory {
		return bad("it has more than %d bytes", maxHistory)
	}
	var list []Switch
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		line, _, _ := strings.Cut(lines.Text(), "#")
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) < 2 {
			return bad("a line has no two fields: %.80q", line)
		}
		n, err := strconv.ParseUint(f[0], 10, 32)
		if err != nil || n == 0 {
			return bad("%.20q is no timeline", f[0])
		}
		at, err := ParseLSN(f[1])
		if err != nil {
			return bad("%w", err)
		}
		s := Switch{Timeline(n), at}
		if k := len(list); k > 0 && (list[k-1].Timeline >= s.Timeline || list[k-1].At > s.At) {
			return bad("timeline %d is not behind %d", s.Timeline, list[k-1].Timeline)
		}
		if list = append(list, s); len(list) > maxSwitches {
			return bad("it has more than %d lines", maxSwitches)
		}
	}
	return list, nil
}
