package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/object"
	"github.com/kopia/kopia/snapshot"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/backupjob"
	"github.com/sovereign-build/sovereign/pkg/backup"
	"github.com/sovereign-build/sovereign/pkg/backup/image"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Talk is what a run says and hears while it works.
type Talk struct {
	// Say is told how far it has come, from one goroutine at a time.
	Say func(backupjob.Said)
	// Ask says that a disk has been read, and returns the answer.
	Ask func(ctx context.Context) (backupjob.Answer, error)
}

// Run does a job.
func Run(ctx context.Context, j backupjob.Job, t Talk) (*backupjob.Result, error) {
	begin := time.Now()
	c, err := connect(j.Repository, j.Secrets)
	if err != nil {
		return nil, err
	}
	if j.Verb == backupjob.Init {
		if err := initialize(ctx, c, j.Secrets.Key); err != nil {
			return nil, err
		}
	}
	r, err := open(ctx, c, j, j.Verb == backupjob.Verify || j.Verb == backupjob.Restore || j.Verb == backupjob.Replay)
	if err != nil {
		return nil, err
	}
	v := &vault{r: r, j: j, Talk: t, server: c.server != nil}
	result, err := v.do(ctx)
	// What was written has been flushed, and said so.
	if closeErr := r.Close(context.WithoutCancel(ctx)); err == nil && closeErr != nil {
		err = unreachable(closeErr)
	}
	if err != nil {
		return nil, err
	}
	result.Took = time.Since(begin)
	return result, nil
}

type vault struct {
	Talk
	r      repo.Repository
	j      backupjob.Job
	server bool
}

func (v *vault) do(ctx context.Context) (*backupjob.Result, error) {
	switch v.j.Verb {
	case backupjob.Init:
		return &backupjob.Result{}, writeError(own(ctx, v.r))
	case backupjob.Open:
		return &backupjob.Result{}, nil
	case backupjob.List:
		return v.list(ctx)
	case backupjob.Backup:
		return v.backup(ctx)
	case backupjob.Verify:
		return v.verify(ctx)
	case backupjob.Restore:
		return v.restore(ctx)
	case backupjob.Report:
		return v.report(ctx)
	case backupjob.Keep:
		return v.keep(ctx)
	case backupjob.PutLog:
		return v.putLog(ctx)
	case backupjob.Logs:
		return v.logs(ctx)
	case backupjob.Replay:
		return v.replay(ctx)
	}
	return nil, fault.Errorf(fault.Usage, "%.40q is nothing that %s does", v.j.Verb, backupjob.Program)
}

func (v *vault) progress(done, total int64) { v.Say(backupjob.Said{Done: done, Total: total}) }

func (v *vault) list(ctx context.Context) (*backupjob.Result, error) {
	list, err := find(ctx, v.r, kindBackup, v.j.Machine)
	if err != nil {
		return nil, err
	}
	reports, err := drills(ctx, v.r, v.j.Machine)
	if err != nil {
		return nil, err
	}
	proven := map[string]*backup.Proof{}
	for _, d := range reports {
		if d.Passed {
			proven[d.Machine+"@"+d.Snapshot] = &backup.Proof{At: d.At, Took: d.RestoreS + d.BootS}
		}
	}
	res := &backupjob.Result{Drills: reports}
	for _, k := range list {
		s := k.describe()
		s.Proven = proven[k.name()]
		res.Snapshots = append(res.Snapshots, s)
	}
	return res, nil
}

// backup makes a backup. The order is what makes it safe: the disk, the files,
// the directory, and only then the snapshot that leads there.
func (v *vault) backup(ctx context.Context) (*backupjob.Result, error) {
	m := v.j.Manifest
	if m == nil {
		return nil, fault.Errorf(fault.Usage, "a backup needs a manifest")
	}
	src, err := openDisk(v.j.Disk, v.j.Scratch)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	ranges, err := src.Ranges()
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	m.Schema, m.Host = backup.Schema, v.r.ClientOptions().Hostname
	m.Disk.Size, m.Disk.Pieces = src.Size(), pieces(ranges, src.Size())
	m.Bundle.Whole = len(v.j.BundleFiles) > 0
	id := newID()
	var sent atomic.Int64
	err = writeSession(ctx, v.r, "backup", func(n int64) { sent.Add(n) }, func(ctx context.Context, w repo.RepositoryWriter) error {
		dir := &directory{at: m.Taken}
		d := diskWriter{w: w, splitter: splitter, sent: &sent, progress: v.progress}
		disk, err := d.write(ctx, src, m.Disk.Pieces)
		if err != nil {
			return err
		}
		dir.add(backup.DiskFile, snapshot.EntryTypeFile, m.Disk.Size, disk, nil)
		if err := v.agree(ctx, src, m); err != nil {
			return err
		}
		if err := v.addBundle(ctx, w, dir); err != nil {
			return err
		}
		if err := w.Flush(ctx); err != nil {
			return writeError(err)
		}
		m.Stored = sent.Load()
		text, err := json.MarshalIndent(m, "", " ")
		if err != nil {
			return fault.Wrap(fault.Internal, err)
		}
		if err := dir.file(ctx, w, backup.ManifestFile, bytes.NewReader(append(text, '\n'))); err != nil {
			return err
		}
		root, sum, err := dir.write(ctx, w, "/")
		if err != nil {
			return err
		}
		return save(ctx, w, source(v.r, m.Machine), dir, root, sum, facts(id, m), "")
	})
	if err != nil {
		return nil, err
	}
	// A store may say that it has what it has not. What a backup leads to is
	// looked for before it counts as one.
	k, err := choose(ctx, v.r, m.Machine, id)
	if err != nil {
		return nil, err
	}
	blobs, err := v.blobs(ctx)
	if err != nil {
		return nil, err
	}
	if _, _, err := v.check(ctx, k, blobs, 0); err != nil {
		return nil, err
	}
	return &backupjob.Result{Snapshots: []backup.Snapshot{k.describe()}}, nil
}

// agree has the caller say whether what was read is the disk at one instant.
func (v *vault) agree(ctx context.Context, src *openedDisk, m *backup.Manifest) error {
	if err := src.Check(); err != nil {
		return fault.Errorf(fault.Device, "the snapshot of the disk did not hold: %w", err).Hintf("try again; nothing was kept")
	}
	a, err := v.Ask(ctx)
	if err != nil {
		return err
	}
	if a.Abort != "" {
		return fault.Errorf(fault.Device, "the backup of %s does not count: %s", m.Machine, a.Abort).Hintf("try again; nothing was kept")
	}
	return nil
}

func (v *vault) addBundle(ctx context.Context, w repo.RepositoryWriter, dir *directory) error {
	add := func(to *directory, name, path string) error {
		f, err := os.Open(path)
		if err != nil {
			return fault.Wrap(fault.Environment, err)
		}
		defer f.Close()
		return to.file(ctx, w, name, f)
	}
	if v.j.BundleManifest != "" {
		if err := add(dir, backup.BundleFile, v.j.BundleManifest); err != nil {
			return err
		}
	}
	if len(v.j.BundleFiles) == 0 {
		return nil
	}
	sub := &directory{at: dir.at}
	for name, path := range v.j.BundleFiles {
		if err := add(sub, name, path); err != nil {
			return err
		}
	}
	id, sum, err := sub.write(ctx, w, backup.BundleDir)
	if err != nil {
		return err
	}
	dir.add(backup.BundleDir, snapshot.EntryTypeDirectory, 0, id, sum)
	return nil
}

// openedDisk is a disk's image, with the store of a snapshot over it.
type openedDisk struct {
	*image.Image
	files []*os.File
}

func (d *openedDisk) Close() error {
	var errs []error
	for _, f := range d.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

func openDisk(path, scratch string) (_ *openedDisk, err error) {
	d := &openedDisk{}
	defer func() {
		if err != nil {
			err = errors.Join(fault.Wrap(fault.Environment, err), d.Close())
		}
	}()
	data, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	d.files = append(d.files, data)
	info, err := data.Stat()
	if err != nil {
		return nil, err
	}
	if scratch == "" {
		d.Image, err = image.Open(data, nil, info.Size())
		return d, err
	}
	store, err := os.Open(scratch)
	if err != nil {
		return nil, err
	}
	d.files = append(d.files, store)
	d.Image, err = image.Open(data, store, info.Size())
	return d, err
}

// blobs is what the store has; nil where it cannot be asked.
func (v *vault) blobs(ctx context.Context) (map[blob.ID]blob.Metadata, error) {
	direct, ok := v.r.(repo.DirectRepository)
	if !ok {
		return nil, nil
	}
	m, err := blob.ReadBlobMap(ctx, direct.BlobReader())
	if err != nil {
		return nil, readError("the list of what is there", err)
	}
	return m, nil
}

// check looks for all that a backup leads to, and reads percent of its pieces.
func (v *vault) check(ctx context.Context, k kept, blobs map[blob.ID]blob.Metadata, percent float64) (m *backup.Manifest, read int64, err error) {
	if m, err = k.read(ctx, v.r); err != nil {
		return nil, 0, err
	}
	files := map[string]*snapshot.DirEntry{}
	for _, e := range k.entries {
		files[e.Name] = e
		if e.Type != snapshot.EntryTypeDirectory {
			continue
		}
		below, err := readDirectory(ctx, v.r, e.ObjectID, k.name()+": "+e.Name)
		if err != nil {
			return nil, 0, err
		}
		for _, b := range below {
			files[e.Name+"/"+b.Name] = b
		}
	}
	if files[backup.DiskFile] == nil {
		return nil, 0, fault.Errorf(fault.Verification, "%s has no %s", k.name(), backup.DiskFile)
	}
	for name, e := range files {
		what := k.name() + ": " + name
		if err := v.present(ctx, e.ObjectID, blobs, what); err != nil {
			return nil, 0, err
		}
		if name != backup.DiskFile && e.Type == snapshot.EntryTypeFile && percent > 0 {
			if err := readAll(ctx, v.r, e.ObjectID, what); err != nil {
				return nil, 0, err
			}
		}
	}
	d := m.Disk
	if percent < 100 {
		d.Pieces = slices.DeleteFunc(slices.Clone(d.Pieces), func(backup.Piece) bool { return 100*rand.Float64() >= percent })
	}
	read, err = readPieces(ctx, v.r, files[backup.DiskFile].ObjectID, d, nil, v.progress)
	return m, read, err
}

// present looks whether all of an object is in the repository.
func (v *vault) present(ctx context.Context, id object.ID, blobs map[blob.ID]blob.Metadata, what string) error {
	contents, err := v.r.VerifyObject(ctx, id)
	if err != nil {
		return readError(what, err)
	}
	if blobs == nil {
		return nil
	}
	for _, c := range contents {
		info, err := v.r.ContentInfo(ctx, c)
		if err != nil {
			return readError(what, err)
		}
		b, ok := blobs[info.PackBlobID]
		if end := int64(info.PackOffset) + int64(info.PackedLength); !ok || b.Length < end {
			return fault.Errorf(fault.Verification, "the repository is damaged: %s: the file %s has %d bytes, and %d are needed of it", what, info.PackBlobID, b.Length, end).
				Hintf("restore an older backup, or from another repository; the next backup sends what is missing anew")
		}
	}
	return nil
}

func readAll(ctx context.Context, r repo.Repository, id object.ID, what string) error {
	o, err := r.OpenObject(ctx, id)
	if err != nil {
		return readError(what, err)
	}
	defer o.Close() //nolint:errcheck // it was read
	buffer := make([]byte, 1<<20)
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		switch _, err := o.Read(buffer); {
		case err == nil:
		case strings.Contains(err.Error(), "EOF"):
			return nil
		default:
			return readError(what, err)
		}
	}
}

func (v *vault) verify(ctx context.Context) (*backupjob.Result, error) {
	var list []kept
	var err error
	if v.j.Snapshot != "" {
		var k kept
		k, err = choose(ctx, v.r, v.j.Machine, v.j.Snapshot)
		list = []kept{k}
	} else {
		list, err = find(ctx, v.r, kindBackup, v.j.Machine)
	}
	if err != nil {
		return nil, err
	}
	blobs, err := v.blobs(ctx)
	if err != nil {
		return nil, err
	}
	res := &backupjob.Result{}
	// All of them, so that one that is damaged hides no other.
	var damaged []error
	for _, k := range list {
		_, n, err := v.check(ctx, k, blobs, v.j.Percent)
		res.Read += n
		switch {
		case err == nil:
			res.Checked++
			res.Snapshots = append(res.Snapshots, k.describe())
		case fault.ClassOf(err) == fault.Verification:
			damaged = append(damaged, err)
		default:
			return nil, err
		}
	}
	if _, err := drills(ctx, v.r, v.j.Machine); err != nil {
		damaged = append(damaged, err)
	}
	if v.j.Snapshot == "" {
		n, wrong, err := v.verifyLogs(ctx, v.j.Machine, v.j.Percent)
		if err != nil {
			return nil, err
		}
		res.Read += n
		damaged = append(damaged, wrong...)
	}
	switch {
	case len(damaged) == 1:
		return nil, damaged[0]
	case len(damaged) > 1:
		return nil, fault.Errorf(fault.Verification, "%d of %d backups, and their logs, are damaged: %w", len(damaged), len(list), errors.Join(damaged...)).
			Hintf("restore one that is not, or from another repository")
	}
	return res, nil
}

// restore makes a disk's image, and a directory of the bundle's files. Both are
// whole and on the host's disk, or an error is returned.
func (v *vault) restore(ctx context.Context) (*backupjob.Result, error) {
	k, err := choose(ctx, v.r, v.j.Machine, v.j.Snapshot)
	if err != nil {
		return nil, err
	}
	m, err := k.read(ctx, v.r)
	if err != nil {
		return nil, err
	}
	res := &backupjob.Result{Manifest: m, Snapshots: []backup.Snapshot{k.describe()}}
	if v.j.BundleDir != "" && m.Bundle.Whole {
		if err := v.restoreBundle(ctx, k); err != nil {
			return nil, err
		}
	}
	if v.j.Disk == "" {
		return res, nil
	}
	e, err := k.entry(backup.DiskFile)
	if err != nil {
		return nil, err
	}
	res.Read, err = restoreDisk(ctx, v.r, e.ObjectID, m.Disk, v.j.Disk, v.progress)
	return res, err
}

// maxBundleFile bounds a file of a bundle, in bytes, as the protocol does.
const maxBundleFile = 64 << 30

func (v *vault) restoreBundle(ctx context.Context, k kept) error {
	e, err := k.entry(backup.BundleDir)
	if err != nil {
		return err
	}
	files, err := readDirectory(ctx, v.r, e.ObjectID, k.name()+": "+backup.BundleDir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(v.j.BundleDir, 0o700); err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	for _, f := range files {
		what := k.name() + ": " + f.Name
		if f.Name != filepath.Base(f.Name) || strings.HasPrefix(f.Name, ".") || f.Type != snapshot.EntryTypeFile || f.FileSize > maxBundleFile {
			return fault.Errorf(fault.Verification, "%s is no file of a bundle", what)
		}
		o, err := v.r.OpenObject(ctx, f.ObjectID)
		if err != nil {
			return readError(what, err)
		}
		source := &reading{r: o}
		err = atomicfile.Copy(filepath.Join(v.j.BundleDir, f.Name), source, 0o600)
		o.Close() //nolint:errcheck // it was read
		if source.err != nil {
			return readError(what, source.err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (v *vault) report(ctx context.Context) (*backupjob.Result, error) {
	d := v.j.Drill
	if d == nil {
		return nil, fault.Errorf(fault.Usage, "a report needs a drill")
	}
	d.Host = v.r.ClientOptions().Hostname
	if err := saveDrill(ctx, v.r, d); err != nil {
		return nil, err
	}
	return &backupjob.Result{Drills: []backup.Drill{*d}}, nil
}
