package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/snapshot"

	"github.com/sovereign-build/sovereign/internal/backupjob"
	"github.com/sovereign-build/sovereign/pkg/backup"
	"github.com/sovereign-build/sovereign/pkg/backup/wal"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

const (
	kindLog   = "log"
	tagBranch = "tag:branch"
	tagFrom   = "tag:from"
	tagTo     = "tag:to"
	tagLog    = "tag:log" // of a backup: where it is in its log

	partial = ".partial"
	// A part of a log is a snapshot, which is made anew with what has come
	// since, until it has so many files or is so old: then another one begins.
	maxPart = 256
	partAge = 24 * time.Hour
)

// part is a part of a log in the repository.
type part struct {
	kept
	log backup.Log
}

// parts are those of a machine's logs, oldest first; "" is every branch.
func (v *vault) parts(ctx context.Context, machine, branch string) ([]part, error) {
	list, err := find(ctx, v.r, kindLog, machine)
	if err != nil {
		return nil, err
	}
	var parts []part
	for _, k := range list {
		if branch != "" && k.tag(tagBranch) != branch {
			continue
		}
		p := part{kept: k}
		if err := p.read(ctx, v.r); err != nil {
			return nil, err
		}
		parts = append(parts, p)
	}
	slices.SortStableFunc(parts, func(a, b part) int {
		if a.log.Branch.ID != b.log.Branch.ID {
			return a.log.Branch.Began.Compare(b.log.Branch.Began)
		}
		return int(min(max(int64(a.log.Extent.To)-int64(b.log.Extent.To), -1), 1))
	})
	return parts, nil
}

func (p *part) what() string {
	return "the log of " + p.tag(tagMachine) + " until " + p.tag(tagTo)
}

func (p *part) read(ctx context.Context, r repo.Repository) (err error) {
	if p.RootEntry == nil || p.RootEntry.Type != snapshot.EntryTypeDirectory {
		return fault.Errorf(fault.Verification, "%s has no directory", p.what())
	}
	if p.entries, err = readDirectory(ctx, r, p.RootEntry.ObjectID, p.what()); err != nil {
		return err
	}
	e, err := p.entry(backup.LogFile)
	if err != nil {
		return err
	}
	text, err := readObject(ctx, r, e.ObjectID, backup.MaxLog, p.what())
	if err != nil {
		return err
	}
	if p.log, err = backup.ParseLog(text); err != nil {
		return err
	}
	if p.log.Machine != p.tag(tagMachine) || p.log.Branch.ID != p.tag(tagBranch) {
		return fault.Errorf(fault.Verification, "%s: it is of %s", p.what(), p.log.Machine)
	}
	return nil
}

// putLog keeps what a spool has and the repository has not.
func (v *vault) putLog(ctx context.Context) (*backupjob.Result, error) {
	l := v.j.Log
	if l == nil || v.j.Spool == "" {
		return nil, fault.Errorf(fault.Usage, "a log to be kept needs its spool")
	}
	l.Schema, l.At = backup.Schema, time.Now().UTC().Truncate(time.Second)
	parts, err := v.parts(ctx, l.Machine, l.Branch.ID)
	if err != nil {
		return nil, err
	}
	var former *part
	if n := len(parts); n > 0 {
		former = &parts[n-1]
		if former.log.Extent.To >= l.Extent.To && !l.AsOf.After(former.log.AsOf) {
			return &backupjob.Result{Logs: []backup.Log{former.log}}, nil
		}
		if former.log.Extent.To > l.Extent.To {
			return nil, fault.Errorf(fault.Verification, "the repository has the log of %s until %v, and this device until %v", l.Machine, former.log.Extent.To, l.Extent.To)
		}
		// One that ends before this one begins has let the other part be lost.
		if floor := former.log.Extent.To.Floor(l.Branch.Segment); l.Extent.From > floor {
			return nil, fault.Errorf(fault.Verification, "the repository has the log of %s until %v, and this device from %v on", l.Machine, former.log.Extent.To, l.Extent.From)
		}
	}
	files, err := spoolFiles(v.j.Spool, l.Branch.Segment)
	if err != nil {
		return nil, err
	}
	goesOn := former != nil && !v.server && len(former.entries) < maxPart && l.At.Sub(former.StartTime.ToTime()) < partAge
	err = writeSession(ctx, v.r, "log", nil, func(ctx context.Context, w repo.RepositoryWriter) error {
		dir := &directory{at: l.At}
		whole := map[string]bool{}
		part := *l
		if goesOn {
			// What is there is not read again.
			for _, e := range former.entries {
				if e.Name == backup.LogFile || strings.HasSuffix(e.Name, partial) {
					continue
				}
				dir.b.AddEntry(e)
				whole[e.Name] = true
			}
			dir.at = former.StartTime.ToTime()
			part.Extent.From, part.Extent.First = former.log.Extent.From, former.log.Extent.First
			part.Extent.Points = joinPoints(former.log.Extent.Points, l.Extent.Points)
		} else if former != nil {
			part.Extent.From = former.log.Extent.To.Floor(l.Branch.Segment)
		}
		if part.Extent.First.IsZero() {
			part.Extent.First = l.Extent.First
		}
		if former != nil && former.log.Extent.Newest.After(part.Extent.Newest) {
			part.Extent.Newest = former.log.Extent.Newest
		}
		for _, f := range files {
			if whole[f.name] || !f.history && f.at+wal.LSN(l.Branch.Segment) <= part.Extent.From || f.at >= part.Extent.To && !f.history {
				continue
			}
			if err := v.addSegment(ctx, w, dir, f, part.Extent.To, l.Branch.Segment); err != nil {
				return err
			}
		}
		*l = part
		text, err := json.MarshalIndent(part, "", " ")
		if err != nil {
			return fault.Wrap(fault.Internal, err)
		}
		if err := dir.file(ctx, w, backup.LogFile, bytes.NewReader(append(text, '\n'))); err != nil {
			return err
		}
		root, sum, err := dir.write(ctx, w, "/")
		if err != nil {
			return err
		}
		tags := map[string]string{tagKind: kindLog, tagMachine: l.Machine, tagID: newID(), tagBranch: l.Branch.ID,
			tagFrom: part.Extent.From.String(), tagTo: part.Extent.To.String()}
		return save(ctx, w, source(v.r, "logs", l.Machine), dir, root, sum, tags, "log of "+l.Machine+" until "+part.Extent.To.String())
	})
	if err != nil {
		return nil, err
	}
	return &backupjob.Result{Logs: []backup.Log{*l}}, v.settleLog(ctx, l.Machine, l.Branch.ID)
}

// settleLog looks whether the repository has what it said that it has, and only
// then lets go of parts that are in the last one whole: those which it goes on
// from.
func (v *vault) settleLog(ctx context.Context, machine, branch string) error {
	parts, err := v.parts(ctx, machine, branch)
	if err != nil {
		return err
	}
	blobs, err := v.blobs(ctx)
	if err != nil || len(parts) == 0 {
		return err
	}
	last := parts[len(parts)-1]
	for _, e := range last.entries {
		if err := v.present(ctx, e.ObjectID, blobs, last.what()+": "+e.Name); err != nil {
			return err
		}
	}
	former := slices.DeleteFunc(parts[:len(parts)-1], func(p part) bool {
		return p.log.Extent.From < last.log.Extent.From || p.log.Extent.To > last.log.Extent.To
	})
	if len(former) == 0 || v.server { // whose users add and do not remove
		return nil
	}
	return writeSession(ctx, v.r, "log", nil, func(ctx context.Context, w repo.RepositoryWriter) error {
		for _, p := range former {
			if err := w.DeleteManifest(ctx, p.ID); err != nil {
				return err
			}
		}
		return nil
	})
}

func joinPoints(former, more []wal.Point) []wal.Point {
	const most = 1000
	for _, p := range more {
		if !slices.Contains(former, p) {
			former = append(former, p)
		}
	}
	return former[max(0, len(former)-most):]
}

// spoolFile is a file of a spool.
type spoolFile struct {
	path, name string // without ".partial"
	tli        wal.Timeline
	at         wal.LSN
	whole      bool
	history    bool
}

func spoolFiles(dir string, segment int64) ([]spoolFile, error) {
	entries, err := os.ReadDir(dir) // sorted
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	var list []spoolFile
	for _, e := range entries {
		bare, unfinished := strings.CutSuffix(e.Name(), partial)
		f := spoolFile{path: filepath.Join(dir, e.Name()), name: bare, whole: !unfinished, history: strings.HasSuffix(bare, ".history")}
		var ok bool
		if f.tli, f.at, ok = wal.ParseSegmentName(bare, segment); ok || f.history {
			list = append(list, f)
		}
	}
	return list, nil
}

// addSegment keeps a file of a spool, of the last segment what is whole of it.
func (v *vault) addSegment(ctx context.Context, w repo.RepositoryWriter, dir *directory, f spoolFile, to wal.LSN, segment int64) error {
	file, err := os.Open(f.path)
	if os.IsNotExist(err) && !f.whole { // it was filled meanwhile
		file, err = os.Open(strings.TrimSuffix(f.path, partial))
	}
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	defer file.Close()
	name, from := f.name, io.Reader(file)
	if !f.history && (!f.whole || f.at+wal.LSN(segment) > to) {
		name, from = f.name+partial, io.LimitReader(file, int64(min(to-f.at, wal.LSN(segment))))
	}
	return dir.split(ctx, w, name, from, splitter)
}

// logs are a machine's logs, a branch each, oldest first.
func (v *vault) logs(ctx context.Context) (*backupjob.Result, error) {
	parts, err := v.parts(ctx, v.j.Machine, "")
	if err != nil {
		return nil, err
	}
	return &backupjob.Result{Logs: branches(parts)}, nil
}

// branches joins parts that go on.
func branches(parts []part) (list []backup.Log) {
	for _, p := range parts {
		n := len(list) - 1
		if n < 0 || list[n].Machine != p.log.Machine || list[n].Branch.ID != p.log.Branch.ID || p.log.Extent.From > list[n].Extent.To {
			list = append(list, p.log)
			continue
		}
		l := &list[n]
		first, points := l.Extent.First, joinPoints(slices.Clone(l.Extent.Points), p.log.Extent.Points)
		from, newest := l.Extent.From, l.Extent.Newest
		*l = p.log
		l.Extent.From, l.Extent.Points = from, points
		if !first.IsZero() {
			l.Extent.First = first
		}
		if newest.After(l.Extent.Newest) {
			l.Extent.Newest = newest
		}
	}
	return list
}

// verifyLogs looks for all of a machine's logs, and reads percent of their parts
// record by record.
func (v *vault) verifyLogs(ctx context.Context, machine string, percent float64) (read int64, damaged []error, err error) {
	list, err := find(ctx, v.r, kindLog, machine)
	if err != nil {
		return 0, nil, err
	}
	blobs, err := v.blobs(ctx)
	if err != nil {
		return 0, nil, err
	}
	for _, k := range list {
		p := part{kept: k}
		n, err := v.verifyPart(ctx, &p, blobs, 100*rand.Float64() < percent)
		read += n
		switch {
		case err == nil:
		case fault.ClassOf(err) == fault.Verification:
			damaged = append(damaged, err)
		default:
			return read, nil, err
		}
	}
	return read, damaged, nil
}

func (v *vault) verifyPart(ctx context.Context, p *part, blobs map[blob.ID]blob.Metadata, all bool) (int64, error) {
	if err := p.read(ctx, v.r); err != nil {
		return 0, err
	}
	for _, e := range p.entries {
		if err := v.present(ctx, e.ObjectID, blobs, p.what()+": "+e.Name); err != nil {
			return 0, err
		}
	}
	if !all {
		return 0, nil
	}
	src := &logSource{v: v, parts: []part{*p}, branch: p.log.Branch, extent: p.log.Extent}
	var last wal.Record
	n, err := src.walk(ctx, p.log.Extent.From, nil, func(r wal.Record) error { last = r; return nil })
	if err == nil && last.Start != p.log.Extent.Last {
		err = fault.Errorf(fault.Verification, "%s: its last record is at %v, and %v is in it", p.what(), last.Start, p.log.Extent.Last)
	}
	return n, err
}

// keepLogs forgets the parts that nothing needs which is to be had: those that
// end before the newest backup that is older than the window, and whole branches
// that are.
func (v *vault) keepLogs(ctx context.Context) (int, error) {
	if v.j.RecoverFor == 0 || v.server {
		return 0, nil
	}
	since := time.Now().Add(-time.Duration(v.j.RecoverFor) * time.Second)
	backups, err := find(ctx, v.r, kindBackup, v.j.Machine)
	if err != nil {
		return 0, err
	}
	// By branch the place that the oldest moment of the window needs.
	needed := map[string]wal.LSN{}
	for _, k := range backups {
		p, err := backup.ParseLogPosition(k.tag(tagLog))
		if err != nil {
			continue // it is not in any log
		}
		if _, ok := needed[p.Branch]; !ok || !k.StartTime.ToTime().After(since) {
			needed[p.Branch] = p.Before
		}
	}
	parts, err := v.parts(ctx, v.j.Machine, "")
	if err != nil {
		return 0, err
	}
	newest := map[string]int{}
	for n, p := range parts {
		newest[p.log.Branch.ID] = n
	}
	var gone []part
	for n, p := range parts {
		from, ok := needed[p.log.Branch.ID]
		old := p.log.At.Before(since)
		switch {
		case ok && p.log.Extent.To <= from.Floor(p.log.Branch.Segment) && newest[p.log.Branch.ID] != n:
			gone = append(gone, p)
		case old && (!ok || newest[p.log.Branch.ID] != n):
			gone = append(gone, p)
		}
	}
	if len(gone) == 0 {
		return 0, nil
	}
	return len(gone), writeSession(ctx, v.r, "forget", nil, func(ctx context.Context, w repo.RepositoryWriter) error {
		for _, p := range gone {
			if err := w.DeleteManifest(ctx, p.ID); err != nil {
				return err
			}
		}
		return nil
	})
}

// logSource is a log that is read from the repository, and behind that from a
// spool.
type logSource struct {
	v      *vault
	parts  []part
	spool  string // "" is none
	branch wal.Branch
	extent wal.Extent
}

// histories are the timelines' histories that there are.
func (s *logSource) histories(ctx context.Context) (map[string][]byte, error) {
	all := map[string][]byte{}
	for _, p := range s.parts {
		for _, e := range p.entries {
			if !strings.HasSuffix(e.Name, ".history") || all[e.Name] != nil {
				continue
			}
			text, err := readObject(ctx, s.v.r, e.ObjectID, 1<<20, p.what()+": "+e.Name)
			if err != nil {
				return nil, err
			}
			all[e.Name] = text
		}
	}
	if s.spool == "" {
		return all, nil
	}
	files, err := spoolFiles(s.spool, s.branch.Segment)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if !f.history {
			continue
		}
		text, err := os.ReadFile(f.path)
		if err != nil {
			return nil, fault.Wrap(fault.Environment, err)
		}
		all[f.name] = text
	}
	return all, nil
}

// switches are where timelines were left, by the newest history.
func switches(histories map[string][]byte, newest wal.Timeline) (map[wal.Timeline]wal.LSN, error) {
	at := map[wal.Timeline]wal.LSN{}
	text := histories[wal.HistoryName(newest)]
	if text == nil {
		return at, nil // the first one has none
	}
	list, err := wal.ParseHistory(text)
	for _, s := range list {
		at[s.Timeline] = s.At
	}
	return at, err
}

// walk reads the log from a segment's beginning on to its end, each record to
// each; a segment that was read goes to keep, in its full size. Where each
// returns errEnough it ends.
func (s *logSource) walk(ctx context.Context, from wal.LSN, keep func(name string, content []byte) error, each func(wal.Record) error) (read int64, err error) {
	histories, err := s.histories(ctx)
	if err != nil {
		return 0, err
	}
	left, err := switches(histories, s.branch.Timeline)
	if err != nil {
		return 0, err
	}
	order := slices.Sorted(maps.Keys(left))
	segment := wal.LSN(s.branch.Segment)
	var w *wal.Walker
	var was wal.Timeline
	for at := from; at < s.extent.To; at += segment {
		if err := context.Cause(ctx); err != nil {
			return read, err
		}
		tli := s.branch.Timeline
		for _, t := range order {
			if left[t] >= at+segment { // else the segment is the next one's
				tli = t
				break
			}
		}
		if w == nil || tli != was {
			if w, err = wal.NewWalker(at, tli, s.branch.System, s.branch.Segment, each); err != nil {
				return read, err
			}
			was = tli
		}
		name := wal.SegmentName(tli, at, s.branch.Segment)
		content, err := s.content(ctx, name, at)
		if err != nil {
			return read, err
		}
		read += int64(len(content))
		_, err = w.Write(content)
		if keep != nil && (err == nil || err == errEnough) { //nolint:errorlint // each's own
			if keepErr := keep(name, content); keepErr != nil {
				return read, keepErr
			}
		}
		if err == errEnough { //nolint:errorlint // each's own
			return read, nil
		}
		if err != nil {
			return read, err
		}
	}
	return read, nil
}

// content is a segment as far as there is of it; what both the repository and
// the spool have is compared.
func (s *logSource) content(ctx context.Context, name string, at wal.LSN) ([]byte, error) {
	var best []byte
	add := func(b []byte, from string) error {
		n := min(len(b), len(best))
		if !bytes.Equal(b[:n], best[:n]) {
			return fault.Errorf(fault.Verification, "the segment %s of the log of %s stands in the repository with two contents (%s)", name, s.branch.ID, from)
		}
		if len(b) > len(best) {
			best = b
		}
		return nil
	}
	for _, p := range s.parts {
		for _, e := range p.entries {
			if strings.TrimSuffix(e.Name, partial) != name {
				continue
			}
			what := p.what() + ": " + e.Name
			b, err := readObject(ctx, s.v.r, e.ObjectID, s.branch.Segment, what)
			if err != nil {
				return nil, err
			}
			if int64(len(b)) != e.FileSize {
				return nil, fault.Errorf(fault.Verification, "%s has %d bytes, and %d are in it", what, e.FileSize, len(b))
			}
			if err := add(b, what); err != nil {
				return nil, err
			}
		}
	}
	want := int(min(s.extent.To-at, wal.LSN(s.branch.Segment)))
	if s.spool != "" {
		for _, path := range []string{name, name + partial} {
			b, err := readUpTo(filepath.Join(s.spool, path), int64(want))
			if os.IsNotExist(err) {
				continue
			}
			if err != nil {
				return nil, fault.Wrap(fault.Environment, err)
			}
			if err := add(b, "the device"); err != nil {
				return nil, err
			}
		}
	}
	if len(best) < want {
		return nil, fault.Errorf(fault.Verification, "the log is not whole: of the segment %s there are %d bytes, and %d are needed", name, len(best), want).
			Hintf("restore a moment before %v", at)
	}
	return best[:want], nil
}

func readUpTo(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, most))
}
