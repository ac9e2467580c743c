package machine

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// WatchRecords calls changed with the name of each instance whose record has
// been written or removed, by whomever, until ctx ends, which is no error. The
// name is empty where any may have: first of all, when changes are seen from then
// on, and when there were more than the kernel keeps. Waiting costs nothing.
// changed is called by one goroutine at a time.
func (r *Runtime) WatchRecords(ctx context.Context, changed func(name string)) error {
	w, err := newWatcher()
	if err != nil {
		return err
	}
	defer w.Close()
	root := filepath.Join(r.dir, "instances")
	const inRoot = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF
	top, err := w.add(root, inRoot|unix.IN_ONLYDIR)
	if err != nil {
		return err
	}
	names := map[int32]string{}
	// watch begins to watch the directory of an instance, which may be gone.
	watch := func(name string) error {
		const inDir = unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE
		wd, err := w.add(r.instanceDir(name), inDir|unix.IN_ONLYDIR)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			return nil
		}
		names[wd] = name
		return err
	}
	all := func() error {
		entries, err := os.ReadDir(root)
		if err != nil {
			return fault.Wrap(fault.Environment, err)
		}
		for _, e := range entries {
			if nameForm.MatchString(e.Name()) {
				if err := watch(e.Name()); err != nil {
					return err
				}
			}
		}
		changed("")
		return nil
	}
	if err := all(); err != nil {
		return err
	}
	for {
		events, err := w.read(ctx)
		if err != nil || ctx.Err() != nil {
			return err
		}
		for _, e := range events {
			name, known := names[e.wd]
			switch {
			case e.mask&unix.IN_Q_OVERFLOW != 0:
				err = all()
			case e.wd == top && e.mask&(unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_IGNORED) != 0:
				err = fault.Errorf(fault.Environment, "the directory %s was removed", root).
					Hintf("remove a state directory only when its sovereignd has ended")
			case e.wd == top && nameForm.MatchString(e.name):
				err = watch(e.name)
				changed(e.name)
			case known && e.mask&unix.IN_IGNORED != 0:
				delete(names, e.wd)
			case known && e.name == recordFile:
				changed(name)
			}
			if err != nil {
				return err
			}
		}
	}
}

// consolePause is the time between two looks at a console that says something.
const consolePause = 250 * time.Millisecond

// KeepConsole keeps the log of the console of a machine that runs from growing
// without end, until ctx ends, which is no error. A machine that says nothing
// costs nothing.
func (r *Runtime) KeepConsole(ctx context.Context, name string) error {
	i := &Instance{r: r, dir: r.instanceDir(name)}
	w, err := newWatcher()
	if err != nil {
		return err
	}
	defer w.Close()
	if _, err := w.add(i.ConsoleFile(), unix.IN_MODIFY); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // nothing prints to it
		}
		return err
	}
	for {
		looked, err := i.tryBoundConsole()
		if err != nil {
			return err
		}
		if looked {
			if _, err := w.read(ctx); err != nil {
				return err
			}
		}
		// What is printed meanwhile is one event.
		if pause.For(ctx, consolePause) != nil {
			return nil
		}
	}
}

// watcher is an inotify(7) descriptor.
type watcher struct{ *os.File }

type watchEvent struct {
	wd   int32
	mask uint32
	name string // in a directory
}

func newWatcher() (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fault.Errorf(fault.Environment, "watching files: %w", os.NewSyscallError("inotify_init1", err)).
			Hintf("raise the sysctl fs.inotify.max_user_instances, or end programs that watch files")
	}
	return &watcher{os.NewFile(uintptr(fd), "inotify")}, nil
}

// add watches one file or directory more.
func (w *watcher) add(path string, mask uint32) (wd int32, err error) {
	conn, err := w.SyscallConn()
	if err != nil {
		return 0, fault.Wrap(fault.Environment, err)
	}
	var n int
	var addErr error
	if err := conn.Control(func(fd uintptr) { n, addErr = unix.InotifyAddWatch(int(fd), path, mask) }); err != nil {
		return 0, fault.Wrap(fault.Environment, err)
	}
	if errors.Is(addErr, unix.ENOSPC) {
		return 0, fault.Errorf(fault.Environment, "watching %s: there are too many watches", path).
			Hintf("raise the sysctl fs.inotify.max_user_watches, or end programs that watch files")
	}
	if addErr != nil {
		return 0, fault.Wrap(fault.Environment, &fs.PathError{Op: "watch", Path: path, Err: addErr})
	}
	return int32(n), nil
}

// read waits for events. The end of ctx gives none, and no error.
func (w *watcher) read(ctx context.Context) ([]watchEvent, error) {
	stop := context.AfterFunc(ctx, func() {
		// It can only fail on a file that cannot be waited for, and then Read does.
		_ = w.SetReadDeadline(time.Unix(1, 0))
	})
	defer stop()
	buf := make([]byte, 16<<10)
	n, err := w.Read(buf)
	if ctx.Err() != nil {
		return nil, nil
	}
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	return parseEvents(buf[:n]), nil
}

// parseEvents reads what the kernel has written: whole events.
func parseEvents(b []byte) []watchEvent {
	var events []watchEvent
	for len(b) >= unix.SizeofInotifyEvent {
		size := min(int(binary.NativeEndian.Uint32(b[12:])), len(b)-unix.SizeofInotifyEvent)
		name, _, _ := bytes.Cut(b[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+size], []byte{0})
		events = append(events, watchEvent{
			wd: int32(binary.NativeEndian.Uint32(b)), mask: binary.NativeEndian.Uint32(b[4:]), name: string(name),
		})
		b = b[unix.SizeofInotifyEvent+size:]
	}
	return events
}
