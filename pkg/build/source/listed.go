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

// listed is one version of a source that an archive's lists have. Whether its
// file is there is another question.
type listed struct {
	suite   string
	pkg     sourcePackage
	version string // upstream's
	// file is the tarball with upstream's source; a zero one where the package
	// has none of the declared kind.
	file sourceFile
}

// mirror is the lock's name for the version's files.
func (l listed) mirror() string {
	return lock.Mirror{Scheme: lock.SchemeDebian, Suite: l.suite, Source: l.pkg.Name, Version: l.pkg.Version}.String()
}

// entry is the version as a lock's entry.
func (l listed) entry(name string, decl recipe.Source) (lock.Source, error) {
	s := lock.Source{Name: name, Version: l.version, File: l.file.Name, Digest: l.file.Digest, Size: l.file.Size}
	s.Mirrors = append(declaredURLs(decl, l.version), l.mirror())
	for _, m := range s.Mirrors {
		if _, err := lock.ParseMirror(m); err != nil {
			return s, fault.Errorf(fault.Usage, "source %s: %w", name, err)
		}
	}
	return s, nil
}

// absentNote says of versions, newest first, that they are listed and their
// files are not there; "" for none.
func absentNote(absent []listed) string {
	if len(absent) == 0 {
		return ""
	}
	l := absent[0]
	others := map[string]bool{}
	for _, o := range absent {
		if o.file.Name != l.file.Name {
			others[o.file.Name] = true
		}
	}
	also := ""
	if len(others) > 0 {
		also = fmt.Sprintf(" and those of %d older ones", len(others))
	}
	return fmt.Sprintf("%s is listed in %s, but the archive answers 404 for %s%s; it may have it later", l.pkg.Version, l.suite, l.file.Name, also)
}

// suitesOf are the suites in which the versions for a declared one are: itself,
// and those where fixes come first.
func suitesOf(suite string) []string {
	if strings.Contains(suite, "-") {
		return []string{suite} // somebody wants trixie-backports and nothing else
	}
	return []string{suite, suite + "-updates", suite + "-security"}
}

// versions lists a source package of the declared suite, and of its -updates
// and -security where this machine's apt has such archives, newest first; one
// version of several suites is the declared one's. The notes say which suite
// could not be asked. The lists are refreshed once a run.
func (f *Fetcher) versions(ctx context.Context, d recipe.Debian) (all []listed, notes []string, err error) {
	for _, suite := range suitesOf(d.Suite) {
		found, err := f.versionsIn(ctx, suite, d)
		if err != nil && suite != d.Suite && tryNext(ctx, err) {
			notes = append(notes, fmt.Sprintf("%s could not be asked, a fix that is only there was not seen: %v", suite, err))
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		all = append(all, found...)
	}
	slices.SortStableFunc(all, func(a, b listed) int { return CompareVersions(b.pkg.Version, a.pkg.Version) })
	return all, notes, nil
}

func (f *Fetcher) versionsIn(ctx context.Context, suite string, d recipe.Debian) ([]listed, error) {
	if suite != d.Suite {
		if ok, err := f.hasSuite(ctx, suite); err != nil || !ok {
			return nil, err
		}
	}
	found, err := f.apt.sourcePackages(ctx, suite, d.Source, true)
	if err != nil {
		return nil, err
	}
	var out []listed
	for _, p := range found {
		file, _ := p.tarball(d.Component)
		out = append(out, listed{suite: suite, pkg: p, version: upstreamVersion(p.Version), file: file})
	}
	return out, nil
}

// hasSuite says whether this machine's apt has archives of the kind that has
// such a suite, SUITE-updates or SUITE-security, and whether they have this
// one: unstable, for example, has no updates.
func (f *Fetcher) hasSuite(ctx context.Context, suite string) (bool, error) {
	archives, err := f.apt.archives()
	if err != nil {
		return false, err
	}
	security := strings.HasSuffix(suite, "-security")
	for _, ar := range archives {
		if ar.Security != security || !security && !ar.Updates {
			continue
		}
		for _, file := range []string{"InRelease", "Release"} {
			if ok, err := f.exists(ctx, ar.URI+"/dists/"+suite+"/"+file); err != nil || ok {
				return ok, err
			}
		}
	}
	return false, nil
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

// available asks whether the archives of the machine have the version's file.
func (f *Fetcher) available(ctx context.Context, l listed) (bool, error) {
	return f.inPool(ctx, l.suite, path.Join(l.pkg.Directory, l.file.Name))
}

// inPool asks the archives of the machine whether they have a file. It is
// false only when each of them said so.
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
