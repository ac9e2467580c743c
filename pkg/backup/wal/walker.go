package wal

import (
	"encoding/binary"
	"hash/crc32"
	"slices"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// What a log is made of, by access/xlog_internal.h and access/xlogrecord.h of
// PostgreSQL 15 to 18: pages with a header, and in them records, each of which
// may go on in the next page.
const (
	pageSize    = 8 << 10
	shortHeader = 24 // of a page
	longHeader  = 40 // of a segment's first one
	recordHead  = 24
	align       = 8
	maxRecord   = 1020 << 20 // PostgreSQL's own limit
	headKept    = 256        // of a record: more than what is read of one

	firstIsRest      = 1 // a page begins with the rest of a record
	hasLongHeader    = 2
	firstIsOverwrite = 8 // the record that the page before began was given up

	rmXLog        = 0 // resource managers
	rmTransaction = 1

	infoMask         = 0xf0
	xlogSwitch       = 0x40
	xlogRestorePoint = 0x70
	transactionMask  = 0x70
	commit           = 0x00
	abort            = 0x20
	commitPrepared   = 0x30
	abortPrepared    = 0x40
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Record is what is known of one of a log's records.
type Record struct {
	Start, End LSN // End is where the next one may begin
	// Time is when a transaction ended, by the server's clock; zero of any other
	// record. That is what PostgreSQL's recovery to a time goes by.
	Time time.Time
	// Point is the name of a restore point; "" of any other record.
	Point string
}

// Walker reads a log from a segment's beginning on, in parts of any size, and
// holds it to what it says of itself: addresses, the server's identity, each
// record's checksum and the one before. The zero value is not ready: see
// NewWalker.
type Walker struct {
	segment int64
	system  uint64
	tli     Timeline
	each    func(Record) error

	pos    LSN
	head   []byte // of the page or the record that is being read
	rest   int64  // of a record that began before the beginning, or was skipped
	blank  bool   // until the segment's end nothing counts
	gap    int    // bytes until the next record
	record bool   // one is being read
	start  LSN    // of that
	left   int64  // of that
	crc    uint32
	kept   []byte // of that

	last Record // the last whole one; zero: none yet
}

// NewWalker begins at a segment's first byte, of a log of a server, on a
// timeline. Each record that is whole goes to each, which may be nil.
func NewWalker(at LSN, tli Timeline, system uint64, segment int64, each func(Record) error) (*Walker, error) {
	if err := CheckSegmentSize(segment); err != nil {
		return nil, err
	}
	if at.floor(segment) != at {
		return nil, fault.Errorf(fault.Internal, "%v begins no segment", at)
	}
	return &Walker{segment: segment, system: system, tli: tli, each: each, pos: at}, nil
}

// clone is one that is where this one is.
func (w *Walker) clone() *Walker {
	c := *w
	c.head, c.kept = slices.Clone(w.head), slices.Clone(w.kept)
	return &c
}

// Position is where the next byte goes.
func (w *Walker) Position() LSN { return w.pos }

// Last is the last record that is whole; zero before there is one.
func (w *Walker) Last() Record { return w.last }

func (w *Walker) bad(at LSN, format string, args ...any) error {
	return fault.Errorf(fault.Verification, "the log is damaged at %v: "+format, append([]any{at}, args...)...)
}

// Write takes the next part. An error is of class fault.Verification, or each's.
// After one the Walker is of no use, but for Last.
func (w *Walker) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		took, err := w.take(b)
		if err != nil {
			return n - len(b), err
		}
		w.pos += LSN(took)
		b = b[took:]
		if err := w.settle(); err != nil {
			return n - len(b), err
		}
	}
	return n, nil
}

// take takes what belongs together, and says how much that was.
func (w *Walker) take(b []byte) (int, error) {
	inPage := int64(w.pos % pageSize)
	size := int64(shortHeader)
	if w.pos.floor(w.segment) == w.pos-LSN(inPage) {
		size = longHeader
	}
	if w.blank {
		return int(min(int64(len(b)), w.segment-int64(w.pos%LSN(w.segment)))), nil
	}
	if inPage < size {
		n := min(int64(len(b)), size-inPage)
		w.head = append(w.head, b[:n]...)
		if int64(len(w.head)) < size {
			return int(n), nil
		}
		err := w.page(w.head, w.pos-LSN(inPage))
		w.head = w.head[:0]
		return int(n), err
	}
	most := min(int64(len(b)), pageSize-inPage)
	switch {
	case w.rest > 0:
		n := min(most, w.rest)
		if w.rest -= n; w.rest == 0 {
			w.gap = padding(w.pos + LSN(n))
		}
		return int(n), nil
	case w.gap > 0:
		n := min(most, int64(w.gap))
		w.gap -= int(n)
		return int(n), nil
	case !w.record:
		w.record, w.start, w.left, w.crc, w.kept = true, w.pos, 0, 0, w.kept[:0]
	}
	if len(w.kept) < 4 { // the length is never cut in two
		n := min(most, int64(4-len(w.kept)))
		w.kept = append(w.kept, b[:n]...)
		if len(w.kept) < 4 {
			return int(n), nil
		}
		total := int64(binary.LittleEndian.Uint32(w.kept))
		if total < recordHead || total > maxRecord {
			return 0, w.bad(w.start, "a record of %d bytes", total)
		}
		w.left = total - 4
		return int(n), nil
	}
	n := min(most, w.left)
	if have := len(w.kept); have < recordHead { // no checksum is taken of these yet
		n = min(n, int64(recordHead-have))
		w.kept = append(w.kept, b[:n]...)
	} else {
		w.crc = crc32.Update(w.crc, castagnoli, b[:n])
		w.kept = append(w.kept, b[:min(n, int64(max(0, headKept-have)))]...)
	}
	w.left -= n
	return int(n), nil
}

// padding is how far it is from the end of a record to the next one.
func padding(at LSN) int { return int(-at % align) }

// settle ends what has come to its end.
func (w *Walker) settle() error {
	if w.blank && w.pos == w.pos.floor(w.segment) {
		w.blank = false
	}
	if !w.record || w.left > 0 || len(w.kept) < recordHead {
		return nil
	}
	w.record = false
	w.gap = padding(w.pos)
	r := Record{Start: w.start, End: w.pos + LSN(w.gap)}
	if sum := crc32.Update(w.crc, castagnoli, w.kept[:20]); sum != binary.LittleEndian.Uint32(w.kept[20:]) {
		return w.bad(w.start, "a record does not have its checksum")
	}
	if prev := LSN(binary.LittleEndian.Uint64(w.kept[8:])); w.last.End != 0 && prev != w.last.Start {
		return w.bad(w.start, "the record before is to be at %v, and is at %v", prev, w.last.Start)
	}
	w.describe(&r)
	w.last = r
	if info, rm := w.kept[16]&infoMask, w.kept[17]; rm == rmXLog && info == xlogSwitch {
		w.gap, w.blank = 0, w.pos != w.pos.floor(w.segment)
	}
	if w.each != nil {
		return w.each(r)
	}
	return nil
}

// page reads a page's header.
func (w *Walker) page(b []byte, at LSN) error {
	order := binary.LittleEndian
	info, tli, address, rest := order.Uint16(b[2:]), Timeline(order.Uint32(b[4:])), LSN(order.Uint64(b[8:])), int64(order.Uint32(b[16:]))
	switch {
	case b[1] != 0xd1:
		return w.bad(at, "no page of a log begins here")
	case address != at:
		return w.bad(at, "it has the page of %v", address)
	case tli > w.tli:
		return w.bad(at, "it is of timeline %d, and %d is expected", tli, w.tli)
	case (info&hasLongHeader != 0) != (len(b) == longHeader):
		return w.bad(at, "a page's header is of the wrong length")
	}
	if len(b) == longHeader {
		system, segment, page := order.Uint64(b[24:]), int64(order.Uint32(b[32:])), order.Uint32(b[36:])
		switch {
		case system != w.system:
			return w.bad(at, "it is of the server %d, and %d is expected", system, w.system)
		case segment != w.segment:
			return w.bad(at, "its segments have %d bytes, and %d are expected", segment, w.segment)
		case page != pageSize:
			return w.bad(at, "its pages have %d bytes, and %d are expected", page, pageSize)
		}
	}
	switch {
	case info&firstIsOverwrite != 0: // the server was killed in it
		w.record, w.rest, w.gap = false, 0, 0
	case info&firstIsRest == 0:
		if w.record || w.rest > 0 {
			return w.bad(at, "the record that begins at %v does not go on", w.start)
		}
	case w.record:
		if rest != w.left {
			return w.bad(at, "%d bytes of a record are to follow, and %d are missing", rest, w.left)
		}
	case w.rest > 0:
		if rest != w.rest {
			return w.bad(at, "%d bytes of a record are to follow, and %d are missing", rest, w.rest)
		}
	case w.last.End != 0 || rest == 0:
		return w.bad(at, "the rest of a record that there is not")
	default:
		w.rest = rest // of one that began before the beginning
	}
	return nil
}

// epoch is where PostgreSQL's time begins.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// describe finds out what a record says of time.
func (w *Walker) describe(r *Record) {
	rm, info := w.kept[17], w.kept[16]&infoMask
	point := rm == rmXLog && info == xlogRestorePoint
	switch info & transactionMask {
	case commit, abort, commitPrepared, abortPrepared:
		if rm != rmTransaction && !point {
			return
		}
	default:
		if !point {
			return
		}
	}
	data := mainData(w.kept[recordHead:])
	if len(data) < 8 {
		return
	}
	at := epoch.Add(time.Duration(int64(binary.LittleEndian.Uint64(data))) * time.Microsecond)
	if !point {
		r.Time = at
		return
	}
	const maxPoint = 64
	name := data[8:min(len(data), 8+maxPoint)]
	for i, c := range name {
		if c == 0 {
			name = name[:i]
			break
		}
	}
	r.Point = string(name)
}

// mainData is what a record of these kinds has, behind the headers of its
// parts; as much as there is of it.
func mainData(b []byte) []byte {
	for len(b) > 0 {
		n := 0
		switch b[0] {
		case 255: // short
			return b[min(len(b), 2):]
		case 254: // long
			return b[min(len(b), 5):]
		case 253: // origin
			n = 3
		case 252: // the transaction above
			n = 5
		default:
			return nil // it has pages, and so is of another kind
		}
		b = b[min(len(b), n):]
	}
	return nil
}
