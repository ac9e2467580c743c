package source

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// directoryKind is a directory beside the recipe, as a tar of it with one
// directory at its top that has the source's name. It is locked as it is at the
// time; after a change the lock is stale, and nothing is built of what nobody
// locked.
type directoryKind struct{}

func (directoryKind) scheme() string             { return lock.SchemeDirectory }
func (directoryKind) of(decl recipe.Source) bool { return decl.Directory != "" }

// noVersion is that of a source for which nothing says one.
const noVersion = "0"

func (k directoryKind) resolve(ctx context.Context, f *Fetcher, name string, decl recipe.Source, keep *lock.Source) (lock.Source, []string, error) {
	stored, err := k.put(ctx, f, blob{name: name}, decl, decl.Directory)
	if err != nil {
		return lock.Source{}, nil, fmt.Errorf("source %s: %w", name, err)
	}
	if keep != nil && keep.Digest == stored.Digest {
		return *keep, nil, nil
	}
	m := lock.Mirror{Scheme: lock.SchemeDirectory, Path: decl.Directory}
	return treeEntry(name, cmp.Or(decl.Version, noVersion), stored, m), nil, nil
}

func (directoryKind) put(ctx context.Context, f *Fetcher, b blob, decl recipe.Source, dir string) (lock.Source, error) {
	t, err := directoryTree(b.name, decl.Dir.Join(dir))
	if err != nil {
		return lock.Source{}, err
	}
	return f.putTree(ctx, b, t)
}

// directoryTree is the tree of a source's directory. What version control
// itself keeps there (.git) is no part of it.
func directoryTree(name string, dir recipe.Ref) (*rootfs.Tree, error) {
	files, err := Checkout(dir, func(path string) bool { return path == ".git" })
	if err != nil {
		return nil, err
	}
	t := rootfs.New()
	for e := range files.All() {
		e.Path = name + "/" + e.Path
		if err := t.Add(e); err != nil {
			return nil, fault.Wrap(fault.Usage, err)
		}
	}
	return t, nil
}

func (k directoryKind) fetch(ctx context.Context, f *Fetcher, b blob, _ lock.Source, decl recipe.Source, m lock.Mirror) error {
	if decl.Dir == (recipe.Ref{}) {
		return fault.Errorf(fault.Usage, "the directory %s is beside a sources.yaml that does not name it", m.Path)
	}
	_, err := k.put(ctx, f, b, decl, m.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return &goneError{err.Error()}
	}
	return err
}

// stale makes the tar that the directory would have now. One that is not there
// is not stale: its bytes may be in the store, from another machine.
func (directoryKind) stale(decl recipe.Source, s lock.Source) string {
	if v := cmp.Or(decl.Version, noVersion); v != s.Version {
		return fmt.Sprintf("%s is locked, and %s declared", s.Version, v)
	}
	if m := schemeMirror(s, lock.SchemeDirectory); m.Path != decl.Directory {
		return fmt.Sprintf("%s is locked, and %s declared", m.Path, decl.Directory)
	}
	t, err := directoryTree(s.Name, decl.Dir.Join(decl.Directory))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ""
	case err != nil:
		return err.Error()
	}
	h := sha256.New()
	if err := rootfs.WriteTar(h, t, 0); err != nil {
		return err.Error()
	}
	if store.Digest(fmt.Sprintf("sha256:%x", h.Sum(nil))) != s.Digest {
		return "the directory " + decl.Directory + " has changed since it was locked"
	}
	return ""
}

func (directoryKind) outdated(context.Context, *Fetcher, lock.Source, recipe.Source) (Outdated, []string, error) {
	return Outdated{}, nil, nil // what is newer is stale
}

// schemeMirror is the entry's first mirror of a scheme; a zero one if it has none.
func schemeMirror(s lock.Source, scheme string) lock.Mirror {
	for _, text := range s.Mirrors {
		if m, err := lock.ParseMirror(text); err == nil && m.Scheme == scheme {
			return m
		}
	}
	return lock.Mirror{}
}
