package wal

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

const (
	branchFile = "branch.json"
	maxBranch  = 64 << 10 // bytes
	// partial ends the name of a segment that is not whole yet.
	partial = ".partial"
	// maxPoints bounds the restore points that are remembered of what has not
	// gone on yet.
	maxPoints = 1000
)

// Branch is a log without a break.
type Branch struct {
	ID string `json:"id"` // 16 hex digits
	// System is the server's own identity.
	System  uint64 `json:"system,string"`
	Segment int64  `json:"segment"` // bytes
	// Timeline is the newest one.
	Timeline Timeline  `json:"timeline"`
	Start    LSN       `json:"start"` // a segment's beginning
	Began    time.Time `json:"began"`
	// Why is why it is not the one before that goes on, for people.
	Why string `json:"why"`
}

var branchForm = regexp.MustCompile(`^[0-9a-f]{16}$`)

// Check holds a branch to its limits. Errors are of class fault.Verification.
func (b Branch) Check() error {
	if !branchForm.MatchString(b.ID) || b.Timeline == 0 || len(b.Why) > 1000 {
		return fault.Errorf(fault.Verification, "branch %.40q of a log is none", b.ID)
	}
	if err := CheckSegmentSize(b.Segment); err != nil {
		return err
	}
	if b.Start.floor(b.Segment) != b.Start {
		return fault.Errorf(fault.Verification, "branch %s begins at %v, where no segment does", b.ID, b.Start)
	}
	return nil
}

// NewBranch begins one now.
func NewBranch(system uint64, segment int64, tli Timeline, start LSN, why string) Branch {
	id := make([]byte, 8)
	rand.Read(id) //nolint:errcheck // it never fails
	return Branch{ID: hex.EncodeToString(id), System: system, Segment: segment, Timeline: tli, Start: start,
		Began: time.Now().UTC().Truncate(time.Second), Why: why}
}

// Point is a restore point that somebody has set.
type Point struct {
	Name string `json:"name"`
	LSN  LSN    `json:"lsn"`
}

// Extent is what a part of a log has. Its records are whole.
type Extent struct {
	From LSN `json:"from"`
	// To is behind the last record, and Last is where that begins: what a
	// recovery to the end is told.
	To   LSN `json:"to"`
	Last LSN `json:"last"`
	// First and Newest are the first and the newest moment at which a
	// transaction ended; zero where none has.
	First  time.Time `json:"first,omitzero"`
	Newest time.Time `json:"newest,omitzero"`
	Points []Point   `json:"points,omitempty"`
}

// add adds a record.
func (e *Extent) add(r Record) {
	if r.End <= e.To {
		return // it is there twice: in the segment in which a timeline was left
	}
	e.To, e.Last = r.End, r.Start
	if !r.Time.IsZero() {
		if e.First.IsZero() {
			e.First = r.Time
		}
		if r.Time.After(e.Newest) {
			e.Newest = r.Time
		}
	}
	if r.Point != "" {
		e.Points = append(e.Points, Point{r.Point, r.Start})
		if n := len(e.Points) - maxPoints; n > 0 {
			e.Points = e.Points[n:]
		}
	}
}

// ForkError is that of a log which is not the one that was kept: the server's
// disk went back, and was written on. At is where they differ, or where the
// server's ends.
type ForkError struct {
	At   LSN
	Kept LSN // until where the log was kept
	Text string
}

func (e *ForkError) Error() string {
	return fmt.Sprintf("the server's log is not the one that was kept until %v: at %v %s", e.Kept, e.At, e.Text)
}

// GapError is that of a log of which the server has not kept what comes next.
type GapError struct{ Text string }

func (e *GapError) Error() string { return e.Text }

// Spool is the directory where a branch of a log lies before it has gone on to a
// repository: segments by PostgreSQL's names, the last one with ".partial"
// behind, histories of timelines, and branch.json. Its methods may be called
// from several goroutines; one process has it open.
type Spool struct {
	dir string

	mu     sync.Mutex
	branch Branch
	walker *Walker
	file   *os.File // the segment that is written
	at     LSN      // its beginning
	end    LSN      // what is written
	synced LSN      // what is on the disk
	extent Extent   // of what is on the disk
	unsure []Record // whole, and not on the disk yet
}

// CreateSpool begins a branch in an empty or absent directory.
func CreateSpool(dir string, b Branch) (*Spool, error) {
	if err := b.Check(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	if len(entries) > 0 {
		return nil, fault.Errorf(fault.Internal, "%s is not empty", dir)
	}
	if err := atomicfile.SyncDir(filepath.Dir(dir)); err != nil {
		return nil, err
	}
	s := &Spool{dir: dir, branch: b}
	if err := s.saveBranch(); err != nil {
		return nil, err
	}
	return s, s.begin(b.Start)
}

func (s *Spool) saveBranch() error {
	text, err := json.MarshalIndent(s.branch, "", "  ")
	if err != nil {
		return fault.Wrap(fault.Internal, err)
	}
	return atomicfile.Write(filepath.Join(s.dir, branchFile), append(text, '\n'), 0o600)
}

// ReadBranch is the branch of a directory; fs.ErrNotExist where there is none.
func ReadBranch(dir string) (Branch, error) {
	var b Branch
	f, err := os.Open(filepath.Join(dir, branchFile))
	if err != nil {
		return b, fault.Wrap(fault.Environment, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxBranch))
	if err != nil {
		return b, fault.Wrap(fault.Environment, err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&b); err != nil {
		return b, fault.Errorf(fault.Environment, "%s: %w", f.Name(), err)
	}
	return b, b.Check()
}

// begin turns to the segment that begins at a place, on the newest timeline.
func (s *Spool) begin(at LSN) error {
	w, err := NewWalker(at, s.branch.Timeline, s.branch.System, s.branch.Segment, s.note)
	if err != nil {
		return err
	}
	if s.file, err = os.OpenFile(s.path(at)+partial, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	s.walker, s.at, s.end, s.synced = w, at, at, at
	if s.extent.From == 0 {
		s.extent = Extent{From: at, To: at, Last: at}
	}
	return atomicfile.SyncDir(s.dir)
}

func (s *Spool) note(r Record) error {
	s.unsure = append(s.unsure, r)
	return nil
}

func (s *Spool) path(at LSN) string {
	return filepath.Join(s.dir, SegmentName(s.branch.Timeline, at, s.branch.Segment))
}

// OpenSpool goes on with a branch. What was on its way to the disk when the
// process or the host ended is cut off behind the last whole record: the server
// has it still, for nobody has confirmed it. An absent one is fs.ErrNotExist.
func OpenSpool(dir string) (*Spool, error) {
	b, err := ReadBranch(dir)
	if err != nil {
		return nil, err
	}
	s := &Spool{dir: dir, branch: b}
	names, err := s.segments()
	if err != nil {
		return nil, err
	}
	if len(names) == 0 { // killed right behind branch.json
		return s, s.begin(b.Start)
	}
	for n, name := range names {
		last := n == len(names)-1
		if err := s.reopen(name, last); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return s, nil
}

// Kept is what a spool has, for one who only reads it.
type Kept struct {
	Branch Branch
	Extent Extent
}

// OpenSpoolReadOnly reads what a spool has, while it is written to or not. An
// absent one is fs.ErrNotExist.
func OpenSpoolReadOnly(dir string) (Kept, error) {
	b, err := ReadBranch(dir)
	if err != nil {
		return Kept{}, err
	}
	s := &Spool{dir: dir, branch: b}
	names, err := s.segments()
	if err != nil {
		return Kept{}, err
	}
	for _, name := range names {
		tli, at, _ := ParseSegmentName(strings.TrimSuffix(name, partial), b.Segment)
		if s.walker == nil || s.walker.tli != tli {
			if s.walker, err = NewWalker(at, tli, b.System, b.Segment, s.note); err != nil {
				return Kept{}, err
			}
			if s.extent.From == 0 {
				s.extent = Extent{From: at, To: at, Last: at}
			}
		}
		if s.walker.pos != at {
			break // what follows was written meanwhile
		}
		f, err := os.Open(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) { // it was filled meanwhile
			f, err = os.Open(filepath.Join(dir, strings.TrimSuffix(name, partial)))
		}
		if err != nil {
			return Kept{}, fault.Wrap(fault.Environment, err)
		}
		_, err = io.Copy(s.walker, io.LimitReader(f, b.Segment))
		f.Close()
		s.settle()
		if err != nil {
			break // what is behind the last whole record is not there yet
		}
	}
	return Kept{b, s.extent}, nil
}

// reopen reads a segment of the directory, in their order.
func (s *Spool) reopen(name string, last bool) error {
	bare, unfinished := strings.CutSuffix(name, partial)
	tli, at, ok := ParseSegmentName(bare, s.branch.Segment)
	if !ok {
		return fault.Errorf(fault.Environment, "%s: no segment has this name", filepath.Join(s.dir, name))
	}
	// A first segment, or one of another timeline, begins with what is not
	// checked against the one before.
	if s.walker == nil || s.walker.tli != tli || s.walker.pos != at {
		if s.walker != nil && s.walker.tli == tli {
			return fault.Errorf(fault.Environment, "%s: the log from %v to %v is not there", s.dir, s.walker.pos, at)
		}
		w, err := NewWalker(at, tli, s.branch.System, s.branch.Segment, s.note)
		if err != nil {
			return err
		}
		s.walker = w
		if s.extent.From == 0 {
			s.extent = Extent{From: at, To: at, Last: at}
		}
	}
	f, err := os.OpenFile(filepath.Join(s.dir, name), os.O_RDWR, 0)
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	before := s.walker.clone()
	_, walkErr := io.Copy(s.walker, io.LimitReader(f, s.branch.Segment))
	s.settle()
	if last && tli != s.branch.Timeline { // killed as it turned to another
		return errors.Join(f.Close(), s.begin(s.extent.To.floor(s.branch.Segment)))
	}
	s.at, s.end, s.synced = at, s.walker.pos, s.walker.pos
	if !last {
		if unfinished && walkErr == nil && s.walker.pos < at+LSN(s.branch.Segment) && s.branch.Timeline == tli {
			walkErr = fault.Errorf(fault.Environment, "%s is not whole, and not the last one", f.Name())
		}
		return errors.Join(walkErr, f.Close())
	}
	if s.walker.pos == at+LSN(s.branch.Segment) && walkErr == nil {
		// The last thing done was to fill it, or to name it.
		s.file = f
		return s.turn()
	}
	return s.cut(f, at, before)
}

// cut cuts the last segment off behind its last whole record. w is what the log
// before it came to.
func (s *Spool) cut(f *os.File, at LSN, w *Walker) error {
	keep := max(s.extent.To, at)
	name := f.Name()
	err := fault.Wrap(fault.Environment, f.Close())
	if !strings.HasSuffix(name, partial) && err == nil {
		// It was damaged after it was whole: what follows is fetched anew.
		err = atomicfile.Rename(name, name+partial)
		name += partial
	}
	if err != nil {
		return err
	}
	if f, err = os.OpenFile(name, os.O_RDWR, 0); err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	if err = f.Truncate(int64(keep - at)); err == nil {
		err = f.Sync()
	}
	if err != nil {
		return errors.Join(fault.Wrap(fault.Environment, err), f.Close())
	}
	// The walker goes on from there as if the rest had never come.
	if _, err = io.Copy(w, f); err != nil {
		return errors.Join(err, f.Close())
	}
	s.unsure = nil // they are known already
	s.walker, s.file, s.at, s.end, s.synced = w, f, at, keep, keep
	return nil
}

// segments are the files of segments, in the order of the log.
func (s *Spool) segments() ([]string, error) {
	entries, err := os.ReadDir(s.dir) // sorted: by timeline, then by place
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	var names []string
	for _, e := range entries {
		if _, _, ok := ParseSegmentName(strings.TrimSuffix(e.Name(), partial), s.branch.Segment); ok {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Branch is what it has.
func (s *Spool) Branch() Branch {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.branch
}

// Extent is what is on the disk, as far as its records are whole.
func (s *Spool) Extent() Extent {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.extent
	e.Points = slices.Clone(e.Points)
	return e
}

// Ends are where what was written ends, and what of it is on the disk.
func (s *Spool) Ends() (written, synced LSN) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end, s.synced
}

// Begin is where a server is to begin to send: at the beginning of the segment
// that is not whole, so that what is there of it is compared.
func (s *Spool) Begin() (LSN, Timeline) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at, s.branch.Timeline
}

// Append takes what the server has sent from a place on. What is there already
// is compared: another content is a *ForkError. It is on the disk after Sync.
func (s *Spool) Append(at LSN, b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at > s.end {
		return fault.Errorf(fault.Device, "the server sent its log from %v on, and %v is expected", at, s.end)
	}
	if old := int64(s.end - at); old > 0 {
		n := min(old, int64(len(b)))
		if err := s.compare(at, b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	for len(b) > 0 {
		n := min(int64(len(b)), s.branch.Segment-int64(s.end-s.at))
		if _, err := s.file.WriteAt(b[:n], int64(s.end-s.at)); err != nil {
			return fault.Wrap(fault.Environment, err)
		}
		if _, err := s.walker.Write(b[:n]); err != nil {
			return err
		}
		s.end, b = s.end+LSN(n), b[n:]
		if s.end-s.at == LSN(s.branch.Segment) {
			if err := s.sync(); err != nil {
				return err
			}
			if err := s.turn(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Spool) compare(at LSN, b []byte) error {
	if at < s.at {
		return fault.Errorf(fault.Device, "the server sent its log from %v on, and was asked for %v", at, s.at)
	}
	have := make([]byte, len(b))
	if _, err := s.file.ReadAt(have, int64(at-s.at)); err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	for i := range b {
		if b[i] != have[i] {
			return &ForkError{At: at + LSN(i), Kept: s.end, Text: "it has another content"}
		}
	}
	return nil
}

// turn gives a segment that is whole, and on the disk, its name, and begins the
// next one.
func (s *Spool) turn() error {
	if bare, unfinished := strings.CutSuffix(s.file.Name(), partial); unfinished {
		if err := atomicfile.Rename(s.file.Name(), bare); err != nil {
			return err
		}
	}
	if err := s.file.Close(); err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	walker, next := s.walker, s.at+LSN(s.branch.Segment)
	if err := s.begin(next); err != nil {
		return err
	}
	s.walker = walker // a record may go over the end
	return nil
}

// Sync brings what was appended to the disk, and returns until where that is.
func (s *Spool) Sync() (LSN, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.synced == s.end {
		return s.synced, nil
	}
	return s.synced, s.sync()
}

func (s *Spool) sync() error {
	if err := s.file.Sync(); err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	s.synced = s.end
	s.settle()
	return nil
}

// settle counts the records that are on the disk.
func (s *Spool) settle() {
	for _, r := range s.unsure {
		s.extent.add(r)
	}
	s.unsure = s.unsure[:0]
}

// Switch goes on with another timeline, which was left the present one for at a
// place, and keeps its history. A log that was kept beyond that place is a
// *ForkError: what is there behind it never happened to the server.
func (s *Spool) Switch(tli Timeline, at LSN, history []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := ParseHistory(history); err != nil {
		return err
	}
	if at < s.extent.To {
		return &ForkError{At: at, Kept: s.extent.To, Text: fmt.Sprintf("it goes on as timeline %d", tli)}
	}
	if err := atomicfile.Write(filepath.Join(s.dir, HistoryName(tli)), history, 0o600); err != nil {
		return err
	}
	// The segment of the switch stands in the new timeline again, up to there;
	// what the old one has is complete as it is.
	if err := s.sync(); err != nil {
		return err
	}
	if err := s.file.Close(); err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	s.branch.Timeline = tli
	if err := s.saveBranch(); err != nil {
		return err
	}
	return s.begin(at.floor(s.branch.Segment))
}

// Trim removes whole segments that end at or before a place: they are elsewhere.
func (s *Spool) Trim(before LSN) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	names, err := s.segments()
	if err != nil {
		return err
	}
	for _, name := range names {
		tli, at, _ := ParseSegmentName(strings.TrimSuffix(name, partial), s.branch.Segment)
		end := at + LSN(s.branch.Segment)
		current := tli == s.branch.Timeline && at >= s.at
		if end > before || current {
			continue
		}
		if err := os.Remove(filepath.Join(s.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fault.Wrap(fault.Environment, err)
		}
		if tli == s.branch.Timeline {
			s.extent.From = max(s.extent.From, end)
		}
	}
	s.extent.Points = slices.DeleteFunc(s.extent.Points, func(p Point) bool { return p.LSN < s.extent.From })
	return atomicfile.SyncDir(s.dir)
}

// Close ends the use of the directory. What was appended is not brought to the
// disk by it.
func (s *Spool) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	s.file = nil
	return fault.Wrap(fault.Environment, err)
}
