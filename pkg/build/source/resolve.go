package source

import (
	"context"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Resolve makes the lock's entry for a source: the newest version in its
// series that the declared suite lists and whose tarball the archive really
// has. The lists are refreshed once a run. It downloads no source.
//
// Upstream's URL becomes the first mirror if sources.yaml gives one, which by
// convention it does only where Debian's tarball is upstream's, byte for byte.
func (f *Fetcher) Resolve(ctx context.Context, name string, decl recipe.Source) (lock.Source, error) {
	if f.offline {
		return lock.Source{}, offlineError([]string{name + " (which version to lock)"})
	}
	d := decl.Debian
	if d.Suite == "" || d.Source == "" {
		return lock.Source{}, fault.Errorf(fault.Usage, "source %s: debian.suite and debian.source are needed to lock it", name)
	}
	f.tell(Event{Kind: Started, Name: name, Mirror: "debian:" + d.Suite + "/" + d.Source})
	found, err := f.apt.sourcePackages(ctx, d.Suite, d.Source, true)
	if err != nil {
		return lock.Source{}, fmt.Errorf("source %s: %w", name, err)
	}
	var said []string
	for _, p := range found {
		version := upstreamVersion(p.Version)
		if !inSeries(version, decl.Series) {
			said = append(said, p.Version+" is not in the series "+decl.Series)
			continue
		}
		file, ok := p.tarball(d.Component)
		if !ok {
			said = append(said, p.Version+" has no such tarball")
			continue
		}
		ok, err := f.inPool(ctx, d.Suite, path.Join(p.Directory, file.Name))
		if err != nil {
			return lock.Source{}, fault.Wrap(fault.Source, fmt.Errorf("source %s: %w", name, err))
		}
		if !ok {
			said = append(said, file.Name+" is listed but gone from the archive")
			continue
		}
		s := lock.Source{Name: name, Version: version, File: file.Name, Digest: file.Digest, Size: file.Size}
		if decl.URL != "" {
			s.Mirrors = append(s.Mirrors, expandURL(decl.URL, version))
		}
		s.Mirrors = append(s.Mirrors, lock.Mirror{Suite: d.Suite, Source: d.Source, Version: p.Version}.String())
		for _, m := range s.Mirrors {
			if _, err := lock.ParseMirror(m); err != nil {
				return lock.Source{}, fault.Errorf(fault.Usage, "source %s: %w", name, err)
			}
		}
		return s, nil
	}
	if len(said) == 0 {
		said = []string{"the suite has no source package " + d.Source}
	}
	return lock.Source{}, fault.Errorf(fault.Source, "source %s: nothing to lock in Debian's %s: %s", name, d.Suite, strings.Join(said, "; ")).
		Hintf("name another suite or series for %s in sources.yaml", name)
}

// tarball picks NAME_VERSION.orig.tar.*, the orig tarball of a component, or a
// native package's only tarball.
func (p sourcePackage) tarball(component string) (sourceFile, bool) {
	orig := ".orig"
	if component != "" {
		orig += "-" + component
	}
	want := regexp.MustCompile(`^[^_]+_[^_]+` + regexp.QuoteMeta(orig) + `\.tar\.(gz|bz2|xz|zst)$`)
	i := slices.IndexFunc(p.Files, func(f sourceFile) bool { return want.MatchString(f.Name) })
	if i < 0 && component == "" {
		native := regexp.MustCompile(`^[^_]+_[^_]+\.tar\.(gz|bz2|xz|zst)$`)
		i = slices.IndexFunc(p.Files, func(f sourceFile) bool {
			return native.MatchString(f.Name) && !strings.Contains(f.Name, ".debian.tar.") && !strings.Contains(f.Name, ".orig")
		})
	}
	if i < 0 {
		return sourceFile{}, false
	}
	return p.Files[i], true
}

// inPool asks the archives of the machine whether they have a file.
func (f *Fetcher) inPool(ctx context.Context, suite, file string) (bool, error) {
	urls, err := f.apt.poolURLs(suite, file)
	if err != nil {
		return false, err
	}
	var failed error
	for _, u := range urls {
		ok, err := f.exists(ctx, u)
		if ok || ctx.Err() != nil {
			return ok, err
		}
		if err != nil {
			failed = err
		}
	}
	return false, failed
}

// expandURL puts a version in the place of ${version}; ${version:_} and
// ${version:-} are the version with its dots replaced.
func expandURL(url, version string) string {
	return strings.NewReplacer(
		"${version}", version,
		"${version:_}", strings.ReplaceAll(version, ".", "_"),
		"${version:-}", strings.ReplaceAll(version, ".", "-"),
	).Replace(url)
}
