package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/flock"
)

// A session is one Store's use of the directory. It writes down the blobs and
// actions that were put, found or asked for through it, before it looks whether
// they are there: Collect removes none of them, even while it runs.
//
// Two locks keep that right. The file "lock" is held shared for each note, and
// exclusively by Collect while it reads all notes and removes: so what is
// noted after that is not there any more when it is looked for. Each session's
// file is locked by its session: one that nobody holds is of a program that
// has ended, and is removed when no Collect runs, which is what "gc.lock" says.
type session struct {
	dir string

	mu   sync.Mutex
	f    *os.File // digests and keys in hex, one a line; nil where none can be written
	held map[Digest]bool
	// all is held, shared, where a note could not be written, on a full disk:
	// nothing at all is removed then.
	all *flock.Lock
}

const (
	lockFile     = "lock"
	gcLockFile   = "gc.lock"
	sessionsDir  = "sessions"
	sessionStart = "use-"
)

// newSession begins a session. On a file system without locks, or one that
// cannot be written to, it notes nothing: Collect cannot run there.
func newSession(dir string) (*session, error) {
	s := &session{dir: dir, held: map[Digest]bool{}}
	lock, err := s.shared()
	if err != nil || lock == nil {
		return s, err
	}
	f, err := os.CreateTemp(filepath.Join(dir, sessionsDir), sessionStart)
	if fullDisk(err) {
		s.all = lock
		return s, nil
	}
	if err == nil {
		if _, err = flock.Try(f, flock.Exclusive); err != nil {
			err = errors.Join(err, f.Close())
		}
	}
	if err := errors.Join(err, lock.Close()); err != nil {
		return nil, err
	}
	s.f = f
	return s, nil
}

// shared takes the store's lock for a note. Nil is for a place where no notes
// can be taken.
func (s *session) shared() (*flock.Lock, error) {
	// Nothing that Collect does under the exclusive lock takes long.
	lock, err := flock.Acquire(context.Background(), filepath.Join(s.dir, lockFile), flock.Shared)
	if flock.Unsupported(err) || errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrPermission) {
		return nil, nil
	}
	return lock, err
}

// hold notes blobs, and actions by their keys, which have the form of digests.
func (s *session) hold(digests ...Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.f == nil || s.all != nil {
		return nil
	}
	var text strings.Builder
	for _, d := range digests {
		if h := d.Hex(); h != "" && !s.held[d] {
			text.WriteString(h + "\n")
		}
	}
	if text.Len() == 0 {
		return nil
	}
	lock, err := s.shared()
	if err != nil || lock == nil {
		return err
	}
	if _, err = s.f.WriteString(text.String()); fullDisk(err) {
		s.all = lock
		return nil
	}
	if err := errors.Join(err, lock.Close()); err != nil {
		return err
	}
	for _, d := range digests {
		s.held[d] = true
	}
	return nil
}

// close ends the session.
func (s *session) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	if s.f != nil {
		err = s.f.Close()
		s.f = nil
	}
	if s.all != nil {
		err = errors.Join(err, s.all.Close())
		s.all = nil
	}
	return err
}

// Close ends the use of the store: what was found in it may be removed by a
// Collect from now on. A program that ends need not call it.
func (s *Store) Close() error { return s.session.close() }

// recent is the age up to which the time of a blob's last use is not updated.
const recent = time.Hour

// used makes a blob's or an action's time that of its last use. Where that
// cannot be, in another user's store say, its age is that of an earlier use.
func used(path string, info fs.FileInfo) {
	if now := time.Now(); now.Sub(info.ModTime()) > recent {
		_ = os.Chtimes(path, now, now)
	}
}

// notes returns what sessions have noted, and how many sessions
// other than own have not ended. The caller has the exclusive lock.
func (s *Store) notes() (map[Digest]bool, int, error) {
	held := map[Digest]bool{}
	running := 0
	err := s.eachSession(func(path string, f *os.File, ended bool) error {
		if !ended && !s.session.is(f) {
			running++
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			if d := Digest(algorithm + lines.Text()); d.Hex() != "" {
				held[d] = true
			}
		}
		return lines.Err()
	})
	return held, running, err
}

// is tells whether f is the session's own file.
func (s *session) is(f *os.File) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.f == nil {
		return false
	}
	own, err := s.f.Stat()
	other, err2 := f.Stat()
	return err == nil && err2 == nil && os.SameFile(own, other)
}

// removeEnded removes the notes of sessions that have ended. The caller has
// the exclusive lock.
func (s *Store) removeEnded() error {
	return s.eachSession(func(path string, _ *os.File, ended bool) error {
		if !ended {
			return nil
		}
		return os.Remove(path)
	})
}

// eachSession calls fn for each session's file, opened, and says whether its
// session has ended.
func (s *Store) eachSession(fn func(path string, f *os.File, ended bool) error) error {
	dir := filepath.Join(s.dir, sessionsDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), sessionStart) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		ended, err := flock.Try(f, flock.Exclusive)
		if err == nil {
			err = fn(path, f, ended)
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("session %s: %w", path, err)
		}
	}
	return nil
}

// tidy removes the notes of ended sessions, unless a Collect runs, which needs
// them, or locks cannot be had.
func (s *Store) tidy() error {
	gc, err := flock.Open(filepath.Join(s.dir, gcLockFile))
	if err != nil {
		return nil // a store that cannot be written to has nothing to tidy
	}
	defer gc.Close()
	lock, err := flock.Open(filepath.Join(s.dir, lockFile))
	if err != nil {
		return err
	}
	defer lock.Close()
	for _, l := range []*flock.Lock{gc, lock} {
		if held, err := l.Try(flock.Exclusive); err != nil || !held {
			return nil // without locks there are no sessions
		}
	}
	return s.removeEnded()
}
