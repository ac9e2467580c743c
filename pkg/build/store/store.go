package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/stream"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// staleAfter is the age from which a temporary file that no process holds is
// taken for the remains of a crash. Locks alone would do on a local file
// system; the age is for file systems whose locks do not reach other hosts.
const staleAfter = time.Hour

// Store is a directory of blobs and actions. Its methods may be called from
// any number of goroutines and processes.
type Store struct {
	dir string
	// memory is where actions and names are.
	memory  string
	session *session
}

// Open makes the directory if need be and cleans what a crash left in it.
func Open(dir string) (*Store, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fault.Errorf(fault.Environment, "content store %s: %w", dir, err)
	}
	s := &Store{dir: abs, memory: abs}
	for _, sub := range []string{"blobs/sha256", "actions", "names", "roots", sessionsDir, "tmp"} {
		// One that cannot be written to is still there to be read.
		if err := os.MkdirAll(filepath.Join(abs, sub), 0o755); err != nil && !errors.Is(err, unix.EROFS) {
			return nil, s.environment(fmt.Errorf("content store: %w", err))
		}
	}
	if err := s.clean(time.Now().Add(-staleAfter)); err != nil {
		return nil, s.environment(fmt.Errorf("content store: cleaning %s: %w", s.tmp(), err))
	}
	if err := s.tidy(); err != nil {
		return nil, s.environment(fmt.Errorf("content store: %w", err))
	}
	if s.session, err = newSession(abs); err != nil {
		return nil, s.environment(fmt.Errorf("content store: %w", err))
	}
	return s, nil
}

// Dir is the store's directory, absolute.
func (s *Store) Dir() string { return s.dir }

func (s *Store) tmp() string { return filepath.Join(s.dir, "tmp") }

// Has says whether the blob is there, whole.
func (s *Store) Has(d Digest) bool {
	_, err := s.Size(d)
	return err == nil
}

// Size is the blob's length in bytes; the error is fs.ErrNotExist if it is
// not there.
func (s *Store) Size(d Digest) (int64, error) {
	p := s.Path(d)
	if p == "" {
		return 0, fmt.Errorf("blob %q: %w", d, fs.ErrNotExist)
	}
	if err := s.session.hold(d); err != nil {
		return 0, s.environment(fmt.Errorf("blob %s: %w", d, err))
	}
	info, err := os.Lstat(p)
	if err != nil {
		return 0, fmt.Errorf("blob %s: %w", d, err)
	}
	if !info.Mode().IsRegular() {
		return 0, fmt.Errorf("blob %s: not a regular file: %w", d, fs.ErrNotExist)
	}
	used(p, info)
	return info.Size(), nil
}

// Path is where the blob is or would be: a read-only file, valid while the
// blob is present. It is "" for a malformed digest.
func (s *Store) Path(d Digest) string {
	h := d.Hex()
	if h == "" {
		return ""
	}
	return filepath.Join(s.dir, "blobs", "sha256", h[:2], h)
}

// Open opens the blob for reading; the error is fs.ErrNotExist if it is not
// there.
func (s *Store) Open(d Digest) (*os.File, error) {
	p := s.Path(d)
	if p == "" {
		return nil, fmt.Errorf("blob %q: %w", d, fs.ErrNotExist)
	}
	if err := s.session.hold(d); err != nil {
		return nil, s.environment(fmt.Errorf("blob %s: %w", d, err))
	}
	f, err := os.Open(p)
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	return f, nil
}

// Put stores all of r and returns its digest and length. If want is not empty
// and differs, nothing is kept and the error, of class fault.Verification,
// names both digests. A full disk is fault.Environment, naming the directory
// and what is free.
func (s *Store) Put(ctx context.Context, r io.Reader, want Digest) (Digest, int64, error) {
	w, err := s.Create(ctx)
	if err != nil {
		return "", 0, err
	}
	defer w.Abort()
	if _, err := io.Copy(w, r); err != nil {
		return "", 0, err
	}
	return w.Commit(want)
}

// Adopt moves the file at path into the store, without copying it where the
// file system allows. Nobody may write to the file any more. If want
// is not empty and differs, the file is removed and the error is
// fault.Verification like Put's; after any other error the file is still at
// path.
func (s *Store) Adopt(ctx context.Context, path string, want Digest) (Digest, int64, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return "", 0, fault.Errorf(fault.Environment, "storing %s: %w", path, err)
	}
	defer f.Close() // only read and synced through this handle
	h := sha256.New()
	n, err := io.Copy(h, stream.WithContext(ctx, f))
	if err != nil {
		return "", 0, fault.Wrap(fault.Environment, fmt.Errorf("storing %s: %w", path, err))
	}
	got := fromSum(h.Sum(nil))
	if want != "" && got != want {
		return "", 0, errors.Join(Mismatch(path, want, got), os.Remove(path))
	}
	if s.Has(got) {
		if err := os.Remove(path); err != nil {
			return "", 0, fault.Wrap(fault.Environment, err)
		}
		return got, n, nil
	}
	if err := errors.Join(f.Chmod(0o444), f.Sync()); err != nil {
		return "", 0, s.environment(fmt.Errorf("storing %s: %w", path, err))
	}
	err = s.install(path, got)
	if crossDevice(err) {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return "", 0, fault.Wrap(fault.Environment, err)
		}
		if _, _, err := s.Put(ctx, f, got); err != nil {
			return "", 0, err
		}
		return got, n, os.Remove(path)
	}
	if err != nil {
		return "", 0, s.environment(fmt.Errorf("storing %s: %w", path, err))
	}
	return got, n, nil
}

// Mismatch is the error for bytes whose digest is not the expected one.
func Mismatch(what string, want, got Digest) error {
	return fault.Errorf(fault.Verification, "%s: wrong digest: expected %s, got %s", what, want, got)
}

// install renames a finished file to its blob's name and makes that durable.
// Replacing a blob is harmless: equal names are equal bytes.
func (s *Store) install(path string, d Digest) error {
	to := s.Path(d)
	dir := filepath.Dir(to)
	if err := os.Mkdir(dir, 0o755); err == nil {
		if err := atomicfile.SyncDir(filepath.Dir(dir)); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return err
	}
	return atomicfile.Rename(path, to)
}
