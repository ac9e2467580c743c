package vault

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kopia/kopia/fs"
	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/object"
	"github.com/kopia/kopia/snapshot"
	"github.com/kopia/kopia/snapshot/snapshotfs"

	"github.com/sovereign-build/sovereign/pkg/backup"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Tags of our snapshots, as the program kopia shows and takes them.
const (
	tagKind    = "tag:sovereign" // kindBackup, kindDrill
	tagMachine = "tag:machine"
	tagID      = "tag:id"
	tagBundle  = "tag:bundle"
	tagWhole   = "tag:whole"
	tagLive    = "tag:live"
	tagSize    = "tag:size"
	tagRead    = "tag:read"
	tagStored  = "tag:stored"
	tagHold    = "tag:hold-ms"

	kindBackup = "backup"
	kindDrill  = "drill"
)

// kept is one of our snapshots.
type kept struct {
	*snapshot.Manifest
	entries []*snapshot.DirEntry // of its directory, when they were read
}

// tags are the labels that Manifest.Tags does not have when it was read.
func (k kept) tag(name string) string { return k.Tags[name] }

// newID is an ID of a backup: by it a backup is known for ever, whatever kopia
// does with its manifest.
func newID() string {
	const letters = "abcdefghijkmnpqrstuvwxyz23456789" // 32, none like another
	b := make([]byte, 10)
	rand.Read(b) //nolint:errcheck // it never fails
	for i := range b {
		b[i] = letters[b[i]%32]
	}
	return string(b)
}

// find are our snapshots of a kind, oldest first; an empty machine is all.
func find(ctx context.Context, r repo.Repository, kind, machine string) ([]kept, error) {
	tags := map[string]string{tagKind: kind}
	if machine != "" {
		tags[tagMachine] = machine
	}
	ids, err := snapshot.ListSnapshotManifests(ctx, r, nil, tags)
	if err != nil {
		return nil, readError("the list of snapshots", err)
	}
	// One at a time: LoadSnapshots leaves out what it cannot read.
	list := make([]kept, 0, len(ids))
	for _, id := range ids {
		m, err := snapshot.LoadSnapshot(ctx, r, id)
		if err != nil {
			return nil, readError("snapshot "+string(id), err)
		}
		list = append(list, kept{Manifest: m})
	}
	slices.SortFunc(list, func(a, b kept) int { return a.StartTime.ToTime().Compare(b.StartTime.ToTime()) })
	return list, nil
}

// choose is the backup of a machine with an ID, or the newest one.
func choose(ctx context.Context, r repo.Repository, machine, id string) (kept, error) {
	list, err := find(ctx, r, kindBackup, machine)
	if err != nil {
		return kept{}, err
	}
	if id == "" {
		return newest(list, machine)
	}
	list = slices.DeleteFunc(list, func(k kept) bool { return !strings.HasPrefix(k.tag(tagID), id) })
	switch len(list) {
	case 1:
		return list[0], nil
	case 0:
		return kept{}, fault.Errorf(fault.Usage, "the repository has no backup %s@%.40s", machine, id).
			Hintf("see what it has: sovereign-build backups %s", machine)
	}
	return kept{}, fault.Errorf(fault.Usage, "%d backups of %s begin with %.40s", len(list), machine, id).Hintf("give more of the ID")
}

func newest(list []kept, machine string) (kept, error) {
	hosts := map[string]bool{}
	for _, k := range list {
		hosts[k.Source.Host] = true
	}
	switch {
	case len(list) == 0:
		return kept{}, fault.Errorf(fault.Usage, "the repository has no backup of %s", machine).
			Hintf("see what it has: sovereign-build repository list")
	case len(hosts) > 1:
		return kept{}, fault.Errorf(fault.Usage, "%d devices have a machine %s, and keep backups of it", len(hosts), machine).
			Hintf("choose one by its ID: sovereign-build backups %s", machine)
	}
	return list[len(list)-1], nil
}

// describe is what a list says of a backup.
func (k kept) describe() backup.Snapshot {
	number := func(tag string) int64 {
		n, err := strconv.ParseInt(k.tag(tag), 10, 64)
		if err != nil {
			return 0 // it is for people; machine.json has it
		}
		return n
	}
	s := backup.Snapshot{
		ID: k.tag(tagID), Machine: k.tag(tagMachine), Host: k.Source.Host, At: k.StartTime.ToTime().UTC(),
		Bundle: k.tag(tagBundle), Live: k.tag(tagLive) == "true", Whole: k.tag(tagWhole) == "true",
		Size: number(tagSize), Read: number(tagRead), Stored: number(tagStored),
	}
	if hold, err := strconv.ParseFloat(k.tag(tagHold), 64); err == nil {
		s.HoldMS = hold
	}
	if p, err := backup.ParseLogPosition(k.tag(tagLog)); err == nil {
		s.Log = &p // else it is in no log
	}
	return s
}

// facts are the tags of a backup.
func facts(id string, m *backup.Manifest) map[string]string {
	tags := map[string]string{
		tagKind: kindBackup, tagMachine: m.Machine, tagID: id, tagBundle: m.Bundle.Digest,
		tagWhole: strconv.FormatBool(m.Bundle.Whole), tagLive: strconv.FormatBool(m.Live),
		tagSize: strconv.FormatInt(m.Disk.Size, 10), tagRead: strconv.FormatInt(m.Disk.Used(), 10),
		tagStored: strconv.FormatInt(m.Stored, 10), tagHold: strconv.FormatFloat(m.HoldMS, 'f', 1, 64),
	}
	if m.Log != nil {
		tags[tagLog] = m.Log.String()
	}
	return tags
}

// source is where the snapshots of a machine stand in the repository.
func source(r repo.Repository, elements ...string) snapshot.SourceInfo {
	o := r.ClientOptions()
	return snapshot.SourceInfo{Host: o.Hostname, UserName: o.Username, Path: path.Join(append([]string{"/"}, elements...)...)}
}

// directory gathers the entries of a directory.
type directory struct {
	b  snapshotfs.DirManifestBuilder
	at time.Time
}

func (d *directory) add(name string, kind snapshot.EntryType, size int64, id object.ID, sum *fs.DirectorySummary) {
	mode := snapshot.Permissions(0o600)
	if kind == snapshot.EntryTypeDirectory {
		mode = 0o700
	}
	d.b.AddEntry(&snapshot.DirEntry{Name: name, Type: kind, Permissions: mode, FileSize: size, ModTime: fs.UTCTimestampFromTime(d.at), ObjectID: id, DirSummary: sum})
}

// write keeps the directory.
func (d *directory) write(ctx context.Context, w repo.RepositoryWriter, name string) (object.ID, *fs.DirectorySummary, error) {
	m := d.b.Build(fs.UTCTimestampFromTime(d.at), "")
	id, err := snapshotfs.WriteDirManifest(ctx, w, name, m, compressor)
	return id, m.Summary, writeError(err)
}

// file keeps what a reader has.
func (d *directory) file(ctx context.Context, w repo.RepositoryWriter, name string, from io.Reader) error {
	return d.split(ctx, w, name, from, "")
}

// split keeps it in the pieces of a splitter; "" is the repository's own.
func (d *directory) split(ctx context.Context, w repo.RepositoryWriter, name string, from io.Reader, splitter string) error {
	o := w.NewObjectWriter(ctx, object.WriterOptions{Description: "FILE:" + name, Compressor: compressor, MetadataCompressor: compressor, Splitter: splitter})
	defer o.Close() //nolint:errcheck // Result has its error
	source := &reading{r: from}
	size, err := io.Copy(o, source)
	if source.err != nil {
		return fault.Errorf(fault.Environment, "reading %s: %w", name, source.err)
	}
	if err != nil {
		return writeError(err)
	}
	id, err := o.Result()
	if err != nil {
		return writeError(err)
	}
	d.add(name, snapshot.EntryTypeFile, size, id, nil)
	return nil
}

// reading tells the error of a source from that of where it goes.
type reading struct {
	r   io.Reader
	err error
}

func (s *reading) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	if err != nil && err != io.EOF { //nolint:errorlint // a Reader's own
		s.err = err
	}
	return n, err
}

// save enters a snapshot: from then on it is there.
func save(ctx context.Context, w repo.RepositoryWriter, at snapshot.SourceInfo, d *directory, root object.ID, sum *fs.DirectorySummary, tags map[string]string, text string) error {
	m := &snapshot.Manifest{
		Source: at, Description: text, StartTime: fs.UTCTimestampFromTime(d.at), EndTime: fs.UTCTimestampFromTime(w.Time()), Tags: tags,
		Stats: snapshot.Stats{TotalFileSize: sum.TotalFileSize, TotalFileCount: int32(sum.TotalFileCount), TotalDirectoryCount: int32(sum.TotalDirCount)},
		RootEntry: &snapshot.DirEntry{
			Name: path.Base(at.Path), Type: snapshot.EntryTypeDirectory, Permissions: 0o700,
			ModTime: fs.UTCTimestampFromTime(d.at), ObjectID: root, DirSummary: sum,
		},
	}
	if _, err := snapshot.SaveSnapshot(ctx, w, m); err != nil {
		return writeError(err)
	}
	return writeError(w.Flush(ctx))
}

// maxDirectory bounds the text of a directory that is read, in bytes.
const maxDirectory = 1 << 20

// readDirectory reads the entries of a directory.
func readDirectory(ctx context.Context, r repo.Repository, id object.ID, what string) ([]*snapshot.DirEntry, error) {
	text, err := readObject(ctx, r, id, maxDirectory, what)
	if err != nil {
		return nil, err
	}
	var m snapshot.DirManifest
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, readError(what, err)
	}
	return m.Entries, nil
}

func readObject(ctx context.Context, r repo.Repository, id object.ID, limit int64, what string) ([]byte, error) {
	o, err := r.OpenObject(ctx, id)
	if err != nil {
		return nil, readError(what, err)
	}
	defer o.Close() //nolint:errcheck // it was read
	if o.Length() > limit {
		return nil, fault.Errorf(fault.Verification, "%s has %d bytes, more than %d", what, o.Length(), limit)
	}
	text, err := io.ReadAll(o)
	return text, readError(what, err)
}

// read reads a backup's directory and its manifest, and holds the one to the
// other.
func (k *kept) read(ctx context.Context, r repo.Repository) (*backup.Manifest, error) {
	what := k.name()
	if k.RootEntry == nil || k.RootEntry.Type != snapshot.EntryTypeDirectory {
		return nil, fault.Errorf(fault.Verification, "%s has no directory", what)
	}
	var err error
	if k.entries, err = readDirectory(ctx, r, k.RootEntry.ObjectID, what); err != nil {
		return nil, err
	}
	e, err := k.entry(backup.ManifestFile)
	if err != nil {
		return nil, err
	}
	text, err := readObject(ctx, r, e.ObjectID, backup.MaxManifest, what+": "+backup.ManifestFile)
	if err != nil {
		return nil, err
	}
	m, err := backup.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if m.Machine != k.tag(tagMachine) || m.Bundle.Digest != k.tag(tagBundle) {
		return nil, fault.Errorf(fault.Verification, "%s: its %s is of %s with the bundle %s", what, backup.ManifestFile, m.Machine, m.Bundle.Digest)
	}
	return m, nil
}

func (k kept) name() string { return k.tag(tagMachine) + "@" + k.tag(tagID) }

// entry is a file of the backup.
func (k kept) entry(name string) (*snapshot.DirEntry, error) {
	for _, e := range k.entries {
		if e.Name == name {
			return e, nil
		}
	}
	return nil, fault.Errorf(fault.Verification, "%s has no %s", k.name(), name)
}

// drills are the reports of a machine's drills, oldest first, each held to its
// digest.
func drills(ctx context.Context, r repo.Repository, machine string) ([]backup.Drill, error) {
	list, err := find(ctx, r, kindDrill, machine)
	if err != nil {
		return nil, err
	}
	reports := make([]backup.Drill, 0, len(list))
	for _, k := range list {
		d, err := readDrill(ctx, r, k)
		if err != nil {
			return nil, err
		}
		reports = append(reports, d)
	}
	return reports, nil
}

// maxDrill bounds a report, in bytes.
const maxDrill = 1 << 20

func readDrill(ctx context.Context, r repo.Repository, k kept) (backup.Drill, error) {
	var d backup.Drill
	what := "the report of a drill of " + k.tag(tagMachine)
	if k.RootEntry == nil {
		return d, fault.Errorf(fault.Verification, "%s has no directory", what)
	}
	entries, err := readDirectory(ctx, r, k.RootEntry.ObjectID, what)
	if err != nil {
		return d, err
	}
	k.entries = entries
	e, err := k.entry(backup.DrillFile)
	if err != nil {
		return d, err
	}
	text, err := readObject(ctx, r, e.ObjectID, maxDrill, what)
	if err != nil {
		return d, err
	}
	if err := json.Unmarshal(text, &d); err != nil {
		return d, readError(what, err)
	}
	return d, d.Check()
}

// saveDrill keeps a report.
func saveDrill(ctx context.Context, r repo.Repository, d *backup.Drill) error {
	former, err := find(ctx, r, kindDrill, d.Machine)
	if err != nil {
		return err
	}
	previous := ""
	if len(former) > 0 {
		last, err := readDrill(ctx, r, former[len(former)-1])
		if err != nil {
			return err
		}
		previous = last.Digest
	}
	if err := d.Seal(previous); err != nil {
		return err
	}
	text, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return fault.Wrap(fault.Internal, err)
	}
	return writeSession(ctx, r, "drill", nil, func(ctx context.Context, w repo.RepositoryWriter) error {
		dir := &directory{at: d.At}
		if err := dir.file(ctx, w, backup.DrillFile, bytes.NewReader(append(text, '\n'))); err != nil {
			return err
		}
		root, sum, err := dir.write(ctx, w, "/")
		if err != nil {
			return err
		}
		result := "failed"
		if d.Passed {
			result = "passed"
		}
		tags := map[string]string{tagKind: kindDrill, tagMachine: d.Machine, tagID: newID(), "tag:of": d.Snapshot, "tag:result": result}
		return save(ctx, w, source(r, "drills", d.Machine), dir, root, sum, tags, "drill of "+d.Machine+"@"+d.Snapshot+": "+result)
	})
}

// writeSession is kopia's, with our errors. sent takes what is sent, in bytes.
func writeSession(ctx context.Context, r repo.Repository, purpose string, sent func(int64), f func(ctx context.Context, w repo.RepositoryWriter) error) error {
	if sent == nil {
		sent = func(int64) {}
	}
	return writeError(repo.WriteSession(ctx, r, repo.WriteSessionOptions{Purpose: purpose, OnUpload: sent}, f))
}
