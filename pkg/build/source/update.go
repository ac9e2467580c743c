package source

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Declared is what people wrote down about the inputs; a lock says which
// versions and bytes that means.
type Declared struct {
	// Sources of sources.yaml, by name.
	Sources map[string]recipe.Source
	// ToolchainSuite and ToolchainPackages are those of the toolchain's
	// image.yaml; no suite keeps the old lock's toolchain as it is.
	ToolchainSuite    string
	ToolchainPackages []string
	// Go is the version to lock, "go1.26.8"; "" keeps the old lock's.
	Go string
	// SourceDate is the date of a lock made from nothing, in seconds since
	// 1970; an old lock's date is kept.
	SourceDate int64
}

// Change is one input that an update changed.
type Change struct {
	// Name of the source, "toolchain" or "go".
	Name string
	// Old and New are versions; Old is "" for an input that was not locked,
	// New is "" for one that is not declared any more. They are equal where
	// only the bytes or mirrors changed.
	Old, New string
}

// String is the change in plain words: "zlib 1.3 → 1.3.1".
func (c Change) String() string {
	return fmt.Sprintf("%s %s → %s", c.Name, cmp.Or(c.Old, "(none)"), cmp.Or(c.New, "(none)"))
}

// Update locks the named inputs anew (nil: all that are declared, dropping the
// others) and returns the new lock, the changes by name, and leaves old, which
// may be nil, as it was. An input locked on purpose loses its Relocked mark.
func (f *Fetcher) Update(ctx context.Context, old *lock.Lock, d Declared, names []string) (*lock.Lock, []Change, error) {
	return f.update(ctx, old, d, names, false)
}

// Relock is Update for inputs that had gone from every mirror: it marks what
// it changed as Relocked, with the version it replaced, so that whoever builds
// from it can say so.
func (f *Fetcher) Relock(ctx context.Context, old *lock.Lock, d Declared, names []string) (*lock.Lock, []Change, error) {
	if old == nil || len(names) == 0 {
		return nil, nil, fault.Errorf(fault.Internal, "relock: no lock or no names")
	}
	return f.update(ctx, old, d, names, true)
}

func (f *Fetcher) update(ctx context.Context, old *lock.Lock, d Declared, names []string, mark bool) (*lock.Lock, []Change, error) {
	l := &lock.Lock{Schema: lock.Schema, SourceDate: d.SourceDate}
	if old != nil {
		l = old.Clone()
	}
	u := &updating{f: f, d: d, lock: l, mark: mark}
	if names == nil {
		names = slices.Sorted(maps.Keys(d.Sources))
		if d.ToolchainSuite != "" {
			names = append(names, lock.ToolchainName)
		}
		if d.Go != "" {
			names = append(names, lock.GoName)
		}
		u.dropUndeclared()
	}
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	for _, n := range names {
		if err := u.known(n); err != nil {
			return nil, nil, err
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(f.parallel)
	for _, n := range names {
		g.Go(func() error { return u.one(gctx, n) })
	}
	if err := g.Wait(); err != nil {
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		return nil, nil, err
	}
	slices.SortFunc(l.Sources, func(a, b lock.Source) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(u.changes, func(a, b Change) int { return strings.Compare(a.Name, b.Name) })
	return l, u.changes, nil
}

// updating is one update under way.
type updating struct {
	f    *Fetcher
	d    Declared
	mark bool

	mu      sync.Mutex
	lock    *lock.Lock
	changes []Change
}

func (u *updating) dropUndeclared() {
	u.lock.Sources = slices.DeleteFunc(u.lock.Sources, func(s lock.Source) bool {
		_, ok := u.d.Sources[s.Name]
		if !ok {
			u.changes = append(u.changes, Change{Name: s.Name, Old: s.Version})
		}
		return !ok
	})
}

func (u *updating) known(name string) error {
	_, ok := u.d.Sources[name]
	switch {
	case name == lock.ToolchainName && u.d.ToolchainSuite == "":
		return fault.Errorf(fault.Usage, "lock: no toolchain is declared")
	case name == lock.GoName && u.goVersion() == "":
		return fault.Errorf(fault.Usage, "lock: no Go version is declared")
	case name == lock.ToolchainName || name == lock.GoName || ok:
		return nil
	}
	return fault.Errorf(fault.Usage, "lock: there is no input %q", name).
		Hintf("name one of %s", strings.Join(append(slices.Sorted(maps.Keys(u.d.Sources)), lock.GoName, lock.ToolchainName), ", "))
}

func (u *updating) goVersion() string { return cmp.Or(u.d.Go, u.lock.Go.Version) }

func (u *updating) one(ctx context.Context, name string) error {
	switch name {
	case lock.ToolchainName:
		t, err := u.f.ResolveToolchain(ctx, u.d.ToolchainSuite, u.d.ToolchainPackages)
		if err != nil {
			return err
		}
		u.setToolchain(t)
	case lock.GoName:
		g, err := u.f.ResolveGo(ctx, u.goVersion())
		if err != nil {
			return err
		}
		u.setGo(g)
	default:
		s, err := u.f.Resolve(ctx, name, u.d.Sources[name])
		if err != nil {
			return err
		}
		return u.setSource(s)
	}
	return nil
}

func (u *updating) setSource(s lock.Source) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	i := slices.IndexFunc(u.lock.Sources, func(o lock.Source) bool { return o.Name == s.Name })
	if i < 0 {
		u.lock.Sources = append(u.lock.Sources, s)
		u.changes = append(u.changes, Change{Name: s.Name, New: s.Version})
		return nil
	}
	o := u.lock.Sources[i]
	switch same := o.Digest == s.Digest; {
	case u.mark && same && slices.Equal(o.Mirrors, s.Mirrors):
		// Said here, or a caller that fetches again would go round for ever.
		return fault.Errorf(fault.Source, "%s %s could not be fetched, and Debian's %s has nothing newer", s.Name, s.Version, u.d.Sources[s.Name].Debian.Suite).
			Hintf("try again later, or name another suite for %s in sources.yaml", s.Name)
	case u.mark && same:
		s.Relocked = o.Relocked // the same bytes from elsewhere: nothing to admit
	case u.mark:
		// The version its author chose stays on record through several re-locks.
		s.Relocked = cmp.Or(o.Relocked, o.Version)
	}
	u.lock.Sources[i] = s
	if o.Digest != s.Digest || !slices.Equal(o.Mirrors, s.Mirrors) {
		u.changes = append(u.changes, Change{Name: s.Name, Old: o.Version, New: s.Version})
	}
	return nil
}

func (u *updating) setToolchain(t lock.Toolchain) {
	u.mu.Lock()
	defer u.mu.Unlock()
	o := u.lock.Toolchain
	if o.Suite == t.Suite && slices.Equal(o.Packages, t.Packages) {
		t.Image = o.Image
		if u.mark {
			t.Relocked = o.Relocked
		}
		u.lock.Toolchain = t
		return
	}
	was := describeToolchain(o)
	if u.mark {
		t.Relocked = cmp.Or(o.Relocked, was)
	}
	u.lock.Toolchain = t
	u.changes = append(u.changes, Change{Name: lock.ToolchainName, Old: was, New: describeToolchain(t)})
}

// describeToolchain is the toolchain's "version" for people.
func describeToolchain(t lock.Toolchain) string {
	if t.Suite == "" {
		return ""
	}
	return fmt.Sprintf("%s, %d packages", t.Suite, len(t.Packages))
}

func (u *updating) setGo(g lock.Go) {
	u.mu.Lock()
	defer u.mu.Unlock()
	o := u.lock.Go
	if o.Version == g.Version && slices.Equal(o.Modules, g.Modules) {
		if u.mark {
			g.Relocked = o.Relocked
		}
		u.lock.Go = g
		return
	}
	if u.mark {
		g.Relocked = cmp.Or(o.Relocked, o.Version)
	}
	u.lock.Go = g
	u.changes = append(u.changes, Change{Name: lock.GoName, Old: o.Version, New: g.Version})
}
