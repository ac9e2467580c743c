package build

import (
	"context"
	"errors"
	"io/fs"
	"maps"
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
}

// Lock pins the inputs of the recipe at path in the lock beside it: those
// named, or, when none is, those that are declared and not locked yet, letting
// go of those not declared any more. The lock is written only when something
// changed, and a lock that is not there is begun.
//
// Errors are those of Build that belong to fetching.
func Lock(ctx context.Context, path string, names []string, opts ...Option) (*LockResult, error) {
	b, err := openForLock(path, opts)
	if err != nil {
		return nil, err
	}
	declared, err := b.declared()
	if err != nil {
		return nil, err
	}
	var updated *lock.Lock
	var changes []source.Change
	switch missing, surplus := b.unlocked(declared); {
	case len(names) > 0:
		updated, changes, err = b.fetcher.Update(ctx, b.lock, declared, names)
	case b.lock == nil:
		updated, changes, err = b.fetcher.Update(ctx, nil, declared, nil)
	case len(missing) == 0 && len(surplus) == 0:
		return b.lockResult(b.lock, nil), nil
	default:
		trimmed := b.lock.Clone()
		trimmed.Sources = slices.DeleteFunc(trimmed.Sources, func(s lock.Source) bool { return slices.Contains(surplus, s.Name) })
		updated = trimmed
		if len(missing) > 0 {
			updated, changes, err = b.fetcher.Update(ctx, trimmed, declared, missing)
		}
		for _, name := range surplus {
			old, _ := b.lock.Source(name)
			changes = append(changes, source.Change{Name: name, Old: old.Version})
		}
	}
	if err != nil {
		return nil, err
	}
	if len(changes) > 0 {
		if err := updated.Save(b.lockPath); err != nil {
			return nil, err
		}
	}
	return b.lockResult(updated, changes), nil
}

// CheckLock compares the lock beside the recipe at path with what the recipe
// declares and writes nothing. Inputs that are not locked are an error of
// class fault.Usage that names them.
func CheckLock(path string, opts ...Option) (*LockResult, error) {
	b, err := openForLock(path, opts)
	if err != nil {
		return nil, err
	}
	if b.lock == nil {
		return nil, fault.Errorf(fault.Usage, "there is no %s", b.lockPath).Hintf("run sovereign-build lock %s", path)
	}
	declared, err := b.declared()
	if err != nil {
		return nil, err
	}
	missing, surplus := b.unlocked(declared)
	switch {
	case len(missing) > 0:
		err = fault.Errorf(fault.Usage, "%s does not pin %s", b.lockPath, strings.Join(missing, ", ")).
			Hintf("run sovereign-build lock %s", path)
	case len(surplus) > 0:
		err = fault.Errorf(fault.Usage, "%s pins %s, which nothing declares", b.lockPath, strings.Join(surplus, ", ")).
			Hintf("run sovereign-build lock %s", path)
	}
	if err != nil {
		return nil, err
	}
	return b.lockResult(b.lock, nil), nil
}

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
	if b.lock, err = lock.Load(b.lockPath); err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		b.lock = nil
	}
	return b, nil
}

// unlocked names declared inputs that the lock lacks, and locked sources that
// are declared nowhere.
func (b *builder) unlocked(d source.Declared) (missing, surplus []string) {
	if b.lock == nil {
		return slices.Sorted(maps.Keys(d.Sources)), nil
	}
	for _, name := range slices.Sorted(maps.Keys(d.Sources)) {
		if _, ok := b.lock.Source(name); !ok {
			missing = append(missing, name)
		}
	}
	if d.ToolchainSuite != "" && len(b.lock.Toolchain.Packages) == 0 {
		missing = append(missing, lock.ToolchainName)
	}
	if d.Go != "" && len(b.lock.Go.Modules) == 0 {
		missing = append(missing, lock.GoName)
	}
	for _, s := range b.lock.Sources {
		if _, ok := d.Sources[s.Name]; !ok {
			surplus = append(surplus, s.Name)
		}
	}
	return missing, surplus
}

func (b *builder) lockResult(l *lock.Lock, changes []source.Change) *LockResult {
	return &LockResult{Path: b.lockPath, Inputs: len(l.Sources) + 2, Changes: changes}
}
