package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/flock"
)

// Free space, in MiB. The runtime refuses to start below the first; the second
// is a database's beginning. A first build leaves nearly 5 GB in the cache.
const (
	leastState = 64
	goodState  = 2 << 10
	leastCache = 1 << 10
	goodCache  = 6 << 10
)

// stateDir checks that the directory can hold what an instance has: private
// files, sparse ones, locks and sockets, that a power cut does not take away.
func (e *examiner) stateDir() {
	const check = "state directory"
	const mend = "set XDG_STATE_HOME to a directory of your own on a local disk"
	if err := os.MkdirAll(e.StateDir, 0o700); err != nil {
		e.add(ForRun, check, Missing, err.Error(), mend)
		return
	}
	info, err := os.Stat(e.StateDir)
	if err != nil {
		e.add(ForRun, check, Missing, err.Error(), mend)
		return
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != e.uid {
		e.add(ForRun, check, Missing, fmt.Sprintf("%s belongs to the user %d, and this is %d", e.StateDir, st.Uid, e.uid), mend)
		return
	}
	st, err := e.statfs(e.StateDir)
	if err != nil {
		e.add(ForRun, check, Missing, err.Error(), mend)
		return
	}
	kind, why := fileSystem(int64(st.Type))
	switch err := tryFiles(e.StateDir); {
	case err != nil:
		e.add(ForRun, check, Missing, fmt.Sprintf("%s (%s): %v", e.StateDir, kind, err), mend)
	case info.Mode().Perm()&0o077 != 0:
		e.add(ForRun, check, Warning, fmt.Sprintf("%s can be entered by others, mode %04o", e.StateDir, info.Mode().Perm()), "chmod 700 "+e.StateDir)
	case why != "":
		e.add(ForRun, check, Warning, fmt.Sprintf("%s is on %s: %s", e.StateDir, kind, why), mend)
	default:
		e.add(ForRun, check, OK, fmt.Sprintf("%s, on %s", e.StateDir, kind), "")
	}
}

// fileSystem names a type of statfs(2), and says what speaks against it.
func fileSystem(magic int64) (name, why string) {
	const (
		network = "locks and writes there are not sure to last"
		memory  = "it is lost when this machine restarts, databases included"
	)
	switch uint32(magic) {
	case unix.EXT4_SUPER_MAGIC:
		return "ext4", ""
	case unix.XFS_SUPER_MAGIC:
		return "xfs", ""
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs", ""
	case unix.F2FS_SUPER_MAGIC:
		return "f2fs", ""
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlayfs", "a container's own files go when it goes"
	case unix.TMPFS_MAGIC:
		return "tmpfs", memory
	case unix.RAMFS_MAGIC:
		return "ramfs", memory
	case unix.NFS_SUPER_MAGIC:
		return "nfs", network
	case unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC:
		return "smb", network
	case unix.V9FS_MAGIC:
		return "9p", network
	case unix.FUSE_SUPER_MAGIC:
		return "fuse", network
	}
	return fmt.Sprintf("a file system of type %#x", uint32(magic)), ""
}

// tryFiles does in dir what instances do there, and cleans up.
func tryFiles(dir string) (err error) {
	tmp, err := os.MkdirTemp(dir, ".doctor-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	f, err := os.OpenFile(filepath.Join(tmp, "data.img"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	const sparse = 64 << 20
	held, err := flock.Try(f, flock.Exclusive)
	if err == nil && !held {
		err = errors.New("a new file is locked already: locks do not work there")
	}
	err = errors.Join(f.Truncate(sparse), f.Sync(), err)
	info, statErr := f.Stat()
	if err := errors.Join(err, statErr, f.Close()); err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Blocks*512 > sparse/2 {
		return errors.New("it has no sparse files: data disks would take all their room at once")
	}
	return trySocket(tmp)
}

// trySocket listens at a short name: the directory's may be too long for a
// socket's address, which the runtime knows to avoid.
func trySocket(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	l, err := net.Listen("unix", fmt.Sprintf("/proc/self/fd/%d/s", d.Fd()))
	if err != nil {
		return errors.Join(fmt.Errorf("no sockets can be made there: %w", err), d.Close())
	}
	return errors.Join(l.Close(), d.Close())
}

func (e *examiner) stateSpace() {
	e.space(ForRun, "space for data disks", e.StateDir, leastState, goodState, "make room there, or set XDG_STATE_HOME to a larger file system")
}

func (e *examiner) cacheSpace() {
	e.space(ForBuild, "space for the cache", e.CacheDir, leastCache, goodCache, "make room there, or choose another place with --cache-dir; a first build needs about 6 GiB")
}

func (e *examiner) space(what, check, dir string, least, good uint64, mend string) {
	path, st, err := existing(dir, e.statfs)
	if err != nil {
		e.fail(what, check, Missing, &fs.PathError{Op: "statfs", Path: path, Err: err})
		return
	}
	free := st.Bavail * uint64(st.Bsize) >> 20
	text := fmt.Sprintf("%.1f GiB are free at %s", float64(free)/1024, path)
	switch {
	case free < least:
		e.add(what, check, Missing, text, mend)
	case free < good:
		e.add(what, check, Warning, text, mend)
	default:
		e.add(what, check, OK, text, "")
	}
}
