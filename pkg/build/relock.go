package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/source"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// LockResult says what a lock holds and what changed in it.
type LockResult struct {
	// Path is the lock file.
	Path string
	// Inputs counts sources, the toolchain and the Go toolchain.
	Inputs int
	// Changes are the changed inputs, by name.
	Changes []source.Change
	// Notes are what people should know of it: versions that are listed and
	// cannot be had, pins that became older.
	Notes []string
}

// Lock pins the inputs of the recipe at path in the lock beside it: those
// named, or, when none is, those that are not locked yet or whose entry is not
// of what is declared, letting go of those not declared any more. The lock is
// written only when something changed, and a lock that is not there is begun.
// An entry for which nothing newer can be had stays as it is, and is no error.
//
// Errors are those of Build that belong to fetching.
func Lock(ctx context.Context, path string, names []string, opts ...Option) (*LockResult, error) {
	b, err := openForLock(path, opts)
	if err != nil {
		return nil, err
	}
	defer b.close()
	declared, err := b.declared()
	if err != nil {
		return nil, err
	}
	var dropped []source.Change
	updated := b.lock
	if updated != nil {
		updated = updated.Clone()
		dropped = b.dropPackages(updated, slices.Contains(names, lock.PackagesName))
	}
	byName := len(names) > 0
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == lock.PackagesName })
	if !byName && updated != nil {
		for _, s := range declared.Stale(b.lock) {
			if !s.Undeclared {
				names = append(names, s.Name)
				continue
			}
			old, _ := b.lock.Source(s.Name)
			dropped = append(dropped, source.Change{Name: s.Name, Old: old.Version})
			updated.Sources = slices.DeleteFunc(updated.Sources, func(l lock.Source) bool { return l.Name == s.Name })
		}
	}
	var result source.Updated
	if len(names) > 0 || updated == nil {
		u, err := b.fetcher.Update(ctx, updated, declared, names)
		if err != nil {
			return nil, err
		}
		result, updated = *u, u.Lock
	}
	changes := append(result.Changes, dropped...)
	if len(changes) > 0 {
		if err := b.saveLock(ctx, updated); err != nil {
			return nil, err
		}
	}
	r := b.lockResult(updated, changes)
	r.Notes = result.Notes
	return r, nil
}

// dropPackages removes the pins of packages from a lock: all, or those of
// repositories the recipe no longer has. Which versions take their place only
// shows when the ports are built, so the next build locks them, and compares
// them with those that are released here.
func (b *builder) dropPackages(l *lock.Lock, all bool) (dropped []source.Change) {
	l.Packages = slices.DeleteFunc(l.Packages, func(p lock.Package) bool {
		drop := all || !b.ofRecipe(p)
		if drop {
			if all {
				l.Released = append(l.Released, p)
			}
			dropped = append(dropped, source.Change{Name: p.File(), Old: p.Version})
		}
		return drop
	})
	return dropped
}

// CheckLock compares the lock beside the recipe at path with what the recipe
// declares and writes nothing. A lock that is stale is an error of class
// fault.Usage that says what changed.
func CheckLock(path string, opts ...Option) (*LockResult, error) {
	b, err := openForLock(path, opts)
	if err != nil {
		return nil, err
	}
	defer b.close()
	if b.lock == nil {
		return nil, fault.Errorf(fault.Usage, "there is no %s", b.lockPath).Hintf("run sovereign-build lock %s", path)
	}
	if err := b.checkLock(func(source.Stale) bool { return true }); err != nil {
		return nil, err
	}
	return b.lockResult(b.lock, nil), nil
}

// checkLock is an error when the lock is not of what is declared, in a way
// that matters.
func (b *builder) checkLock(matters func(source.Stale) bool) error {
	declared, err := b.declared()
	if err != nil {
		return err
	}
	e := &StaleError{Lock: b.lockPath}
	for _, s := range declared.Stale(b.lock) {
		if matters(s) {
			e.Stale = append(e.Stale, s)
		}
	}
	for _, p := range b.lock.Packages {
		if !b.ofRecipe(p) {
			why := fmt.Sprintf("%s is from %s, which is no repository of the recipe any more", p.File(), p.Repository)
			e.Stale = append(e.Stale, source.Stale{Name: lock.PackagesName, Why: why, Undeclared: true})
		}
	}
	if len(e.Stale) == 0 {
		return nil
	}
	return fault.Errorf(fault.Usage, "%w", e).Hintf("run sovereign-build lock %s", b.recipe.Dir)
}

// StaleError is the error of a lock that is not of what its recipe declares.
type StaleError struct {
	Lock  string // the file
	Stale []source.Stale
}

// Error names every input in one line.
func (e *StaleError) Error() string {
	var said []string
	for _, s := range e.Stale {
		said = append(said, s.String())
	}
	return fmt.Sprintf("%s is stale: %s", e.Lock, strings.Join(said, "; "))
}

// Findings are the inputs, for programs.
func (e *StaleError) Findings() any { return e.Stale }

// openForLock prepares what locking needs of a builder; its lock is nil when
// there is none yet.
func openForLock(path string, opts []Option) (*builder, error) {
	o, err := newOptions(opts)
	if err != nil {
		return nil, err
	}
	b := &builder{opts: o}
	if b.recipe, err = recipe.Load(path); err != nil {
		return nil, err
	}
	if err := b.openStore(); err != nil {
		return nil, err
	}
	b.locked, err = lock.Open(b.lockPath)
	if errors.Is(err, fs.ErrNotExist) {
		b.locked, err = lock.New(b.lockPath), nil
	}
	if err != nil {
		return nil, errors.Join(err, b.close())
	}
	b.lock = b.locked.Lock()
	return b, nil
}

func (b *builder) lockResult(l *lock.Lock, changes []source.Change) *LockResult {
	return &LockResult{Path: b.lockPath, Inputs: len(l.Sources) + len(l.Packages) + 2, Changes: changes}
}
