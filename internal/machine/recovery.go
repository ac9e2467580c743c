package machine

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

const (
	// recoveryFile is an image with logs that the services of a temporary machine
	// replay; while it is there, each start has it in the place of a scratch disk.
	recoveryFile   = "recovery.img"
	recoverySerial = "recovery"
)

// openRecovery opens that image; nil where there is none.
func (i *Instance) openRecovery() (*os.File, error) {
	f, err := os.Open(filepath.Join(i.dir, recoveryFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return f, fault.Wrap(fault.Environment, err)
}

// GiveRecovery gives a temporary machine that is down an image with logs to be
// replayed: the file is the machine's from then on.
func (r *Runtime) GiveRecovery(ctx context.Context, name, image string) error {
	i, unlock, err := r.temporary(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	return atomicfile.Rename(image, filepath.Join(i.dir, recoveryFile))
}

// KeepTemporary makes a temporary machine that is down one of its owner's, which replays
// nothing any more.
func (r *Runtime) KeepTemporary(ctx context.Context, name string) error {
	i, unlock, err := r.temporary(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	if err := os.Remove(filepath.Join(i.dir, recoveryFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.Wrap(fault.Environment, err)
	}
	i.rec.Temporary = false
	return i.saveRecord()
}

// TakeDisk moves the data disk of a temporary machine that is down to a path,
// and returns what is known of it. The machine is of no use then.
func (r *Runtime) TakeDisk(ctx context.Context, name, path string) (fileSystem string, c *runtime.Continuity, err error) {
	i, unlock, err := r.temporary(ctx, name)
	if err != nil {
		return "", nil, err
	}
	defer unlock()
	if i.rec.Continuity != nil {
		c = &i.rec.Continuity.Continuity
	}
	if i.rec.Data != nil {
		fileSystem = i.rec.Data.FileSystem
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", nil, fault.Wrap(fault.Environment, err)
	}
	err = os.Rename(i.dataPath(), path)
	if err != nil { // another file system: its link leads there
		err = copySparse(ctx, i.dataPath(), path)
	}
	if err != nil {
		return "", nil, fault.Wrap(fault.Environment, err)
	}
	return fileSystem, c, syncDirs(filepath.Dir(path))
}

// copySparse copies a file, and leaves out blocks of zeros.
func copySparse(ctx context.Context, from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := out.Truncate(info.Size()); err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for at := int64(0); at < info.Size(); {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n, err := in.ReadAt(buf[:min(int64(len(buf)), info.Size()-at)], at)
		if n == 0 && err != nil {
			return err
		}
		for _, b := range buf[:n] {
			if b != 0 {
				if _, err := out.WriteAt(buf[:n], at); err != nil {
					return err
				}
				break
			}
		}
		at += int64(n)
	}
	return out.Sync()
}

// temporary is a temporary machine that is down, and its lock.
func (r *Runtime) temporary(ctx context.Context, name string) (*Instance, func(), error) {
	unlock, err := r.lock(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	i, err := r.Instance(ctx, name)
	switch {
	case err != nil:
	case !i.rec.Temporary:
		err = fault.Errorf(fault.Internal, "%s is no temporary machine", name)
	case i.Runs():
		err = fault.Errorf(fault.Usage, "%s runs", name)
	}
	if err != nil {
		unlock()
		return nil, nil, err
	}
	return i, unlock, nil
}
