package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
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
	// Keep is the name that the present disk gets; "" where there is none.
	Keep string `json:"keep,omitempty"`
	// FileSystem is the new disk's UUID, as DataDisk has it.
	FileSystem string `json:"file_system,omitempty"`
	From       string `json:"from"` // what was restored, for people
}

// A Staging is a place for the disk of a machine, and for a bundle's files,
// that are being restored. Close gives it up, unless it was used.
type Staging struct {
	r      *Runtime
	name   string
	dir    string
	disk   string
	unlock func()
}

// Disk is the file that is to be made: a whole image, on the host's disk.
func (s *Staging) Disk() string { return s.disk }

// BundleDir is the directory that is to be made for a bundle's files.
func (s *Staging) BundleDir() string { return filepath.Join(s.dir, "bundle") }

// StageNew makes a place for a machine that is not there yet. One that is, or a
// data disk that Remove has kept, is an error (fault.Usage).
func (r *Runtime) StageNew(ctx context.Context, name string) (*Staging, error) {
	if !nameForm.MatchString(name) {
		return nil, fault.Errorf(fault.Usage, "%q cannot be an instance's name", name).
			Hintf("use lower case letters, digits and dashes, beginning with a letter, at most 32")
	}
	s, err := r.stageDisk(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := r.vacant(name); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, s.make("")
}

// vacant says whether nothing has a name.
func (r *Runtime) vacant(name string) error {
	_, err := os.Lstat(filepath.Join(r.instanceDir(name), recordFile))
	switch {
	case err == nil:
		return fault.Errorf(fault.Usage, "there is a machine %s already", name).Hintf("choose another name")
	case !errors.Is(err, fs.ErrNotExist):
		return fault.Wrap(fault.Environment, err)
	case r.keptData(name):
		return fault.Errorf(fault.Usage, "a machine %s was removed, and its data disk kept", name).
			Hintf("choose another name; or, when it is not needed: sovereign-build remove %s --data", name)
	}
	return nil
}

// StageInPlace makes a place for another disk of a machine, on the file system
// of the one it has.
func (r *Runtime) StageInPlace(ctx context.Context, name string) (*Staging, error) {
	i, err := r.Instance(ctx, name)
	if err != nil {
		return nil, err
	}
	s, err := r.stageDisk(ctx, name)
	if err != nil {
		return nil, err
	}
	target, err := filepath.EvalSymlinks(i.dataPath())
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && target == i.dataPath():
		target, err = "", nil
	case err == nil:
		target += ".restored-" + stamp(time.Now())
	}
	if err == nil {
		err = s.make(target)
	}
	if err != nil {
		return nil, errors.Join(fault.Wrap(fault.Environment, err), s.Close())
	}
	return s, nil
}

func stamp(t time.Time) string { return t.UTC().Format("20060102T150405Z") }

func (r *Runtime) stageDisk(ctx context.Context, name string) (*Staging, error) {
	unlock, err := r.lock(ctx, name+".restore")
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(r.instanceDir(name), stagingDir)
	return &Staging{r: r, name: name, dir: dir, disk: filepath.Join(dir, dataFile), unlock: unlock}, nil
}

// make makes the empty place. A target is where the image itself is to lie.
func (s *Staging) make(target string) error {
	i, err := s.r.load(s.name)
	if err == nil && i.rec.Swap != nil {
		return fault.Errorf(fault.Usage, "%s is being restored from %s", s.name, i.rec.Swap.From).Hintf("try again in a moment")
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.clear(); err != nil {
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

// clear removes what is in the place, and the image where a link leads.
func (s *Staging) clear() error {
	return removeStaging(s.dir)
}

func removeStaging(dir string) error {
	if target, err := os.Readlink(filepath.Join(dir, dataFile)); err == nil && filepath.IsAbs(target) && strings.Contains(filepath.Base(target), ".restored-") {
		if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fault.Wrap(fault.Environment, err)
		}
	}
	return fault.Wrap(fault.Environment, os.RemoveAll(dir))
}

// Close gives the place up: what is there and no record's is removed.
func (s *Staging) Close() error {
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
	if err := s.clear(); err != nil {
		return err
	}
	// One that was made for this alone is empty now.
	if err := os.Remove(s.r.instanceDir(s.name)); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) && !errors.Is(err, unix.ENOTEMPTY) {
		return fault.Wrap(fault.Environment, err)
	}
	return nil
}

// Restored is what a new machine is made of.
type Restored struct {
	// Bundle is a bundle, and Digest its manifest's.
	Bundle Source
	Digest string
	// Options are every start's. Isolated is in them.
	Options    Options
	FileSystem string // the disk's UUID
	From       string // what was restored, for people
	// Temporary: it is nobody's, and goes when whoever made it does.
	Temporary bool
}

// Install makes a machine of what was staged, wanted down. Killed anywhere, it
// leaves either no machine or that one.
func (s *Staging) Install(ctx context.Context, o Restored) error {
	dir, m, digest, err := readBundle(o.Bundle.Dir)
	if err != nil {
		return err
	}
	o.Bundle.Dir = dir
	if digest != o.Digest {
		return fault.Errorf(fault.Verification, "%s: expected the bundle %s, got %s", dir, o.Digest, digest)
	}
	for _, lock := range []string{s.name + ".copy", s.name} {
		unlock, err := s.r.lock(ctx, lock)
		if err != nil {
			return err
		}
		defer unlock()
	}
	if err := s.r.vacant(s.name); err != nil {
		return err
	}
	i, err := s.r.instance(s.name)
	if err != nil {
		return err
	}
	copied, err := i.copyBundle(ctx, o.Bundle, m)
	if err != nil {
		return err
	}
	if err := i.putSlot(copied, "a"); err != nil {
		return err
	}
	if err := syncDirs(s.dir, filepath.Dir(s.disk)); err != nil {
		return err
	}
	i.manifest = m
	i.rec.Bundle = BundleRef{Path: i.slotDir("a"), Digest: digest}
	i.rec.Slots, i.rec.Active = map[SlotName]Slot{"a": newSlot(digest, o.Bundle.from())}, "a"
	i.rec.Wanted, i.rec.Policy, i.rec.Options, i.rec.Temporary = Down, DefaultPolicy(), o.Options, o.Temporary
	i.rec.Swap = &swap{FileSystem: o.FileSystem, From: o.From}
	if err := i.save(); err != nil {
		return err
	}
	return i.finishSwap(time.Now())
}

// Replace puts the staged disk in the place of the machine's, which stays under
// the name that is returned. A machine that runs is shut down first, and is
// wanted as before. Killed anywhere, the machine has the one disk or the other,
// and the next step finishes what was begun.
func (s *Staging) Replace(ctx context.Context, fileSystem, from string) (kept string, err error) {
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
	w := &swap{FileSystem: fileSystem, From: from}
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
	staged := filepath.Join(i.dir, stagingDir, dataFile)
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
	i.rec.Data, i.rec.NewData, i.rec.Swap = &DataDisk{Since: now.UTC().Truncate(time.Second), FileSystem: w.FileSystem}, false, nil
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

// SweepStaging removes what restores have left that were killed.
func (r *Runtime) SweepStaging(ctx context.Context) error {
	entries, err := os.ReadDir(filepath.Join(r.dir, "instances"))
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	for _, e := range entries {
		if !nameForm.MatchString(e.Name()) {
			continue
		}
		if _, err := os.Lstat(filepath.Join(r.instanceDir(e.Name()), stagingDir)); err != nil {
			continue
		}
		s, err := r.stageDisk(ctx, e.Name())
		if err != nil {
			return err
		}
		if err := s.Close(); err != nil {
			return fmt.Errorf("what a restore of %s left: %w", e.Name(), err)
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
