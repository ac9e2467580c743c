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

// Updated is what an update came to.
type Updated struct {
	Lock *lock.Lock
	// Changes are sorted by name.
	Changes []Change
	// Notes are what people should know of it, sorted: versions that are
	// listed and cannot be had, and pins that became older.
	Notes []string
}

// Update locks the named inputs anew (nil: all that are declared, dropping the
// others) and leaves old, which may be nil, as it was. An entry stays as it is
// where nothing newer can be had, or where only the name of a mirror of the
// same bytes would change; but it loses its Relocked mark, for now it is
// locked on purpose.
func (f *Fetcher) Update(ctx context.Context, old *lock.Lock, d Declared, names []string) (*Updated, error) {
	return f.update(ctx, old, d, names, false)
}

// Relock is Update for inputs that every mirror says it does not have: it locks
// what can be had, even if that is older, and marks what it changed as
// Relocked, with the version it replaced, so that whoever builds from it can
// say so. An input for which there is nothing else is an error of class
// fault.Source.
func (f *Fetcher) Relock(ctx context.Context, old *lock.Lock, d Declared, names []string) (*Updated, error) {
	if old == nil || len(names) == 0 {
		return nil, fault.Errorf(fault.Internal, "relock: no lock or no names")
	}
	return f.update(ctx, old, d, names, true)
}

func (f *Fetcher) update(ctx context.Context, old *lock.Lock, d Declared, names []string, mark bool) (*Updated, error) {
	l := &lock.Lock{Schema: lock.Schema, SourceDate: d.SourceDate}
	if old != nil {
		l = old.Clone()
	}
	u := &updating{f: f, d: d, mark: mark, Updated: Updated{Lock: l}}
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
			return nil, err
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(f.parallel)
	for _, n := range names {
		g.Go(func() error { return u.one(gctx, n) })
	}
	if err := g.Wait(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, err
	}
	slices.SortFunc(l.Sources, func(a, b lock.Source) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(u.Changes, func(a, b Change) int { return strings.Compare(a.Name, b.Name) })
	slices.Sort(u.Notes)
	return &u.Updated, nil
}

// updating is one update under way.
type updating struct {
	f    *Fetcher
	d    Declared
	mark bool

	mu sync.Mutex
	Updated
}

func (u *updating) dropUndeclared() {
	u.Lock.Sources = slices.DeleteFunc(u.Lock.Sources, func(s lock.Source) bool {
		_, ok := u.d.Sources[s.Name]
		if !ok {
			u.Changes = append(u.Changes, Change{Name: s.Name, Old: s.Version})
		}
		return !ok
	})
}

// note must be called with mu held.
func (u *updating) note(name string, format string, args ...any) {
	u.Notes = append(u.Notes, name+": "+fmt.Sprintf(format, args...))
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

// goVersion is the Go version to lock at least: what is declared or, if that is
// newer, what is locked.
func (u *updating) goVersion() string {
	if u.d.Go == "" || compareGo(u.Lock.Go.Version, u.d.Go) > 0 {
		return u.Lock.Go.Version
	}
	return u.d.Go
}

func (u *updating) one(ctx context.Context, name string) error {
	switch name {
	case lock.ToolchainName:
		return u.toolchain(ctx)
	case lock.GoName:
		return u.goToolchain(ctx)
	}
	return u.source(ctx, name)
}

// goToolchain locks the newest release of the series.
func (u *updating) goToolchain(ctx context.Context) error {
	version := u.goVersion()
	releases, err := u.f.goReleases(ctx)
	if err != nil {
		if !tryNext(ctx, err) {
			return err
		}
		u.mu.Lock()
		u.note(lock.GoName, "newer releases could not be asked for: %v", err)
		u.mu.Unlock()
	}
	for _, r := range releases {
		if goSeries(r) == goSeries(version) && compareGo(r, version) > 0 {
			version = r
			break
		}
	}
	u.mu.Lock()
	old := u.Lock.Go
	u.mu.Unlock()
	if !u.mark && old.Version == version && len(old.Modules) > 0 {
		return u.setGo(old)
	}
	g, err := u.f.ResolveGo(ctx, version)
	if err != nil {
		return err
	}
	return u.setGo(g)
}

func (u *updating) source(ctx context.Context, name string) error {
	decl := u.d.Sources[name]
	u.mu.Lock()
	old, locked := u.Lock.Source(name)
	u.mu.Unlock()
	var keep *lock.Source
	if locked && !u.mark && staleSource(decl, old) == "" {
		keep = &old
	}
	s, notes, err := kindOf(decl).resolve(ctx, u.f, name, decl, keep)
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, n := range notes {
		u.note(name, "%s", n)
	}
	if !locked {
		u.Lock.Sources = append(u.Lock.Sources, s)
		u.Changes = append(u.Changes, Change{Name: name, New: s.Version})
		return nil
	}
	s.Relocked = ""
	switch same := old.Digest == s.Digest; {
	case u.mark && same && slices.Equal(old.Mirrors, s.Mirrors):
		return nothingElse(name+" "+s.Version, where(decl), name)
	case u.mark && same:
		s.Relocked = old.Relocked // the same bytes from elsewhere: nothing to admit
	case u.mark:
		// The version its author chose stays on record through several re-locks.
		s.Relocked = cmp.Or(old.Relocked, old.Version)
	}
	if compareSources(s, old) < 0 {
		u.note(name, "%s is older than %s, which was locked", s.Version, old.Version)
	}
	i := slices.IndexFunc(u.Lock.Sources, func(o lock.Source) bool { return o.Name == name })
	u.Lock.Sources[i] = s
	if old.Digest != s.Digest || !slices.Equal(old.Mirrors, s.Mirrors) || old.Relocked != s.Relocked {
		u.Changes = append(u.Changes, Change{Name: name, Old: old.Version, New: s.Version})
	}
	return nil
}

// where is the place that a declaration names, in words.
func where(decl recipe.Source) string {
	if (debianKind{}).of(decl) {
		return "Debian's " + decl.Debian.Suite
	}
	return "what is declared"
}

// nothingElse is the error of an input that every mirror says it does not
// have, and for which there is nothing else.
func nothingElse(what, where, name string) error {
	err := fault.Errorf(fault.Source, "%s could not be fetched, and %s has nothing else that can be had", what, where)
	if name == lock.ToolchainName {
		return err.Hintf("try again later, or name another suite in the toolchain's image.yaml")
	}
	return err.Hintf("try again later, or name another place for %s in sources.yaml", name)
}

func (u *updating) toolchain(ctx context.Context) error {
	t, err := u.f.ResolveToolchain(ctx, u.d.ToolchainSuite, u.d.ToolchainPackages)
	if err != nil {
		return err
	}
	u.mu.Lock()
	old := u.Lock.Toolchain
	u.mu.Unlock()
	same := old.Suite == t.Suite && slices.Equal(old.Packages, t.Packages)
	if u.mark && same {
		return nothingElse("a package of the toolchain", "Debian's "+t.Suite, lock.ToolchainName)
	}
	absent, err := u.f.absentPackages(ctx, old, t)
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(absent) > 0 {
		what := fmt.Sprintf("%s lists newer packages, but the archive answers 404 for %s; it may have it later", t.Suite, few(absent))
		if u.mark || (Declared{ToolchainSuite: u.d.ToolchainSuite, ToolchainPackages: u.d.ToolchainPackages}).staleToolchain(old) != "" {
			return fault.Errorf(fault.Source, "toolchain: %s", what).Hintf("run the command again later")
		}
		u.note(lock.ToolchainName, "%s", what)
		t, same = old, true
	}
	if older := olderPackages(old, t); len(older) > 0 {
		u.note(lock.ToolchainName, "older than what was locked: %s", few(older))
	}
	if same {
		t.Image = old.Image
	}
	t.Relocked = ""
	if u.mark {
		t.Relocked = cmp.Or(old.Relocked, describeToolchain(old))
	}
	u.Lock.Toolchain = t
	if !same || old.Relocked != t.Relocked {
		u.Changes = append(u.Changes, Change{Name: lock.ToolchainName, Old: describeToolchain(old), New: describeToolchain(t)})
	}
	return nil
}

// few names the first of some things and counts the others.
func few(names []string) string {
	const most = 3
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// describeToolchain is the toolchain's "version" for people.
func describeToolchain(t lock.Toolchain) string {
	if t.Suite == "" {
		return ""
	}
	return fmt.Sprintf("%s, %d packages", t.Suite, len(t.Packages))
}

func (u *updating) setGo(g lock.Go) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	old := u.Lock.Go
	same := old.Version == g.Version && slices.Equal(old.Modules, g.Modules)
	if u.mark {
		if same {
			return fault.Errorf(fault.Source, "%s could not be fetched, and there is no other of this version", g.Version).Hintf("try again later")
		}
		g.Relocked = cmp.Or(old.Relocked, old.Version)
	}
	if !u.mark {
		g.Relocked = ""
	}
	u.Lock.Go = g
	if !same || old.Relocked != g.Relocked {
		u.Changes = append(u.Changes, Change{Name: lock.GoName, Old: old.Version, New: g.Version})
	}
	return nil
}
