package machine

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/sovereign-build/sovereign/internal/flock"
	"github.com/sovereign-build/sovereign/internal/process"
	"github.com/sovereign-build/sovereign/internal/sovereignd"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// keepLimit is how long a new sovereignd waits for an old one that is
// about to end.
const keepLimit = 10 * time.Second

// keeperLock is the name of sovereignd's lock, as older versions know it.
const keeperLock = ".supervisor"

// Keep makes the caller the one sovereignd of the state directory and listens at
// its socket. Closing the listener ends that. While another program is it, that is
// an error of class fault.Usage.
func (r *Runtime) Keep(ctx context.Context) (*Listener, error) {
	limit, cancel := context.WithTimeout(ctx, keepLimit)
	defer cancel()
	unlock, err := lockFile(limit, filepath.Join(r.dir, "locks", keeperLock))
	if err != nil {
		if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			return nil, fault.Errorf(fault.Usage, "another sovereignd keeps the machines of %s", r.dir).
				Hintf("end that one first, or let it do the work")
		}
		return nil, err
	}
	l, err := listen(filepath.Join(r.dir, sovereignd.Socket))
	if err != nil {
		unlock()
		return nil, err
	}
	r.keeps.Store(true)
	l.unlock = func() {
		r.keeps.Store(false)
		unlock()
	}
	return l, nil
}

// kept says whether there is a sovereignd for the state directory, this program
// or another.
func (r *Runtime) kept() (bool, error) {
	if r.keeps.Load() {
		return true, nil
	}
	l, err := flock.Open(filepath.Join(r.dir, "locks", keeperLock))
	if err != nil {
		return false, err
	}
	defer l.Close()
	free, err := l.Try(flock.Shared)
	return !free, err
}

// ListenGuest listens at GuestSocket of an instance. Only sovereignd may.
func (i *Instance) ListenGuest() (*Listener, error) {
	l, err := listen(filepath.Join(i.dir, GuestSocket))
	if l != nil {
		l.asks = true
	}
	return l, err
}

// Listener is a socket file for this user only.
type Listener struct {
	net.Listener
	path   string
	info   os.FileInfo
	unlock func()
	asks   bool // who connects: see Accept
}

// listen makes the socket, in the place of one that a killed program left.
func listen(path string) (*Listener, error) {
	l, err := process.Listen(path)
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		return nil, fault.Wrap(fault.Environment, errors.Join(err, l.Close()))
	}
	return &Listener{Listener: l, path: path, info: info, unlock: func() {}}, nil
}

// Accept waits for the next connection. A guest's is that of this user or root:
// where sockets have no files, rights keep nobody out. Sovereignd's own asks for
// itself, and says whom it turns away.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil || !l.asks {
			return conn, err
		}
		cred, err := sovereignd.Peer(conn)
		if err == nil && sovereignd.Trusted(cred.Uid) {
			return conn, nil
		}
		conn.Close()
	}
}

// Lost says whether the file is not this listener's any more: somebody removed
// the directory.
func (l *Listener) Lost() bool {
	info, err := os.Lstat(l.path)
	return errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(info, l.info)
}

// Close ends the listener and removes its file.
func (l *Listener) Close() error {
	defer l.unlock()
	var err error
	if !l.Lost() {
		err = os.Remove(l.path)
	}
	return errors.Join(err, l.Listener.Close())
}
