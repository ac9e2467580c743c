package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/datadisk"
)

// minFree is the room that must be left where the data disk lies. The image is
// sparse, so that a full file system shows only when the guest writes: the
// hypervisor then stops the machine until there is room.
const minFree = 64 << 20

// DataDisk is what a record keeps of the data disk once there was one, so that
// no blank or other disk takes its place unasked.
type DataDisk struct {
	// Since is when the image was made, or first found.
	Since time.Time `json:"since"`
	// FileSystem is the UUID of the ext4 that the guest has made on it, by
	// which a copy that was put back is the same disk. Empty until it is known.
	FileSystem string `json:"file_system,omitempty"`
}

func (i *Instance) dataPath() string { return filepath.Join(i.dir, dataFile) }

// hadData says whether there was a data disk before. Records of schema 2 did
// not tell, but no machine was ever started without one.
func (i *Instance) hadData() bool {
	return !i.rec.NewData && (i.rec.Data != nil || !i.rec.Machine.Started.IsZero())
}

// openData opens the data disk and notes in the record what is known of it.
// Where there never was one, or a new one was asked for, it is made: blank,
// sparse, of the manifest's size. One that exists is never replaced and never
// truncated, whatever its size; the guest formats only what is blank. One that
// was there and is not, or is another, is an error of class fault.Environment.
func (i *Instance) openData(now time.Time) (f *os.File, err error) {
	path := i.dataPath()
	f, err = os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return i.absentData(now)
	}
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
			f = nil
		}
	}()
	if err := roomFor(path, i.startRoom()); err != nil {
		return f, err
	}
	info, err := f.Stat()
	if err != nil {
		return f, fault.Wrap(fault.Environment, err)
	}
	switch {
	case !info.Mode().IsRegular():
		return f, fault.Errorf(fault.Environment, "the data disk %s is not a regular file", path).Hintf("put the image back, or a link to it")
	case info.Size() == 0 && i.hadData():
		return f, i.missingData("%s is empty", path)
	case info.Size() == 0:
		// What a power cut left between creation and growth.
		return f, i.blankData(f, now)
	}
	return f, i.knowData(f, now)
}

// absentData makes the data disk of a machine that never had one.
func (i *Instance) absentData(now time.Time) (*os.File, error) {
	path := i.dataPath()
	target, linkErr := os.Readlink(path)
	switch {
	case i.rec.NewData:
	case linkErr == nil:
		return nil, i.missingData("%s leads to %s, where nothing is", path, target)
	case i.hadData():
		return nil, i.missingData("%s does not exist", path)
	}
	if err := roomFor(path, i.startRoom()); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	if err := i.blankData(f, now); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// missingData is the error of a disk that is not there.
func (i *Instance) missingData(format string, args ...any) error {
	what := "the data disk of " + i.Name() + " is not there"
	if d := i.rec.Data; d != nil {
		what += ", which it has had since " + d.Since.Format(time.DateOnly)
	}
	return fault.Errorf(fault.Environment, what+": "+format, args...).
		Hintf("attach what it lies on, or put it back; only to begin with a new, empty one: sovereign-build up %s --new-data", i.Name())
}

// blankData makes an empty file the image of a blank disk.
func (i *Instance) blankData(f *os.File, now time.Time) error {
	if err := errors.Join(f.Truncate(i.manifest.VM.Data.Size), f.Sync()); err != nil {
		return fault.Errorf(fault.Environment, "making the data disk %s of %d bytes: %w", f.Name(), i.manifest.VM.Data.Size, err).
			Hintf("use a file system that has room for it: set XDG_STATE_HOME")
	}
	// Its name must be on the disk before a record says that it is there.
	at, err := filepath.EvalSymlinks(f.Name())
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	if err := atomicfile.SyncDir(filepath.Dir(at)); err != nil {
		return err
	}
	i.r.did("data disk")
	if i.rec.NewData {
		i.rec.giveUp(i.rec.Continuity)
		i.rec.Continuity = nil
	}
	i.rec.Data, i.rec.NewData = &DataDisk{Since: now}, false
	return nil
}

// knowData holds an image that exists to what the record says, and notes what
// that does not say yet.
func (i *Instance) knowData(f *os.File, now time.Time) error {
	id, err := fileSystem(f)
	if err != nil {
		return err
	}
	if i.rec.NewData {
		i.rec.giveUp(i.rec.Continuity)
		i.rec.Data, i.rec.Continuity, i.rec.NewData = nil, nil, false
	}
	d := i.rec.Data
	switch {
	case d == nil:
		i.rec.Data = &DataDisk{Since: now, FileSystem: id}
	case d.FileSystem == "":
		i.rec.Data = &DataDisk{Since: d.Since, FileSystem: id}
	case d.FileSystem != id:
		found := "the file system " + id
		if id == "" {
			found = "no file system"
		}
		return fault.Errorf(fault.Environment, "the data disk %s is another one: %s has had the file system %s since %s, and this image has %s",
			f.Name(), i.Name(), d.FileSystem, d.Since.Format(time.DateOnly), found).
			Hintf("put the right image back; only to go on with this one: sovereign-build up %s --new-data", i.Name())
	}
	return nil
}

// fileSystem returns the UUID of the ext4 on an image; "" where there is none,
// or one that is only half made, which the guest will make anew.
func fileSystem(f *os.File) (string, error) {
	info, err := f.Stat()
	if err != nil {
		return "", fault.Wrap(fault.Environment, err)
	}
	if info.Size() < datadisk.MinSize {
		return "", nil
	}
	c, err := datadisk.Inspect(f, info.Size())
	if err != nil {
		return "", fault.Wrap(fault.Environment, err)
	}
	if c.Kind != datadisk.Ext4 {
		return "", nil
	}
	var id [16]byte
	const superblock, uuid = 1024, 0x68 // fs/ext4/ext4.h
	if _, err := f.ReadAt(id[:], superblock+uuid); err != nil {
		return "", fault.Wrap(fault.Environment, err)
	}
	if id == ([16]byte{}) {
		return "", nil
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:]), nil
}

// newFileSystem is the UUID that the record does not have yet; "" where the
// record has it, or the image none.
func (i *Instance) newFileSystem() (string, error) {
	if d := i.rec.Data; d == nil || d.FileSystem != "" {
		return "", nil
	}
	f, err := os.Open(i.dataPath())
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // the next start says so
	}
	if err != nil {
		return "", fault.Wrap(fault.Environment, err)
	}
	defer f.Close()
	return fileSystem(f)
}

// roomFor checks that there is room where the data disk lies.
func roomFor(path string, least int64) error {
	at, free, err := roomAt(path)
	if err != nil || free >= least {
		return err
	}
	return fault.Errorf(fault.Environment, "the file system of %s is full: %d MiB are free, and the data disk needs %d to begin with",
		at, free>>20, least>>20).Hintf("make room there, or set XDG_STATE_HOME to a larger file system")
}

// roomAt returns the bytes that are free in the file system of an image, which
// may be a link to another one, or not be there yet; at names the place.
func roomAt(path string) (at string, free int64, err error) {
	at = path
	if target, err := os.Readlink(path); err == nil {
		if at = target; !filepath.IsAbs(target) {
			at = filepath.Join(filepath.Dir(path), target)
		}
	}
	var st unix.Statfs_t
	err = unix.Statfs(path, &st)
	if errors.Is(err, unix.ENOENT) {
		at = filepath.Dir(at)
		err = unix.Statfs(at, &st)
	}
	if err != nil {
		return at, 0, fault.Wrap(fault.Environment, &fs.PathError{Op: "statfs", Path: at, Err: err})
	}
	return at, int64(st.Bavail) * int64(st.Bsize), nil
}
