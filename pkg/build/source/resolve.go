package source

import (
	"context"
	"fmt"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// debianKind is the .orig tarball of a Debian source package. It comes from
// upstream where the declaration has a URL, which by convention it has only
// where Debian's tarball is upstream's, byte for byte; and else from the
// archives that this machine's apt is set up for.
type debianKind struct{}

func (debianKind) scheme() string             { return lock.SchemeDebian }
func (debianKind) of(decl recipe.Source) bool { return decl.Debian != (recipe.Debian{}) }

func (debianKind) fetch(ctx context.Context, f *Fetcher, b blob, s lock.Source, _ recipe.Source, m lock.Mirror) error {
	return f.fetchDebian(ctx, b, s.File, m)
}

// resolve takes the newest version in the series that is listed and whose
// tarball the archive really has. It looks in the declared suite, and in its
// -updates and -security, where fixes come first. It downloads no source. The
// notes say which versions are listed and cannot be had, and what could not be
// asked.
func (debianKind) resolve(ctx context.Context, f *Fetcher, name string, decl recipe.Source, keep *lock.Source) (lock.Source, []string, error) {
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

func (debianKind) outdated(ctx context.Context, f *Fetcher, s lock.Source, decl recipe.Source) (Outdated, []string, error) {
	o := Outdated{Locked: s.Version}
	found, notes, err := f.list(ctx, s.Name, decl)
	if err != nil {
		return o, nil, err
	}
	for _, l := range found {
		if l.file.Name == "" {
			continue
		}
		entry, err := l.entry(s.Name, decl)
		if err != nil {
			return o, nil, err
		}
		if entry.Digest == s.Digest || compareSources(entry, s) <= 0 {
			break
		}
		in := inSeries(l.version, decl.Series)
		if !in && (o.BeyondSeries != nil || len(o.Newer) > 0) {
			continue
		}
		offer := Offer{Version: l.version, Where: l.mirror()}
		if offer.Version == s.Version {
			offer.Version = l.pkg.Version // another tarball of the same version
		}
		f.offered(&offer, func() (bool, error) { return f.available(ctx, l) }, l.file.Name)
		if !in {
			o.BeyondSeries = &offer
			continue
		}
		if last := len(o.Newer) - 1; last >= 0 && o.Newer[last].Version == offer.Version && !o.Newer[last].Available {
			if !offer.Available {
				continue // the same in another suite
			}
			o.Newer = o.Newer[:last]
		}
		o.Newer = append(o.Newer, offer)
		if offer.Available {
			break
		}
	}
	return o, notes, context.Cause(ctx)
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
		if m, err := lock.ParseMirror(text); err == nil && m.Scheme == lock.SchemeDebian {
			return m
		}
	}
	return lock.Mirror{}
}
