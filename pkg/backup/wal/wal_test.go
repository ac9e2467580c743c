package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

const (
	testSegment = 1 << 20
	testSystem  = 7654321
)

// maker makes a log as PostgreSQL writes it.
type maker struct {
	start LSN
	b     []byte
	prev  LSN
	tli   Timeline
}

func newMaker(start LSN) *maker { return &maker{start: start, tli: 1} }

func (m *maker) at() LSN { return m.start + LSN(len(m.b)) }

// page writes a page's header where one is due; rest is what is left of a record.
func (m *maker) page(rest int) {
	if m.at()%pageSize != 0 {
		return
	}
	order := binary.LittleEndian
	n, info := shortHeader, uint16(0)
	if m.at()%testSegment == 0 {
		n, info = longHeader, hasLongHeader
	}
	if rest > 0 {
		info |= firstIsRest
	}
	h := make([]byte, n)
	order.PutUint16(h, 0xd110)
	order.PutUint16(h[2:], info)
	order.PutUint32(h[4:], uint32(m.tli))
	order.PutUint64(h[8:], uint64(m.at()))
	order.PutUint32(h[16:], uint32(rest))
	if n == longHeader {
		order.PutUint64(h[24:], testSystem)
		order.PutUint32(h[32:], testSegment)
		order.PutUint32(h[36:], pageSize)
	}
	m.b = append(m.b, h...)
}

// record writes a record of a resource manager.
func (m *maker) record(rm, info byte, data []byte) (start LSN) {
	order := binary.LittleEndian
	r := make([]byte, recordHead, recordHead+5+len(data))
	r = append(r, 254)
	r = order.AppendUint32(r, uint32(len(data)))
	r = append(r, data...)
	order.PutUint32(r, uint32(len(r)))
	order.PutUint64(r[8:], uint64(m.prev))
	r[16], r[17] = info, rm
	order.PutUint32(r[20:], crc32.Update(crc32.Update(0, castagnoli, r[recordHead:]), castagnoli, r[:20]))
	m.page(0)
	start = m.at()
	for len(r) > 0 {
		m.page(len(r))
		n := min(len(r), int(pageSize-m.at()%pageSize))
		m.b, r = append(m.b, r[:n]...), r[n:]
	}
	for m.at()%align != 0 {
		m.b = append(m.b, 0)
	}
	m.prev = start
	return start
}

func (m *maker) commit(at time.Time) LSN {
	return m.record(rmTransaction, commit, binary.LittleEndian.AppendUint64(nil, uint64(at.Sub(epoch).Microseconds())))
}

func (m *maker) point(at time.Time, name string) LSN {
	data := binary.LittleEndian.AppendUint64(nil, uint64(at.Sub(epoch).Microseconds()))
	return m.record(rmXLog, xlogRestorePoint, append(data, append([]byte(name), make([]byte, 64-len(name))...)...))
}

// fill writes a log of some length, with transactions and large records.
func fill(m *maker, until int) (times int) {
	at := epoch.Add(24 * time.Hour)
	for n := 0; len(m.b) < until; n++ {
		m.record(10, 0, bytes.Repeat([]byte{0x5a}, 37+n*1013%30_000)) // not what a torn page has
		m.commit(at.Add(time.Duration(n) * time.Second))
		times++
	}
	return times
}

func TestWalker(t *testing.T) {
	m := newMaker(4 * testSegment)
	times := fill(m, 3*testSegment)
	point := m.point(epoch, "here")
	for _, part := range []int{1, 7, 8191, 1 << 20} {
		var seen int
		var named LSN
		w, err := NewWalker(m.start, 1, testSystem, testSegment, func(r Record) error {
			if !r.Time.IsZero() {
				seen++
			}
			if r.Point == "here" {
				named = r.Start
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for b := m.b; len(b) > 0; b = b[min(part, len(b)):] {
			if _, err := w.Write(b[:min(part, len(b))]); err != nil {
				t.Fatal(err)
			}
		}
		if seen != times || named != point || w.Last().Start != point || w.Position() != m.at() {
			t.Errorf("in parts of %d: %d of %d transactions, the point at %v of %v, the end at %v of %v", part, seen, times, named, point, w.Position(), m.at())
		}
	}
	// Another byte anywhere is found, but in what fills up between records.
	for at := 100; at < 2*testSegment; at += 9973 {
		b := append([]byte(nil), m.b...)
		b[at] ^= 0x40
		w, err := NewWalker(m.start, 1, testSystem, testSegment, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(b); fault.ClassOf(err) != fault.Verification && b[at] != 0x40 {
			t.Errorf("a byte at %d was changed: %v", at, err)
		}
	}
}

func spool(t *testing.T, dir string, start LSN) *Spool {
	t.Helper()
	s, err := CreateSpool(dir, NewBranch(testSystem, testSegment, 1, start, "a test"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSpoolKilled cuts a spool off at any byte, tears what was not synced, and
// goes on with it.
func TestSpoolKilled(t *testing.T) {
	m := newMaker(2 * testSegment)
	fill(m, testSegment+200_000)
	for _, torn := range []bool{false, true} {
		for cut := 1; cut < len(m.b); cut += 77_777 {
			dir := filepath.Join(t.TempDir(), "spool")
			s := spool(t, dir, m.start)
			if err := s.Append(m.start, m.b[:cut]); err != nil {
				t.Fatal(err)
			}
			whole := s.walker.last.End
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if torn { // garbage, where a page was on its way
				names, err := s.segments()
				if err != nil {
					t.Fatal(err)
				}
				f, err := os.OpenFile(filepath.Join(dir, names[len(names)-1]), os.O_WRONLY|os.O_APPEND, 0)
				if err == nil {
					_, err = f.Write(make([]byte, 3000))
				}
				if err = errors.Join(err, f.Close()); err != nil {
					t.Fatal(err)
				}
			}
			s, err := OpenSpool(dir)
			if err != nil {
				t.Fatalf("cut at %d, torn %v: %v", cut, torn, err)
			}
			if to := s.Extent().To; to != max(whole, m.start) {
				t.Errorf("cut at %d, torn %v: whole until %v, want %v", cut, torn, to, whole)
			}
			at, _ := s.Begin()
			if err := s.Append(at, m.b[at-m.start:]); err != nil {
				t.Fatalf("cut at %d, torn %v: going on: %v", cut, torn, err)
			}
			if end, err := s.Sync(); err != nil || end != m.at() || s.Extent().To != m.at() {
				t.Errorf("cut at %d, torn %v: %v, %v", cut, torn, end, err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// What is there twice is compared.
func TestSpoolFork(t *testing.T) {
	m := newMaker(2 * testSegment)
	fill(m, 300_000)
	dir := filepath.Join(t.TempDir(), "spool")
	s := spool(t, dir, m.start)
	defer s.Close() //nolint:errcheck // it was read
	if err := s.Append(m.start, m.b); err != nil {
		t.Fatal(err)
	}
	other := append([]byte(nil), m.b...)
	other[200_000] ^= 1
	var fork *ForkError
	if err := s.Append(m.start, other); !errors.As(err, &fork) || fork.At != m.start+200_000 {
		t.Errorf("%v", err)
	}
	if err := s.Append(m.at()+8, m.b); err == nil {
		t.Error("a log with a hole was taken")
	}
}

func TestNames(t *testing.T) {
	for _, size := range []int64{1 << 20, 16 << 20, 1 << 30} {
		for _, at := range []LSN{0, LSN(size), 1 << 32, 0x16_B374D848} {
			name := SegmentName(3, at, size)
			tli, got, ok := ParseSegmentName(name, size)
			if !ok || tli != 3 || got != at.Floor(size) {
				t.Errorf("%s: %d, %v, %v", name, tli, got, ok)
			}
		}
	}
	if l, err := ParseLSN("16/B374D848"); err != nil || l.String() != "16/B374D848" {
		t.Errorf("%v, %v", l, err)
	}
	list, err := ParseHistory([]byte("1\t0/3000060\tbefore 2026\n# nothing\n\n2\t0/5000000\tno recovery target specified\n"))
	if err != nil || len(list) != 2 || list[1] != (Switch{2, 0x5000000}) {
		t.Errorf("%v, %v", list, err)
	}
	for _, text := range []string{"1", "x 0/1", "0 0/1", "2 0/1\n1 0/2", "1 0/2\n2 0/1", "1 nothing"} {
		if _, err := ParseHistory([]byte(text)); fault.ClassOf(err) != fault.Verification {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzWalker(f *testing.F) {
	m := newMaker(testSegment)
	fill(m, 40_000)
	f.Add(m.b)
	f.Fuzz(func(t *testing.T, b []byte) {
		w, err := NewWalker(testSegment, 1, testSystem, testSegment, nil)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := w.Write(b); err == nil && n != len(b) {
			t.Errorf("%d of %d bytes", n, len(b))
		}
	})
}

func FuzzParseHistory(f *testing.F) {
	f.Add([]byte("1\t0/3000060\tno recovery target specified\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := ParseHistory(b)
		if err == nil && len(list) > maxSwitches {
			t.Errorf("%d lines", len(list))
		}
	})
}
