package machine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

const (
	// stagingDir is where a disk is made that is to be a machine's, in the
	// instance's directory.
	stagingDir = "restore"
	// beforePrefix begins the name of a disk whose place another has taken.
	beforePrefix = dataFile + ".before-"
)

// swap is the record's word that a disk is whole, in stagingDir, and takes the
// place of the machine's. From its writing on, whoever has the lock finishes it.
type swap struct {
	// Staged is the new disk's name in the instance's directory; "" is that of
	// a restore.
	Staged string `json:"staged,omitempty"`
	// Keep is the name that the present disk gets; "" where there is none.
	Keep string `json:"keep,omitempty"`
	// FileSystem is the new disk's UUID, as DataDisk has it.
	FileSystem string `json:"file_system,omitempty"`
	// Continuity is where that disk is in its history.
	Continuity *runtime.Continuity `json:"continuity,omitempty"`
	From       string              `json:"from"` // what was restored, for people
}

// A Place is where a disk is restored to, and a bundle's files. Close gives it
// up, unless it was used.
type Place interface {
	// Disk is the file that is to be made: a whole image, on the host's disk.
	Disk() string
	// BundleDir is the directory that may be made for a bundle's files.
	BundleDir() string
	Close() error
}

// Restored is what a new machine is made of, beside its disk.
type Restored struct {
	// Bundle is a bundle, and Digest its manifest's.
	Bundle Source
	Digest string
	// Options are every start's. Isolated is in them.
	Options    Options
	FileSystem string // the disk's UUID
	// Continuity is where the disk is in its history; nil where that is not
	// known.
	Continuity *runtime.Continuity
	// GivenUp is where another copy of it is that its owner knows to be newer;
	// nil for none.
	GivenUp *runtime.Continuity
	// Temporary: it is nobody's, and goes when whoever made it does.
	Temporary bool
}

// A NewMachine is one that is being restored.
type NewMachine struct{ s *staged }

// StageNew begins a machine that is not there yet. One that is, or a data disk
// that Remove has kept, is an error (fault.Usage).
func (r *Runtime) StageNew(ctx context.Context, name string) (*NewMachine, error) {
	s, err := r.stage(ctx, name)
	if err != nil {
		return nil, err
	}
	return &NewMachine{s}, nil
}

// Disk implements Place.
func (n *NewMachine) Disk() string { return filepath.Join(n.s.dir, dataFile) }

// BundleDir implements Place.
func (n *NewMachine) BundleDir() string { return filepath.Join(n.s.dir, stagingDir) }

// Close implements Place.
func (n *NewMachine) Close() error {
	if n.s == nil {
		return nil
	}
	s := n.s
	n.s = nil
	return s.abort()
}

// Commit makes it a machine, wanted down. Killed anywhere, it leaves either none
// or that one.
func (n *NewMachine) Commit(ctx context.Context, o Restored) error {
	s := n.s
	dir, m, digest, err := readBundle(o.Bundle.Dir)
	if err != nil {
		return err
	}
	o.Bundle.Dir = dir
	if digest != o.Digest {
		return fault.Errorf(fault.Verification, "%s: expected the bundle %s, got %s", dir, o.Digest, digest)
	}
	for _, a := range m.Artifacts {
		if err := o.Bundle.put(ctx, s.slot(), a.File); err != nil {
			return err
		}
		if err := bundle.VerifyArtifact(ctx, s.slot(), a); err != nil {
			return err
		}
	}
	if err := o.Bundle.put(ctx, s.slot(), bundle.ManifestFile); err != nil {
		return err
	}
	if err := os.RemoveAll(n.BundleDir()); err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	now := time.Now().UTC().Truncate(time.Second)
	n.s = nil // commit ends it, whatever comes of it
	return s.commit(record{
		Created: now, Temporary: o.Temporary, Data: &DataDisk{Since: now, FileSystem: o.FileSystem}, Continuity: remembered(o.Continuity, now), GivenUp: remembered(o.GivenUp, now),
		installed: installed{Wanted: Down, Policy: DefaultPolicy(), Options: o.Options, Active: "a", Slots: map[SlotName]Slot{"a": newSlot(digest, o.Bundle.from())}},
	}, m)
}

// remembered is what is known of a restored disk's history: what it says itself
// is held to that at its first start.
func remembered(c *runtime.Continuity, now time.Time) *Witnessed {
	if c == nil {
		return nil
	}
	return &Witnessed{Continuity: *c, Time: now}
}

// An OtherDisk is one that is to take the place of a machine's.
type OtherDisk struct {
	r      *Runtime
	name   string
	dir    string
	disk   string
	unlock func()
}

// Disk implements Place.
func (s *OtherDisk) Disk() string { return s.disk }

// BundleDir implements Place: nothing uses it.
func (s *OtherDisk) BundleDir() string { return filepath.Join(s.dir, "bundle") }

// StageInPlace makes a place for another disk of a machine, on the file system
// of the one it has.
func (r *Runtime) StageInPlace(ctx context.Context, name string) (*OtherDisk, error) {
	i, err := r.Instance(ctx, name)
	if err != nil {
		return nil, err
	}
	s, err := r.otherDisk(ctx, name)
	if err != nil {
		return nil, err
	}
	target, err := filepath.EvalSymlinks(i.dataPath())
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && target == i.dataPath():
		target, err = "", nil
	case err == nil:
		target += restoredMark + stamp(time.Now())
	}
	if err == nil {
		err = s.make(target)
	}
	if err != nil {
		return nil, errors.Join(fault.Wrap(fault.Environment, err), s.Close())
	}
	return s, nil
}

// restoredMark is in the name of an image that a link leads to.
const restoredMark = ".restored-"

func stamp(t time.Time) string { return t.UTC().Format("20060102T150405Z") }

func (r *Runtime) otherDisk(ctx context.Context, name string) (*OtherDisk, error) {
	unlock, err := r.lock(ctx, name+".restore")
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(r.instanceDir(name), stagingDir)
	return &OtherDisk{r: r, name: name, dir: dir, disk: filepath.Join(dir, dataFile), unlock: unlock}, nil
}

// make makes the empty place. A target is where the image itself is to lie.
func (s *OtherDisk) make(target string) error {
	i, err := s.r.load(s.name)
	if err != nil {
		return err
	}
	if i.rec.Swap != nil {
		return fault.Errorf(fault.Usage, "%s is being restored from %s", s.name, i.rec.Swap.From).Hintf("try again in a moment")
	}
	if err := removeStaging(s.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	if target != "" {
		if err := os.Symlink(target, filepath.Join(s.dir, dataFile)); err != nil {
			return fault.Wrap(fault.Environment, err)
		}
		s.disk = target
	}
	return nil
}

// removeStaging removes what is in such a place, and the image where a link of
// ours leads.
func removeStaging(dir string) error {
	if target, err := os.Readlink(filepath.Join(dir, dataFile)); err == nil && filepath.IsAbs(target) && strings.Contains(filepath.Base(target), restoredMark) {
		if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fault.Wrap(fault.Environment, err)
		}
	}
	return fault.Wrap(fault.Environment, os.RemoveAll(dir))
}

// Close implements Place.
func (s *OtherDisk) Close() error {
	if s.unlock == nil {
		return nil
	}
	defer func() { s.unlock(); s.unlock = nil }()
	i, err := s.r.load(s.name)
	switch {
	case err == nil && i.rec.Swap != nil:
		return nil // it is to be finished
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return removeStaging(s.dir)
}

// Replace puts the staged disk in the place of the machine's, which stays under
// the name that is returned. A machine that runs is shut down first, and is
// wanted as before. Killed anywhere, the machine has the one disk or the other,
// and the next step finishes what was begun.
func (s *OtherDisk) Replace(ctx context.Context, fileSystem string, c *runtime.Continuity, from string) (kept string, err error) {
	unlock, err := s.r.lock(ctx, s.name)
	if err != nil {
		return "", err
	}
	defer unlock()
	i, err := s.r.load(s.name)
	if err != nil {
		return "", err
	}
	if i.rec.Trial != nil {
		return "", fault.Errorf(fault.Usage, "the %s of %s is not over yet", i.rec.Trial.Kind, s.name).
			Hintf("see sovereign-build status %s", s.name)
	}
	if err := syncDirs(s.dir, filepath.Dir(s.disk)); err != nil {
		return "", err
	}
	now := time.Now()
	w := &swap{FileSystem: fileSystem, Continuity: c, From: from}
	if _, err := os.Lstat(i.dataPath()); err == nil {
		w.Keep = beforePrefix + stamp(now)
		if _, err := os.Lstat(filepath.Join(i.dir, w.Keep)); err == nil {
			return "", fault.Errorf(fault.Environment, "%s is there already", w.Keep).Hintf("try again in a second")
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", fault.Wrap(fault.Environment, err)
	}
	i.rec.Swap = w
	if err := i.saveRecord(); err != nil {
		return "", err
	}
	if _, err := i.stop(ctx, DefaultGrace); err != nil {
		return "", err
	}
	i.rec.Process, i.proc = nil, vm.Process{}
	if err := i.finishSwap(now); err != nil {
		return "", err
	}
	if w.Keep != "" {
		kept = filepath.Join(i.dir, w.Keep)
	}
	return kept, nil
}

// finishSwap does what is left to do of the record's swap: each line below is
// either done, or is not. The machine does not run, and the caller has the lock.
func (i *Instance) finishSwap(now time.Time) error {
	w := i.rec.Swap
	staged := filepath.Join(i.dir, cmp.Or(w.Staged, filepath.Join(stagingDir, dataFile)))
	if _, err := os.Lstat(staged); err == nil {
		if w.Keep != "" {
			if err := i.keepDisk(w.Keep); err != nil {
				return err
			}
		}
		if err := atomicfile.Rename(staged, i.dataPath()); err != nil {
			return err
		}
		if err := syncDirs(filepath.Dir(staged)); err != nil {
			return err
		}
		i.r.did("new disk")
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fault.Wrap(fault.Environment, err)
	}
	now = now.UTC().Truncate(time.Second)
	i.rec.Data, i.rec.NewData, i.rec.Swap = &DataDisk{Since: now, FileSystem: w.FileSystem}, false, nil
	i.rec.giveUp(i.rec.Continuity)
	i.rec.Continuity, i.rec.Clone = remembered(w.Continuity, now), ""
	if err := i.saveRecord(); err != nil {
		return err
	}
	return fault.Wrap(fault.Environment, os.RemoveAll(filepath.Join(i.dir, stagingDir)))
}

// keepDisk gives the present disk another name, if it has not got it already.
func (i *Instance) keepDisk(name string) error {
	kept := filepath.Join(i.dir, name)
	if _, err := os.Lstat(kept); !errors.Is(err, fs.ErrNotExist) {
		return fault.Wrap(fault.Environment, err)
	}
	err := atomicfile.Rename(i.dataPath(), kept)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it went meanwhile, and the record has said so
	}
	i.r.did("old disk")
	return err
}

// FormerDisks are the disks whose place others have taken, oldest first.
func (i *Instance) FormerDisks() ([]string, error) {
	entries, err := os.ReadDir(i.dir) // sorted
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	var list []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), beforePrefix) {
			list = append(list, filepath.Join(i.dir, e.Name()))
		}
	}
	return list, nil
}

// ForgetFormerDisks removes them, also where a link leads, and says how many.
func (i *Instance) ForgetFormerDisks(ctx context.Context) (int, error) {
	unlock, err := i.r.lock(ctx, i.Name())
	if err != nil {
		return 0, err
	}
	defer unlock()
	now, err := i.r.load(i.Name())
	if err != nil {
		return 0, err
	}
	if now.rec.Swap != nil {
		return 0, fault.Errorf(fault.Usage, "%s is being restored", i.Name()).Hintf("try again in a moment")
	}
	list, err := now.FormerDisks()
	for n, path := range list {
		if err := removeImage(path); err != nil {
			return n, err
		}
	}
	return len(list), err
}

// removeImage removes an image, and what it leads to where it is a link.
func removeImage(path string) error {
	image, err := filepath.EvalSymlinks(path)
	if err == nil && image != path {
		err = os.Remove(image)
	}
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.Wrap(fault.Environment, err)
	}
	return nil
}

// SweepRestores removes what restores have left that were killed.
func (r *Runtime) SweepRestores(ctx context.Context) error {
	entries, err := os.ReadDir(filepath.Join(r.dir, "instances"))
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	for _, e := range entries {
		name, begun := strings.CutPrefix(e.Name(), copying)
		switch {
		case !nameForm.MatchString(name):
		case begun:
			s, err := r.stage(ctx, name)
			if fault.ClassOf(err) == fault.Usage {
				continue // it has come to be, by another
			}
			if err == nil {
				err = s.abort()
			}
			if err != nil {
				return err
			}
		default:
			if _, err := os.Lstat(filepath.Join(r.instanceDir(name), stagingDir)); err != nil {
				continue
			}
			s, err := r.otherDisk(ctx, name)
			if err != nil {
				return err
			}
			if err := s.Close(); err != nil {
				return fmt.Errorf("what a restore of %s left: %w", name, err)
			}
		}
	}
	return nil
}

// Temporary are the machines that nobody has made for himself.
func (r *Runtime) Temporary() ([]string, error) {
	names, err := r.Names()
	if err != nil {
		return nil, err
	}
	var list []string
	for _, name := range names {
		if i, err := r.load(name); err == nil && i.rec.Temporary {
			list = append(list, name)
		} // one that cannot be read is told of where it is kept
	}
	return list, nil
}

// Discard ends a temporary machine at once and removes all of it. It returns
// when nothing is left.
func (r *Runtime) Discard(ctx context.Context, name string) error {
	i, err := r.load(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !i.rec.Temporary {
		return fault.Errorf(fault.Internal, "%s is no temporary machine", name)
	}
	unlock, err := r.lock(ctx, name)
	if err != nil {
		return err
	}
	err = i.discard(ctx)
	unlock()
	if err != nil {
		return err
	}
	_, err = r.Remove(ctx, name, true)
	return err
}

func (i *Instance) discard(ctx context.Context) error {
	now, err := i.r.load(i.Name())
	if err != nil {
		return err
	}
	process, alive, err := now.running(ctx)
	if err != nil {
		return err
	}
	if alive {
		if err := now.cutPower(ctx, process); err != nil {
			return err
		}
	}
	now.rec.Wanted, now.rec.Process = Down, nil
	return now.saveRecord()
}

// ActiveBundle is the directory and the digest of the bundle that is installed;
// without one it is an error of class fault.Usage.
func (i *Instance) ActiveBundle() (dir string, m *bundle.Manifest, digest string, err error) {
	if i.rec.Active == "" {
		return "", nil, "", fault.Errorf(fault.Usage, "%s is not installed", i.Name()).Hintf("install it with sovereign-build up %s", i.Name())
	}
	dir, digest = i.slotDir(i.rec.Active), i.rec.Slots[i.rec.Active].Digest
	m, err = loadSlot(dir, digest)
	return dir, m, digest, err
}

// FindBundle is a slot of any machine with a bundle; "" where none has it.
func (r *Runtime) FindBundle(digest string) (dir string, err error) {
	names, err := r.Names()
	if err != nil {
		return "", err
	}
	for _, name := range names {
		i, err := r.load(name)
		if err != nil {
			continue // it is told of where it is kept
		}
		for slot, s := range i.rec.Slots {
			if s.Digest != digest {
				continue
			}
			if _, err := loadSlot(i.slotDir(slot), digest); err == nil {
				return i.slotDir(slot), nil
			}
		}
	}
	return "", nil
}
