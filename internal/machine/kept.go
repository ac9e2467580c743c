package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/backup/image"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

// keptFile is the copy of the data disk from before an update, or a link to it.
// It is whole when the record has it, and else left over.
const keptFile = dataFile + ".kept"

// keptMark is in the name of a copy that a link leads to.
const keptMark = ".kept-"

func (i *Instance) keptPath() string { return filepath.Join(i.dir, keptFile) }

// keep copies the data disk of a machine that is down: by sharing its blocks
// where the file system can, and else all that is not zero of it.
func (i *Instance) keep(ctx context.Context, now time.Time) (k *Kept, err error) {
	if err := i.roomToKeep(); err != nil {
		return nil, err
	}
	data, err := os.Open(i.dataPath())
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	defer data.Close()
	out, err := i.createKept(now)
	if err != nil {
		return nil, err
	}
	if err := copyDisk(ctx, out, data); err != nil {
		return nil, errors.Join(err, out.Close(), removeImage(i.keptPath()))
	}
	used, err := allocated(out.Name())
	err = errors.Join(err, out.Close())
	if err == nil {
		err = syncDirs(i.dir, filepath.Dir(out.Name()))
	}
	if err != nil {
		return nil, fault.Wrap(fault.Environment, errors.Join(err, removeImage(i.keptPath())))
	}
	i.r.did("kept disk")
	k = &Kept{Time: now, Bundle: i.rec.Slots[i.rec.Active].Digest, Size: used}
	if d := i.rec.Data; d != nil {
		k.FileSystem = d.FileSystem
	}
	if c := i.rec.Continuity; c != nil {
		k.Continuity = &c.Continuity
	}
	return k, nil
}

// createKept makes the empty file, beside the image where the disk is a link.
func (i *Instance) createKept(now time.Time) (*os.File, error) {
	if err := removeImage(i.keptPath()); err != nil {
		return nil, err
	}
	path, err := filepath.EvalSymlinks(i.dataPath())
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	to := i.keptPath()
	if info, err := os.Lstat(i.dataPath()); err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	} else if info.Mode()&fs.ModeSymlink != 0 {
		to = path + keptMark + stamp(now)
		// First the link: what it leads to is never without it.
		if err := os.Symlink(to, i.keptPath()); err != nil {
			return nil, fault.Wrap(fault.Environment, err)
		}
	}
	f, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	return f, fault.Wrap(fault.Environment, err)
}

// copyDisk makes an empty file a copy of a disk that nobody writes to.
func copyDisk(ctx context.Context, out, data *os.File) error {
	if shares(out, data) {
		return fault.Wrap(fault.Environment, out.Sync())
	}
	info, err := data.Stat()
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	im, err := image.Open(data, nil, info.Size())
	if err == nil {
		err = writeImage(ctx, out, im, info.Size(), nil)
	}
	return copyError(ctx, errors.Join(err, out.Sync()))
}

// shares makes a file one with the blocks of another, where their file system
// can.
func shares(out, data *os.File) bool {
	return unix.IoctlFileClone(int(out.Fd()), int(data.Fd())) == nil
}

// allocated is what a file takes of its file system, in bytes.
func allocated(path string) (int64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, fault.Wrap(fault.Environment, &fs.PathError{Op: "stat", Path: path, Err: err})
	}
	return st.Blocks * 512, nil
}

// roomToKeep checks that there is room for a copy of the data disk. One that is
// there makes room for the next.
func (i *Instance) roomToKeep() error {
	need, err := allocated(i.dataPath())
	if err != nil {
		return err
	}
	at, free, err := roomAt(i.dataPath())
	if err != nil {
		return err
	}
	if former, err := allocated(i.keptPath()); err == nil {
		free += former
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if free >= need+minFree {
		return nil
	}
	// Where blocks are shared, less will do.
	shared, err := i.canShare()
	if err != nil || shared && free >= minFree {
		return err
	}
	return fault.Errorf(fault.Environment, "the file system of %s is full: %d MiB are free, and a copy of the data disk of %s needs %d", at, free>>20, i.Name(), (need+minFree)>>20).
		Hintf("make room there, or update without --snapshot")
}

// canShare tries it.
func (i *Instance) canShare() (bool, error) {
	path, err := filepath.EvalSymlinks(i.dataPath())
	if err != nil {
		return false, fault.Wrap(fault.Environment, err)
	}
	data, err := os.Open(path)
	if err != nil {
		return false, fault.Wrap(fault.Environment, err)
	}
	defer data.Close()
	trial := path + keptMark + "trial"
	out, err := os.OpenFile(trial, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return false, fault.Wrap(fault.Environment, err)
	}
	shared := shares(out, data)
	return shared, fault.Wrap(fault.Environment, errors.Join(out.Close(), os.Remove(trial)))
}

// swapKept is the word that the kept copy takes the place of the data disk.
func (i *Instance) swapKept(now time.Time) *swap {
	k := i.rec.Kept
	return &swap{Staged: keptFile, Keep: beforePrefix + stamp(now), FileSystem: k.FileSystem, Continuity: k.Continuity,
		From: "the copy of " + k.Time.Format(time.RFC3339)}
}

// backFrom is the word that undoes swapKept.
func (i *Instance) backFrom(former string) *swap {
	w := &swap{Staged: former, Keep: keptFile, FileSystem: i.rec.Kept.FileSystem, From: "before the rollback"}
	if c := i.rec.GivenUp; c != nil {
		w.Continuity = &c.Continuity
	}
	return w
}

// ForgetKept removes the copy of the data disk from before the last update, and
// says what it took, in bytes. Where there is none that is no error.
func (r *Runtime) ForgetKept(ctx context.Context, name string) (int64, error) {
	if _, err := r.Instance(ctx, name); err != nil {
		return 0, err
	}
	unlock, err := r.lock(ctx, name)
	if err != nil {
		return 0, err
	}
	defer unlock()
	i, err := r.load(name)
	if err != nil {
		return 0, err
	}
	if t := i.rec.Trial; t != nil && t.Data != "" || i.rec.Swap != nil {
		return 0, fault.Errorf(fault.Usage, "the copy is needed, until the update or rollback of %s is over", name).
			Hintf("see sovereign-build status %s", name)
	}
	if i.rec.Kept == nil {
		return 0, i.dropKept()
	}
	size := i.rec.Kept.Size
	return size, i.dropKept()
}

// dropKept forgets the copy first, and then removes it.
func (i *Instance) dropKept() error {
	if i.rec.Kept != nil {
		i.rec.Kept = nil
		if err := i.saveRecord(); err != nil {
			return err
		}
	}
	return removeImage(i.keptPath())
}

// keptFor checks that there is a copy to go back to with a bundle.
func (i *Instance) keptFor(digest string) error {
	k := i.rec.Kept
	switch {
	case k == nil:
		return fault.Errorf(fault.Usage, "%s has no copy of its data from before the last update", i.Name()).
			Hintf("go back without it: sovereign-build rollback %s; or to a backup: sovereign-build restore %s --in-place", i.Name(), i.Name())
	case k.Bundle != digest:
		return fault.Errorf(fault.Usage, "the copy of the data of %s was used by the bundle %.19s…, and the one before is %.19s…", i.Name(), k.Bundle, digest).
			Hintf("go back without it: sovereign-build rollback %s", i.Name())
	}
	if _, err := os.Stat(i.keptPath()); err != nil {
		return fault.Errorf(fault.Environment, "the copy of the data of %s from before the last update is not there: %w", i.Name(), err).
			Hintf("attach what it lies on")
	}
	return nil
}

// keepData is the act before an update's first start. A copy that cannot be made
// ends the update, before anything has touched the disk.
func (i *Instance) keepData(ctx context.Context, now time.Time) (did string, err error) {
	i.r.report(i.Name(), Event{Phase: PhaseStart, Text: "keeping a copy of the data disk of " + i.Name()})
	k, err := i.keep(ctx, now)
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if err != nil {
		i.rec.Trial.Why = "the data disk could not be copied: " + err.Error()
		return i.rec.Trial.Kind + " failed: " + i.rec.Trial.Why, i.saveRecord()
	}
	i.rec.Kept, i.rec.Trial.Data = k, runtime.DataKept
	return fmt.Sprintf("kept a copy of the data disk: %d MiB", k.Size>>20), i.saveRecord()
}
