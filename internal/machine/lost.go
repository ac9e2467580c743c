package machine

import (
	"context"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// WaitLost returns when the socket's file is not this listener's any more, with
// an error of class fault.Environment, or when ctx ends, which is none. Waiting
// costs nothing.
func (l *Listener) WaitLost(ctx context.Context) error {
	w, err := newWatcher()
	if err != nil {
		return err
	}
	defer w.Close()
	const gone = unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF
	dir := filepath.Dir(l.path)
	if _, err := w.add(dir, gone|unix.IN_ONLYDIR); err != nil {
		return err
	}
	for !l.Lost() {
		if _, err := w.read(ctx); err != nil || ctx.Err() != nil {
			return err
		}
	}
	return fault.Errorf(fault.Environment, "the socket in %s was removed", dir).
		Hintf("remove a state directory only when its sovereignd has ended")
}
