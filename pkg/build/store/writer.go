package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/flock"
)

// Writer takes the bytes of one blob whose digest is known at the end. It is
// not safe for concurrent use.
type Writer struct {
	s    *Store
	ctx  context.Context
	f    *os.File // nil once committed or aborted
	hash hash.Hash
	n    int64
}

// Create begins a blob. Call Commit, or Abort, which may also be deferred.
// Cancelling ctx makes Write and Commit fail.
func (s *Store) Create(ctx context.Context) (*Writer, error) {
	f, err := s.temp()
	if err != nil {
		return nil, s.environment(fmt.Errorf("content store: %w", err))
	}
	return &Writer{s: s, ctx: ctx, f: f, hash: sha256.New()}, nil
}

// Write appends p.
func (w *Writer) Write(p []byte) (int, error) {
	if w.f == nil {
		return 0, fs.ErrClosed
	}
	if err := context.Cause(w.ctx); err != nil {
		return 0, err
	}
	n, err := w.f.Write(p)
	w.hash.Write(p[:n])
	w.n += int64(n)
	if err != nil {
		return n, w.s.environment(fmt.Errorf("content store: %w", err))
	}
	return n, nil
}

// Commit makes what was written a blob and returns its digest and length. If
// want is not empty and differs, nothing is kept and the error is of class
// fault.Verification.
func (w *Writer) Commit(want Digest) (Digest, int64, error) {
	if w.f == nil {
		return "", 0, fs.ErrClosed
	}
	defer w.Abort()
	if err := context.Cause(w.ctx); err != nil {
		return "", 0, err
	}
	got := fromSum(w.hash.Sum(nil))
	if want != "" && got != want {
		return "", 0, Mismatch("blob", want, got)
	}
	if w.s.Has(got) {
		return got, w.n, nil
	}
	if err := errors.Join(w.f.Chmod(0o444), w.f.Sync()); err != nil {
		return "", 0, w.s.environment(fmt.Errorf("content store: %w", err))
	}
	if err := w.s.install(w.f.Name(), got); err != nil {
		return "", 0, w.s.environment(fmt.Errorf("content store: %w", err))
	}
	return got, w.n, nil
}

// Abort drops what was written; after Commit it does nothing.
func (w *Writer) Abort() {
	if w.f == nil {
		return
	}
	// After Commit the name is already gone. A file that cannot be removed is
	// cleaned by a later Open, so there is nothing to tell the caller.
	_ = os.Remove(w.f.Name())
	_ = w.f.Close()
	w.f = nil
}

// temp makes a temporary file that this process holds with a lock until it is
// closed, so that another process's clean leaves it alone.
func (s *Store) temp() (*os.File, error) {
	f, err := os.CreateTemp(s.tmp(), "new-")
	if err != nil {
		return nil, err
	}
	// Nobody else can have it: it is new, and the old ones only are cleaned.
	if _, err := flock.Try(f, flock.Exclusive); err != nil && !flock.Unsupported(err) {
		return nil, errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	return f, nil
}

// writeFile replaces a small file of the store: temporary file, sync, rename.
func (s *Store) writeFile(path string, b []byte) error {
	f, err := s.temp()
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(0o644), f.Sync())
	if err == nil {
		err = atomicfile.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	return f.Close()
}

// clean removes temporary files last written before the given time that no
// process holds.
func (s *Store) clean(before time.Time) error {
	entries, err := os.ReadDir(s.tmp())
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // finished meanwhile
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if !info.Mode().IsRegular() || !info.ModTime().Before(before) {
			continue
		}
		errs = append(errs, removeUnheld(filepath.Join(s.tmp(), e.Name())))
	}
	return errors.Join(errs...)
}

func removeUnheld(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close() // read-only handle, only used for its lock
	if alone, err := flock.Try(f, flock.Exclusive); err != nil || !alone {
		return nil // held by its writer, or locks unknown here: leave it
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
