package source

import (
	"context"
	"fmt"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Resolve makes the lock's entry for a source: the newest version in its
// series that is listed and whose tarball the archive really has. It looks in
// the declared suite, and in its -updates and -security, where fixes come
// first. It downloads no source.
//
// Upstream's URL becomes the first mirror if sources.yaml gives one, which by
// convention it does only where Debian's tarball is upstream's, byte for byte.
func (f *Fetcher) Resolve(ctx context.Context, name string, decl recipe.Source) (lock.Source, error) {
	s, _, err := f.resolve(ctx, name, decl, nil)
	return s, err
}

// resolve is Resolve that keeps an entry which is as good: the one of the same
// bytes, or one that is newer than all that can be had. The notes say which
// versions are listed and cannot be had, and what could not be asked.
func (f *Fetcher) resolve(ctx context.Context, name string, decl recipe.Source, keep *lock.Source) (lock.Source, []string, error) {
	found, notes, err := f.list(ctx, name, decl)
	if err != nil {
		return lock.Source{}, nil, err
	}
	var said []string
	var absent []listed
	done := func(s lock.Source) (lock.Source, []string, error) {
		if note := absentNote(absent); note != "" {
			notes = append(notes, note)
		}
		return s, notes, nil
	}
	for _, l := range found {
		switch {
		case !inSeries(l.version, decl.Series):
			said = append(said, l.pkg.Version+" is not in the series "+decl.Series)
			continue
		case l.file.Name == "":
			said = append(said, l.pkg.Version+" has no such tarball")
			continue
		}
		s, err := l.entry(name, decl)
		if err != nil {
			return lock.Source{}, nil, err
		}
		if keep != nil && (s.Digest == keep.Digest || compareSources(s, *keep) <= 0) {
			return done(*keep)
		}
		ok, err := f.available(ctx, l)
		if err != nil {
			return lock.Source{}, nil, fault.Wrap(fault.Source, fmt.Errorf("source %s: %w", name, err))
		}
		if ok {
			return done(s)
		}
		absent = append(absent, l)
	}
	if keep != nil {
		return done(*keep)
	}
	if note := absentNote(absent); note != "" {
		said = append(said, note)
	}
	if len(said) == 0 {
		said = []string{"there is no source package " + decl.Debian.Source}
	}
	return lock.Source{}, nil, fault.Errorf(fault.Source, "source %s: nothing to lock in Debian's %s: %s", name, decl.Debian.Suite, strings.Join(append(said, notes...), "; ")).
		Hintf("try again later, or name another suite or series for %s in sources.yaml", name)
}

// list is what the archives list of a source.
func (f *Fetcher) list(ctx context.Context, name string, decl recipe.Source) ([]listed, []string, error) {
	if f.offline {
		return nil, nil, offlineError([]string{name + " (which versions there are)"})
	}
	d := decl.Debian
	if d.Suite == "" || d.Source == "" {
		return nil, nil, fault.Errorf(fault.Usage, "source %s: debian.suite and debian.source are needed to lock it", name)
	}
	f.tell(Event{Kind: Started, Name: name, Mirror: "debian:" + d.Suite + "/" + d.Source})
	found, notes, err := f.versions(ctx, d)
	if err != nil {
		return nil, nil, fmt.Errorf("source %s: %w", name, err)
	}
	return found, notes, nil
}

// compareSources orders two entries of one source by Debian's versions, which
// also tell apart two tarballs of one upstream version, or by upstream's where
// they are not of one Debian package.
func compareSources(a, b lock.Source) int {
	da, db := debianMirror(a), debianMirror(b)
	if da.Source != "" && da.Source == db.Source {
		return CompareVersions(da.Version, db.Version)
	}
	return CompareVersions(a.Version, b.Version)
}

// debianMirror is the entry's Debian package; a zero one if it has none.
func debianMirror(s lock.Source) lock.Mirror {
	for _, text := range s.Mirrors {
		if m, err := lock.ParseMirror(text); err == nil && m.Source != "" {
			return m
		}
	}
	return lock.Mirror{}
}
