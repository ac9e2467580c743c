package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/internal/flock"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// batch is how many files are removed at a time, while those that use the
// store wait: some milliseconds.
const batch = 100

// CollectOptions say what Collect keeps.
type CollectOptions struct {
	// OlderThan keeps what was used since, named or not. 0 keeps nothing for
	// its age.
	OlderThan time.Duration
	// DryRun removes nothing and says what would be.
	DryRun bool
	// Named returns what a root names now; fs.ErrNotExist says that it is
	// gone. After another error it is taken to name what it did.
	Named func(Root) ([]Digest, error)
	// Waiting, if set, is called before waiting for another Collect, or for a
	// build that goes on though the disk is full.
	Waiting func()
	// Progress, if set, is told how many of the blobs have been seen to.
	Progress func(n, of int)
}

// Usage is what blobs take.
type Usage struct {
	Blobs int   `json:"blobs"`
	Bytes int64 `json:"bytes"`
}

func (u *Usage) add(size int64) { u.Blobs++; u.Bytes += size }

// Collected says what Collect removed, or in a dry run would have.
type Collected struct {
	Before  Usage `json:"before"`
	Removed Usage `json:"removed"`
	// Actions and Roots are how many steps and roots were forgotten.
	Actions int `json:"actions"`
	Roots   int `json:"roots"`
}

// Collect removes blobs and actions that nothing names. It keeps
//
//   - what a root names (AddRoot) that is still there, or was used lately,
//   - the last action of each step name and its outputs,
//   - actions and blobs that were used lately, and the outputs of such actions,
//   - what any Store that is open, in whichever process, has put, found or
//     asked for, while Collect runs as well.
//
// It may be ended by ctx at any moment; what is left is whole.
func (s *Store) Collect(ctx context.Context, o CollectOptions) (Collected, error) {
	c, err := s.collect(ctx, o)
	if err != nil && ctx.Err() != nil {
		return c, context.Cause(ctx)
	}
	if flock.Unsupported(err) {
		return c, fault.Errorf(fault.Environment, "%s is on a file system without locks, where a build that runs cannot be told: %w", s.dir, err).
			Hintf("remove the whole directory when nothing is being built; what is needed is fetched and built again")
	}
	if err != nil {
		return c, s.environment(fmt.Errorf("content store: %w", err))
	}
	return c, nil
}

func (s *Store) collect(ctx context.Context, o CollectOptions) (Collected, error) {
	k := &collector{s: s, o: o, cutoff: time.Now().Add(-o.OlderThan), live: map[Digest]bool{}}
	gc, err := flock.Open(filepath.Join(s.dir, gcLockFile))
	if err != nil {
		return k.done, err
	}
	defer gc.Close() // nothing was written to it
	held, err := gc.Try(flock.Exclusive)
	if err == nil && !held {
		k.waiting()
		err = gc.Wait(ctx, flock.Exclusive)
	}
	if err != nil {
		return k.done, err
	}
	// From here on, what a session noted stays until the end, whether or not
	// the session does.
	if err := k.exclusively(ctx, s.removeEnded); err != nil {
		return k.done, err
	}
	if err := k.roots(); err != nil {
		return k.done, err
	}
	if err := k.actions(ctx); err != nil {
		return k.done, err
	}
	return k.done, k.blobs(ctx)
}

// noteTakes is more than enough for all notes that are being taken.
const noteTakes = 2 * time.Second

var errInUse = errors.New("the store is in use on a full disk")

// exclusively calls fn while nobody takes a note. A session that cannot take
// notes because the disk is full is waited for if waiting is not nil, which is
// called then; otherwise the error is errInUse.
func (s *Store) exclusively(ctx context.Context, waiting func(), fn func() error) error {
	// A session on a full disk keeps all; this one's own must not keep it from
	// making room.
	s.session.mu.Lock()
	if s.session.all != nil {
		if err := s.session.all.Close(); err != nil {
			s.session.mu.Unlock()
			return err
		}
		s.session.all = nil
	}
	s.session.mu.Unlock()
	lock, err := flock.Open(filepath.Join(s.dir, lockFile))
	if err != nil {
		return err
	}
	soon, cancel := context.WithTimeoutCause(ctx, noteTakes, errInUse)
	err = lock.Wait(soon, flock.Exclusive)
	cancel()
	if errors.Is(err, errInUse) && waiting != nil {
		waiting()
		err = lock.Wait(ctx, flock.Exclusive)
	}
	if err == nil {
		err = fn()
	}
	return errors.Join(err, lock.Close())
}

// Quiet calls fn while no other Store of this directory is open, and keeps new
// ones from being opened meanwhile. If one is open, fn is not called and quiet
// is false.
func (s *Store) Quiet(ctx context.Context, fn func() error) (quiet bool, err error) {
	err = s.exclusively(ctx, nil, func() error {
		_, running, err := s.notes()
		if err != nil || running > 0 {
			return err
		}
		quiet = true
		return fn()
	})
	if errors.Is(err, errInUse) {
		return false, nil
	}
	return quiet, err
}

// collector is one Collect.
type collector struct {
	s      *Store
	o      CollectOptions
	cutoff time.Time
	live   map[Digest]bool
	done   Collected
}

func (k *collector) exclusively(ctx context.Context, fn func() error) error {
	return k.s.exclusively(ctx, k.waiting, fn)
}

func (k *collector) waiting() {
	if k.o.Waiting != nil {
		k.o.Waiting()
	}
}

// roots marks what roots name and forgets those that are gone.
func (k *collector) roots() error {
	return k.s.eachRoot(func(record string, lastUse time.Time, r Root) error {
		digests, err := r.Digests, fs.ErrNotExist
		if r.Path != "" {
			var now []Digest
			if now, err = k.o.Named(r); err == nil {
				digests = now
			}
		}
		// One that is gone may be on a disk that is not attached just now.
		if errors.Is(err, fs.ErrNotExist) && lastUse.Before(k.cutoff) {
			k.done.Roots++
			if k.o.DryRun {
				return nil
			}
			return os.Remove(record)
		}
		for _, d := range digests {
			k.live[d] = true
		}
		return nil
	})
}

// actions marks the outputs of the actions that stay and removes the others.
func (k *collector) actions(ctx context.Context) error {
	newest := map[string]bool{}
	err := k.s.walk("names", func(base string) error {
		key, err := readLimited(filepath.Join(k.s.memory, "names", base), 128)
		newest[string(key)] = true
		return ignoreGone(err)
	})
	if err != nil {
		return err
	}
	var old []string
	err = k.s.walk("actions", func(base string) error {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		key := strings.TrimSuffix(base, ".json")
		path := filepath.Join(k.s.memory, "actions", base)
		lately, err := k.lately(path)
		if err != nil {
			return ignoreGone(err)
		}
		if !newest[key] && !lately {
			old = append(old, path)
			return nil
		}
		a, _, err := k.s.readAction(key)
		for _, d := range a.Outputs {
			k.live[d] = true
		}
		return err
	})
	if err != nil {
		return err
	}
	return k.inBatches(ctx, len(old), func(from, to int) error {
		held, _, err := k.s.notes()
		if err != nil {
			return err
		}
		for _, path := range old[from:to] {
			if held[Digest(algorithm+strings.TrimSuffix(filepath.Base(path), ".json"))] {
				continue
			}
			// It may have been used or written again since.
			lately, err := k.lately(path)
			if err != nil || lately {
				if err := ignoreGone(err); err != nil {
					return err
				}
				continue
			}
			k.done.Actions++
			if k.o.DryRun {
				continue
			}
			if err := ignoreGone(os.Remove(path)); err != nil {
				return err
			}
		}
		return nil
	})
}

// lately tells whether a file was used after the cutoff.
func (k *collector) lately(path string) (bool, error) {
	info, err := os.Lstat(path)
	return err == nil && !info.ModTime().Before(k.cutoff), err
}

// blobs removes those that nothing names.
func (k *collector) blobs(ctx context.Context) error {
	var old []Digest
	err := k.s.eachBlob(func(d Digest, info fs.FileInfo) error {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		k.done.Before.add(info.Size())
		if !k.live[d] && info.ModTime().Before(k.cutoff) {
			old = append(old, d)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return k.inBatches(ctx, len(old), func(from, to int) error {
		held, _, err := k.s.notes()
		if err != nil {
			return err
		}
		for _, d := range old[from:to] {
			if held[d] {
				continue
			}
			path := k.s.Path(d)
			info, err := os.Lstat(path)
			if err != nil || !info.ModTime().Before(k.cutoff) {
				if err := ignoreGone(err); err != nil {
					return err
				}
				continue
			}
			k.done.Removed.add(info.Size())
			if k.o.DryRun {
				continue
			}
			if err := ignoreGone(os.Remove(path)); err != nil {
				return err
			}
		}
		if k.o.Progress != nil {
			k.o.Progress(to, len(old))
		}
		return nil
	})
}

// inBatches calls fn for n things, some at a time, each time while nobody
// takes a note.
func (k *collector) inBatches(ctx context.Context, n int, fn func(from, to int) error) error {
	for from := 0; from < n; from += batch {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := k.exclusively(ctx, func() error { return fn(from, min(from+batch, n)) }); err != nil {
			return err
		}
	}
	return nil
}

// eachBlob calls fn for each file that has a blob's name.
func (s *Store) eachBlob(fn func(d Digest, info fs.FileInfo) error) error {
	err := filepath.WalkDir(filepath.Join(s.dir, "blobs", "sha256"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return ignoreGone(err)
		}
		d := Digest(algorithm + e.Name())
		if s.Path(d) != path {
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return ignoreGone(err)
		}
		return fn(d, info)
	})
	if err != nil {
		return s.environment(fmt.Errorf("content store: %w", err))
	}
	return nil
}

// ignoreGone is err, unless another process has removed the file meanwhile.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
