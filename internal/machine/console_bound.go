package machine

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/flock"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

const (
	// maxConsole is the size, in bytes, at which the console's log is moved to
	// olderConsole, which is as large at most. A guest may print without end,
	// and the host's room is the room of every machine's data disk.
	maxConsole   = 4 << 20
	olderConsole = vm.ConsoleFile + ".0" // the older part of this start's
	formerSuffix = ".1"                  // of the start before
)

// consoleFiles are the parts of what the guest has printed since its start.
func (i *Instance) consoleFiles() []string {
	return []string{filepath.Join(i.dir, olderConsole), i.ConsoleFile()}
}

// BoundConsole keeps the log of a machine's console from growing without end:
// whoever watches a machine calls it every moment. It does nothing while another
// program is busy with the instance.
func (r *Runtime) BoundConsole(name string) error {
	l, err := flock.Open(filepath.Join(r.dir, "locks", name))
	if err != nil {
		return err
	}
	defer l.Close()
	if held, err := l.Try(flock.Exclusive); err != nil || !held {
		return err
	}
	i := &Instance{r: r, dir: r.instanceDir(name)}
	return i.boundConsole(context.Background(), maxConsole)
}

// BoundConsole is the Runtime's for this instance.
func (i *Instance) BoundConsole() error { return i.r.BoundConsole(i.Name()) }

// boundConsole moves the end of a log that is larger than most to the older
// part. The hypervisor has the file open and appends to it. Where the file
// system can cut a file's beginning off, no line is lost; elsewhere what is
// printed between the copy and the cut is. The caller has the lock.
func (i *Instance) boundConsole(ctx context.Context, most int64) error {
	log, err := os.OpenFile(i.ConsoleFile(), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	defer log.Close()
	info, err := log.Stat()
	if err != nil || info.Size() < most {
		return fault.Wrap(fault.Environment, err)
	}
	older := filepath.Join(i.dir, olderConsole)
	err = moveEnd(ctx, older, log, info.Size(), most)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		// On a full host room counts for more than what a guest has printed.
		err = errors.Join(os.Remove(older), log.Truncate(0))
	}
	return fault.Wrap(fault.Environment, err)
}

// blockSize is a multiple of what file systems can cut off a file's beginning.
const blockSize = 64 << 10

// moveEnd makes what a log has of its size, most of it, the content of the
// older part, and cuts it off.
func moveEnd(ctx context.Context, older string, log *os.File, size, most int64) (err error) {
	out, err := os.OpenFile(older, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	cut := (size - 1) / blockSize * blockSize // something must be left
	if err := copyRange(ctx, out, log, max(cut-most, 0), cut); err != nil {
		return err
	}
	if cut > 0 && unix.Fallocate(int(log.Fd()), unix.FALLOC_FL_COLLAPSE_RANGE, 0, cut) == nil {
		return nil
	}
	if size, err = log.Seek(0, io.SeekEnd); err != nil {
		return err
	}
	if err := copyRange(ctx, out, log, max(cut, size-most), size); err != nil {
		return err
	}
	return log.Truncate(0)
}

// copyRange appends the bytes of a file from one offset to another to out.
func copyRange(ctx context.Context, out io.Writer, in io.ReaderAt, from, to int64) error {
	const piece = 1 << 20
	for at := from; at < to; at += piece {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if _, err := io.Copy(out, io.NewSectionReader(in, at, min(piece, to-at))); err != nil {
			return err
		}
	}
	return nil
}

// rotateLogs puts the logs of the last start aside for the next one.
func (i *Instance) rotateLogs() error {
	older := filepath.Join(i.dir, olderConsole)
	if _, err := os.Lstat(older); err == nil {
		if err := joinFiles(older, i.ConsoleFile()); err != nil {
			return fault.Wrap(fault.Environment, err)
		}
		if err := os.Rename(older, i.ConsoleFile()); err != nil {
			return fault.Wrap(fault.Environment, err)
		}
	}
	for _, name := range []string{vm.ConsoleFile, vm.LogFile} {
		path := filepath.Join(i.dir, name)
		if err := os.Rename(path, path+formerSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fault.Wrap(fault.Environment, err)
		}
	}
	return nil
}

// joinFiles appends a file, which need not be there, to another.
func joinFiles(to, from string) (err error) {
	in, err := os.Open(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
