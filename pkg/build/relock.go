package build

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/source"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/remedy"
)

// LockUpdate says what changed in a lock.
type LockUpdate struct {
	// Changes are the changed inputs, by name.
	Changes []source.Change
	// Notes are what people should know of it: versions that are listed and
	// cannot be had, pins that became older.
	Notes []string
}

// UpdateLock pins the recipe's inputs: those named, or, when none is, those
// that are not locked yet or whose entry is not of what is declared, letting go
// of those not declared any more. A lock that is not there is begun. An entry
// for which nothing newer can be had stays as it is, and is no error. Lock is
// the result; nothing is saved.
//
// Errors are those of Kernel that belong to fetching.
func (b *Builder) UpdateLock(ctx context.Context, names ...string) (*LockUpdate, error) {
	b.begin()
	declared, err := b.declared()
	if err != nil {
		return nil, err
	}
	wants, err := b.wantsSource()
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
			if s.Missing && !wants(s.Name) {
				continue
			}
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
	if updated == nil {
		declared.Sources = maps.Clone(declared.Sources)
		maps.DeleteFunc(declared.Sources, func(name string, _ recipe.Source) bool { return !wants(name) })
	}
	if len(names) > 0 || updated == nil {
		u, err := b.fetcher.Update(ctx, updated, declared, names)
		if err != nil {
			return nil, err
		}
		result, updated = *u, u.Lock
	}
	changes := append(result.Changes, dropped...)
	if len(changes) > 0 {
		if err := b.relockTo(updated); err != nil {
			return nil, err
		}
	}
	return &LockUpdate{Changes: changes, Notes: result.Notes}, nil
}

// relockTo goes on with another lock.
func (b *Builder) relockTo(l *lock.Lock) error {
	if err := b.frozen("it would be changed"); err != nil {
		return err
	}
	text, err := l.Marshal()
	if err != nil {
		return err
	}
	path := ""
	if b.lock != nil {
		path = b.lock.Path
	}
	if b.lock, err = lock.Parse(path, text); err != nil {
		return fault.Wrap(fault.Internal, err)
	}
	b.epoch, err = lock.SourceDate(b.lock, b.opts.epoch)
	return err
}

// frozen refuses a change of a lock that is to stay as it is.
func (b *Builder) frozen(why string) error {
	if !b.opts.frozen {
		return nil
	}
	return remedy.By(remedy.Remedy{Kind: remedy.Thaw, Recipe: b.recipe.Dir}, fault.Errorf(fault.Usage, "%s is frozen, and %s", b.lock, why).
		Hintf("build once with a lock that may change, and keep the lock it leaves"))
}

// checkFrozen refuses what no lock pins, where the lock is frozen.
func (b *Builder) checkFrozen() error {
	switch {
	case !b.opts.frozen:
		return nil
	case len(b.opts.repositories) > 0:
		return fault.Errorf(fault.Usage, "the lock is frozen, and no lock pins what is in the repository %s", b.opts.repositories[0]).
			Hintf("name the repository in the recipe")
	case b.opts.files != nil:
		return fault.Errorf(fault.Usage, "the lock is frozen, and no lock pins the files that were handed in").
			Hintf("name the files in the recipe")
	}
	return nil
}

// dropPackages removes the pins of packages from a lock: all, or those of
// repositories the recipe no longer has. Which versions take their place only
// shows when the ports are built, so the next build locks them, and compares
// them with those that are released here.
func (b *Builder) dropPackages(l *lock.Lock, all bool) (dropped []source.Change) {
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

// CheckLock compares the lock with what the recipe declares. One that is stale
// is an error of class fault.Usage that says what changed.
func (b *Builder) CheckLock() error {
	if b.lock == nil {
		return b.noLock()
	}
	wants, err := b.wantsSource()
	if err != nil {
		return err
	}
	return b.checkLock(func(s source.Stale) bool { return !s.Missing || wants(s.Name) })
}

// wantsSource says of which of the declared sources the recipe is made: other
// recipes may share the file that declares them.
func (b *Builder) wantsSource() (func(name string) bool, error) {
	ports, err := b.recipe.LoadPorts()
	if err != nil {
		return nil, err
	}
	p, err := makePlan(b.recipe, ports, len(b.recipe.Repositories)+len(b.opts.repositories) > 0)
	if err != nil {
		return nil, err
	}
	names := append(p.sourceNames(), b.recipe.Kernel.Source)
	return func(name string) bool {
		_, declared := b.decls[name]
		return !declared || slices.Contains(names, name)
	}, nil
}

// noLock is the error of what needs a lock.
func (b *Builder) noLock() error {
	return remedy.By(remedy.Remedy{Kind: remedy.Lock, Recipe: b.recipe.Dir},
		fault.Errorf(fault.Usage, "there is no lock for %s", b.name()).Hintf("make one"))
}

// checkLock is an error when the lock is not of what is declared, in a way
// that matters.
func (b *Builder) checkLock(matters func(source.Stale) bool) error {
	declared, err := b.declared()
	if err != nil {
		return err
	}
	e := &StaleError{Lock: b.lock.String()}
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
	return remedy.By(remedy.Remedy{Kind: remedy.Lock, Recipe: b.recipe.Dir},
		fault.Errorf(fault.Usage, "%w", e).Hintf("lock what has changed"))
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
