package machine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/machinefile"
	"github.com/sovereign-build/sovereign/pkg/backup/image"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/continuity"
)

// Moved is told how far a copy is, in bytes read of all that is there; it may be
// nil.
type Moved func(done, total int64)

// Clone makes a machine of its own from a copy of another's data disk, bundle and
// options: it has ports and, from its first start on, secrets and a history of
// its own. It is wanted down. The other machine may run: then its guest takes a
// snapshot. Interrupted, Clone leaves nothing that is an instance.
func (r *Runtime) Clone(ctx context.Context, name, newName string, moved Moved) (info runtime.SnapshotInfo, err error) {
	i, err := r.Instance(ctx, name)
	if err != nil {
		return info, err
	}
	if i.rec.Active == "" {
		return info, notInstalled(name)
	}
	s, err := r.stage(ctx, newName)
	if err != nil {
		return info, err
	}
	rec, m, err := i.copyInto(ctx, s, moved, &info)
	if err != nil {
		return info, errors.Join(err, s.abort())
	}
	rec.Clone, rec.Continuity = continuity.NewID(), nil
	return info, s.commit(rec, m)
}

func notInstalled(name string) error {
	return fault.Errorf(fault.Usage, "%s is not installed: it was started from a bundle's directory by an older version", name).
		Hintf("install it: sovereign-build up %s", name)
}

// copyInto copies the machine's bundle and its disk as it is now.
func (i *Instance) copyInto(ctx context.Context, s *staged, moved Moved, info *runtime.SnapshotInfo) (rec record, m *bundle.Manifest, err error) {
	slot := i.rec.Active
	dir := i.slotDir(slot)
	if m, err = loadSlot(dir, i.rec.Slots[slot].Digest); err != nil {
		return rec, nil, err
	}
	for _, a := range m.Artifacts {
		if err := copyArtifact(ctx, filepath.Join(s.slot(), a.File), filepath.Join(dir, a.File)); err != nil {
			return rec, nil, err
		}
		if err := bundle.VerifyArtifact(ctx, s.slot(), a); err != nil {
			return rec, nil, i.damaged(slot, err)
		}
	}
	if err := copyArtifact(ctx, filepath.Join(s.slot(), bundle.ManifestFile), filepath.Join(dir, bundle.ManifestFile)); err != nil {
		return rec, nil, err
	}
	rec = i.copied()
	err = i.withImage(ctx, func(ctx context.Context, snap *Snapshot, im *image.Image) error {
		*info = snap.SnapshotInfo
		used, err := usedBytes(im)
		if err != nil {
			return err
		}
		if err := roomForCopy(s.dir, used); err != nil {
			return err
		}
		f, err := os.OpenFile(filepath.Join(s.dir, dataFile), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return fault.Wrap(fault.Environment, err)
		}
		err = writeImage(ctx, f, im, snap.Size, counting(moved, used))
		if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
			return copyError(ctx, err)
		}
		rec.Continuity = nil
		if c := snap.Continuity; c != nil {
			rec.Continuity = &Witnessed{Continuity: *c, Time: snap.At.Truncate(time.Second)}
		}
		return nil
	})
	return rec, m, err
}

// writeImage makes an empty file of the size one with what is in an image.
func writeImage(ctx context.Context, f *os.File, im *image.Image, size int64, moved func(int64)) error {
	if err := f.Truncate(size); err != nil {
		return err
	}
	return machinefile.Pieces(ctx, im, moved, func(off int64, b []byte) error {
		_, err := f.WriteAt(b, off)
		return err
	})
}

// copied is the part of a record that a copy of the machine has too.
func (i *Instance) copied() record {
	active := i.rec.Slots[i.rec.Active]
	options := i.rec.Options
	options.Ports = nil // the loopback ports are the other's
	policy := i.rec.Policy
	rec := record{Created: time.Now().UTC().Truncate(time.Second), Machine: MachineID{Arch: i.rec.Machine.Arch},
		installed: installed{Wanted: Down, Policy: policy, Options: options, Active: "a",
			Release: i.trusted(), Slots: map[SlotName]Slot{"a": newSlot(active.Digest, active.Source)}}}
	if d := i.rec.Data; d != nil {
		rec.Data = &DataDisk{Since: rec.Created, FileSystem: d.FileSystem}
	}
	return rec
}

// withImage reads the disk as it is now, and holds what was read to what the
// guest says of it at the end. Reading ends when the snapshot is of no use any
// more.
func (i *Instance) withImage(ctx context.Context, read func(context.Context, *Snapshot, *image.Image) error) (err error) {
	s, err := i.Snapshot(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	im, err := s.Image()
	if err != nil {
		return err
	}
	reading, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-s.Done():
			cancel(s.Err())
		case <-reading.Done():
		}
	}()
	if err := read(reading, s, im); err != nil {
		if lost := s.Err(); lost != nil {
			return lost
		}
		return err
	}
	return s.Check(ctx, im)
}

func usedBytes(im *image.Image) (n int64, err error) {
	ranges, err := im.Ranges()
	for _, r := range ranges {
		n += r.Length
	}
	return n, fault.Wrap(fault.Environment, err)
}

// roomForCopy checks that there is room for a copy, and for what else happens.
func roomForCopy(dir string, need int64) error {
	at, free, err := roomAt(dir)
	if err != nil || free >= need+minFree {
		return err
	}
	return fault.Errorf(fault.Environment, "the file system of %s is full: %d MiB are free, and %d MiB are needed", at, free>>20, (need+minFree)>>20).
		Hintf("make room there")
}

func counting(moved Moved, total int64) func(int64) {
	if moved == nil {
		return nil
	}
	done := int64(0)
	return func(n int64) {
		done += n
		moved(done, total)
	}
}

// copyError gives an error of a copy its class.
func copyError(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT):
		return fault.Errorf(fault.Environment, "the file system is full: %w", err).Hintf("make room there")
	}
	return fault.Wrap(fault.Environment, err)
}

// exported is what a machine's file says of it beside its bundle and its disk.
type exported struct {
	Options    Options    `json:"options"`
	Policy     Policy     `json:"policy"`
	Source     string     `json:"source,omitempty"` // of its bundle
	FileSystem string     `json:"file_system,omitempty"`
	Since      time.Time  `json:"since,omitzero"`
	Continuity *Witnessed `json:"continuity,omitempty"`
}

// Export writes a machine to w: its bundle, its options and its data disk as it
// is now, and with that its secrets. Where it fails it says so in the file, if
// it can.
func (r *Runtime) Export(ctx context.Context, name string, w io.Writer) error {
	i, err := r.Instance(ctx, name)
	if err != nil {
		return err
	}
	if i.rec.Active == "" {
		return notInstalled(name)
	}
	dir := i.slotDir(i.rec.Active)
	m, err := loadSlot(dir, i.rec.Slots[i.rec.Active].Digest)
	if err != nil {
		return i.damaged(i.rec.Active, err)
	}
	return i.withImage(ctx, func(ctx context.Context, s *Snapshot, im *image.Image) error {
		used, err := usedBytes(im)
		if err != nil {
			return err
		}
		rec := i.copied()
		x := exported{Options: i.rec.Options, Policy: rec.Policy, Source: rec.Slots["a"].Source}
		if d := i.rec.Data; d != nil {
			x.FileSystem, x.Since = d.FileSystem, d.Since
		}
		if c := s.Continuity; c != nil {
			x.Continuity = &Witnessed{Continuity: *c, Time: s.At.Truncate(time.Second)}
		}
		text, err := json.Marshal(x)
		if err != nil {
			return err
		}
		out, err := machinefile.NewWriter(w, machinefile.Head{Name: name, Made: s.At.Truncate(time.Second), Size: s.Size, Used: used,
			Bundle: i.rec.Slots[i.rec.Active].Digest, Machine: text})
		if err != nil {
			return err
		}
		err = i.exportBundle(out, dir, m)
		if err == nil {
			err = out.Image(ctx, im, nil)
		}
		if err == nil {
			err = s.Check(ctx, im)
		}
		if lost := s.Err(); lost != nil && err != nil {
			err = lost
		}
		return errors.Join(err, out.Close(err))
	})
}

func (i *Instance) exportBundle(out *machinefile.Writer, dir string, m *bundle.Manifest) error {
	names := []string{bundle.ManifestFile}
	for _, a := range m.Artifacts {
		names = append(names, a.File)
	}
	for _, name := range names {
		f, err := openArtifact(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		info, err := f.Stat()
		if err == nil {
			err = out.File(name, info.Size(), f)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// Imported says what an import has made.
type Imported struct {
	Name string `json:"name"`
	From string `json:"from"` // the machine's name in the file
	Size int64  `json:"size"` // of its data disk, bytes
}

// Import makes a machine from what Export wrote. An empty name is the file's. It
// has the secrets and the history of the other one, unless clone makes it a
// machine of its own; it is wanted down. Interrupted, or from a file that is not
// whole, it leaves nothing that is an instance.
func (r *Runtime) Import(ctx context.Context, name string, clone bool, in io.Reader) (Imported, error) {
	s := &importing{ctx: ctx, r: r, name: name}
	err := machinefile.Read(in, s)
	if s.data != nil {
		err = errors.Join(err, s.data.Sync(), s.data.Close())
	}
	if s.staged == nil {
		return Imported{}, err
	}
	if err == nil {
		err = s.verify()
	}
	if err != nil {
		return Imported{}, errors.Join(copyError(ctx, err), s.staged.abort())
	}
	rec := record{Created: time.Now().UTC().Truncate(time.Second), Machine: MachineID{Arch: s.manifest.Arch},
		Data: &DataDisk{Since: s.rest.Since, FileSystem: s.rest.FileSystem}, Continuity: s.rest.Continuity,
		installed: installed{Wanted: Down, Policy: s.rest.Policy, Options: s.rest.Options, Active: "a",
			Slots: map[SlotName]Slot{"a": newSlot(s.head.Bundle, s.rest.Source)}}}
	if rec.Data.Since.IsZero() {
		rec.Data.Since = rec.Created
	}
	maps.DeleteFunc(rec.Options.Ports, func(guest, _ int) bool { _, ok := s.manifest.Port(guest); return !ok })
	if clone {
		rec.Clone, rec.Continuity, rec.Options.Ports = continuity.NewID(), nil, nil
	}
	return Imported{s.staged.name, s.head.Name, s.head.Size}, s.staged.commit(rec, s.manifest)
}

// importing is the sink of an import.
type importing struct {
	ctx      context.Context
	r        *Runtime
	name     string
	staged   *staged
	head     machinefile.Head
	rest     exported
	data     *os.File
	manifest *bundle.Manifest
}

func (s *importing) Head(h machinefile.Head) error {
	d := json.NewDecoder(bytes.NewReader(h.Machine))
	d.DisallowUnknownFields()
	if err := d.Decode(&s.rest); err != nil {
		return fault.Errorf(fault.Verification, "the file of the machine: %w", err).Hintf("use the version of this program that wrote it")
	}
	if s.head = h; s.name == "" {
		s.name = h.Name
	}
	var err error
	if s.staged, err = s.r.stage(s.ctx, s.name); err != nil {
		return err
	}
	if err := roomForCopy(s.staged.dir, h.Used); err != nil {
		return err
	}
	s.data, err = os.OpenFile(filepath.Join(s.staged.dir, dataFile), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		err = s.data.Truncate(h.Size)
	}
	return fault.Wrap(fault.Environment, err)
}

func (s *importing) File(name string, size int64, r io.Reader) error {
	f, err := os.OpenFile(filepath.Join(s.staged.slot(), name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Sync(), f.Close())
}

func (s *importing) Data(off int64, b []byte) error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	_, err := s.data.WriteAt(b, off)
	return err
}

// verify holds the bundle to its manifest, and that to the head.
func (s *importing) verify() error {
	dir := s.staged.slot()
	m, err := loadSlot(dir, s.head.Bundle)
	if err != nil {
		return err
	}
	if err := bundle.Verify(s.ctx, dir); err != nil {
		return err
	}
	s.manifest = m
	if len(m.Artifacts) == 0 {
		return fault.Errorf(fault.Verification, "the file of the machine has a bundle without files")
	}
	return checkOptions(UpOptions{MemoryMiB: s.rest.Options.MemoryMiB, CPUs: s.rest.Options.CPUs, Ports: s.rest.Options.Ports}, s.staged.name, m)
}

// Rename gives a machine that is down another name. Interrupted anywhere it has
// the one or the other.
func (r *Runtime) Rename(ctx context.Context, name, newName string) error {
	if !nameForm.MatchString(newName) {
		return fault.Errorf(fault.Usage, "%q cannot be an instance's name", newName).
			Hintf("use lower case letters, digits and dashes, beginning with a letter, at most 32")
	}
	if _, err := r.Instance(ctx, name); err != nil {
		return err
	}
	if name == newName {
		return nil
	}
	// Looked at before, so that of two renames that wait for each other's lock
	// there is one at most: the new name is locked first, as by Clone.
	if err := r.absent(newName); err != nil {
		return err
	}
	for _, n := range []string{newName, name} {
		unlock, err := r.lockBoth(ctx, n)
		if err != nil {
			return err
		}
		defer unlock()
	}
	i, err := r.load(name)
	if err != nil {
		return err
	}
	if err := i.renamable(ctx); err != nil {
		return err
	}
	if err := r.absent(newName); err != nil {
		return err
	}
	// The record says first what is to be: the directory's name alone decides.
	i.rec.Renamed = newName
	if err := i.saveRecord(); err != nil {
		return err
	}
	to := r.instanceDir(newName)
	if err := atomicfile.Rename(i.dir, to); err != nil {
		return err
	}
	r.did("renamed instance")
	if i, err = r.load(newName); err != nil {
		return err
	}
	return i.saveRecord()
}

func (i *Instance) renamable(ctx context.Context) error {
	_, alive, err := i.running(ctx)
	switch {
	case err != nil:
		return err
	case alive || i.rec.Wanted == Up:
		return fault.Errorf(fault.Usage, "%s is up, and a machine that is cannot be renamed", i.Name()).
			Hintf("take it down first: sovereign-build down %s", i.Name())
	}
	return nil
}

// takeName completes a rename that was interrupted behind the directory's.
func (i *Instance) takeName(name string) bool {
	if i.rec.Renamed != name || i.rec.Name == name {
		return false
	}
	i.rec.Name, i.rec.Renamed = name, ""
	if i.rec.Active != "" {
		i.rec.Bundle.Path = i.slotDir(i.rec.Active)
	}
	return true
}
