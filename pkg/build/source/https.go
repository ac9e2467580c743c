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
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// httpsKind is a file at a URL. Which versions there are says a page that lists
// them, or the declaration; which bytes are right says the declared sum or,
// without one, the server when the source is locked.
type httpsKind struct{}

func (httpsKind) scheme() string        { return lock.SchemeHTTPS }
func (httpsKind) of(recipe.Source) bool { return true }

func (httpsKind) fetch(ctx context.Context, f *Fetcher, b blob, _ lock.Source, _ recipe.Source, m lock.Mirror) error {
	return f.download(ctx, b, m.URL)
}

func (httpsKind) stale(decl recipe.Source, s lock.Source) string {
	if decl.Version != "" && s.Version != decl.Version {
		return fmt.Sprintf("%s is locked, and %s declared", s.Version, decl.Version)
	}
	if decl.SHA256 != "" && s.Digest.Hex() != decl.SHA256 {
		return "its digest is not the declared sha256"
	}
	return ""
}

func (k httpsKind) resolve(ctx context.Context, f *Fetcher, name string, decl recipe.Source, keep *lock.Source) (lock.Source, []string, error) {
	if f.offline {
		return lock.Source{}, nil, offlineError([]string{name + " (which versions there are)"})
	}
	if decl.URL == "" {
		return lock.Source{}, nil, fault.Errorf(fault.Usage, "source %s: nothing says where it is", name).Hintf("give debian, git, npm, directory or url")
	}
	f.tell(Event{Kind: Started, Name: name, Mirror: decl.URL})
	version := decl.Version
	if version == "" {
		in, _, err := k.versions(ctx, f, name, decl)
		if err != nil {
			return lock.Source{}, nil, err
		}
		if len(in) == 0 {
			return lock.Source{}, nil, fault.Errorf(fault.Source, "source %s: %s names no file like %s of the series %q", name, decl.List, path.Base(decl.URL), decl.Series).
				Hintf("look at the page, or give the version")
		}
		version = in[0]
	}
	if keep != nil && CompareVersions(version, keep.Version) <= 0 {
		return *keep, nil, nil
	}
	want := store.Digest("")
	var notes []string
	if decl.SHA256 != "" {
		want = store.Digest("sha256:" + decl.SHA256)
	} else {
		notes = []string{fmt.Sprintf("nobody but %s vouches for the bytes of %s; give version and sha256 to hold them against upstream's sum", hostOf(decl.URL), version)}
	}
	s := lock.Source{Name: name, Version: version, File: path.Base(expandURL(decl.URL, version)), Mirrors: declaredURLs(decl, version)}
	var failed error
	for _, m := range s.Mirrors {
		if _, err := lock.ParseMirror(m); err != nil {
			return s, nil, fault.Errorf(fault.Usage, "source %s: %w", name, err)
		}
		var err error
		if s.Digest, s.Size, err = f.take(ctx, name, m, want); err == nil {
			return s, notes, nil
		}
		err = fmt.Errorf("%s: %w", m, err)
		if !tryNext(ctx, err) {
			return s, nil, err
		}
		failed = worse(failed, err)
	}
	return s, nil, fault.Wrap(fault.Source, fmt.Errorf("source %s: %w", name, failed))
}

// versions are those that the declared list names, of the series and of others,
// newest first. Candidates and the like, which have letters, are not among
// them, unless the series itself has some.
func (httpsKind) versions(ctx context.Context, f *Fetcher, name string, decl recipe.Source) (in, beyond []string, err error) {
	text, err := f.page(ctx, name, decl.List)
	if err != nil {
		return nil, nil, fault.Wrap(fault.Source, fmt.Errorf("source %s: %s: %w", name, decl.List, err))
	}
	in, beyond = bySeries(listedVersions(string(text), path.Base(decl.URL)), decl.Series)
	return in, beyond, nil
}

// listedVersions finds the names of files that a template such as
// foo-${version}.tar.gz stands for, and returns their versions.
func listedVersions(text, template string) []string {
	want := templatePattern(template)
	var out []string
	for _, m := range want.FindAllStringSubmatch(text, -1) {
		if v, ok := matchedVersion(m); ok {
			out = append(out, v)
		}
	}
	return out
}

// templatePattern is what matches what a template with ${version} in it stands
// for; the version is in its groups.
func templatePattern(template string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString(`(?:^|[^0-9A-Za-z._+-])`)
	rest := template
	for {
		before, after, ok := strings.Cut(rest, "${version")
		b.WriteString(regexp.QuoteMeta(before))
		if !ok {
			break
		}
		how, behind, _ := strings.Cut(after, "}")
		switch separator := strings.TrimPrefix(how, ":"); separator {
		case "_", "-":
			fmt.Fprintf(&b, `([0-9]+(?:%s[0-9]+)*)`, separator)
		default:
			b.WriteString(`([0-9][0-9A-Za-z]*(?:\.[0-9A-Za-z]+)*?)`)
		}
		rest = behind
	}
	b.WriteString(`(?:$|[^0-9A-Za-z._+-])`)
	return regexp.MustCompile(b.String())
}

// matchedVersion is the version of a match, with dots; ok is false where the
// template has it several times and they are not the same.
func matchedVersion(groups []string) (v string, ok bool) {
	for i, g := range groups[1:] {
		g = strings.NewReplacer("_", ".", "-", ".").Replace(g)
		if i > 0 && g != v {
			return "", false
		}
		v = g
	}
	return v, v != ""
}

// bySeries sorts versions, newest first, into those of a series and others.
func bySeries(versions []string, series string) (in, beyond []string) {
	slices.SortFunc(versions, func(a, b string) int { return CompareVersions(b, a) })
	for _, v := range slices.Compact(versions) {
		switch {
		case inSeries(v, series) && (!hasLetter(v) || hasLetter(series)):
			in = append(in, v)
		case !hasLetter(v):
			beyond = append(beyond, v)
		}
	}
	return in, beyond
}

func hasLetter(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' })
}

func (k httpsKind) outdated(ctx context.Context, f *Fetcher, s lock.Source, decl recipe.Source) (Outdated, []string, error) {
	o := Outdated{Locked: s.Version}
	if decl.List == "" {
		return o, []string{"nothing lists its versions; give list to have newer ones seen"}, nil
	}
	in, beyond, err := k.versions(ctx, f, s.Name, decl)
	if err != nil {
		if !tryNext(ctx, err) {
			return o, nil, err
		}
		return o, []string{err.Error()}, nil
	}
	o.newer(s.Version, in, beyond, func(version string) Offer {
		offer := Offer{Version: version, Where: expandURL(decl.URL, version)}
		f.offered(&offer, func() (bool, error) { return f.exists(ctx, offer.Where) }, path.Base(offer.Where))
		return offer
	})
	return o, nil, context.Cause(ctx)
}

// newer fills in offers of versions that are newer than the locked one, down to
// the first that can be had, and of the newest beyond the series.
func (o *Outdated) newer(locked string, in, beyond []string, offer func(version string) Offer) {
	for _, v := range in {
		if CompareVersions(v, locked) <= 0 {
			break
		}
		n := offer(v)
		o.Newer = append(o.Newer, n)
		if n.Available {
			break
		}
	}
	newest := locked
	if len(in) > 0 && CompareVersions(in[0], newest) > 0 {
		newest = in[0]
	}
	if len(beyond) > 0 && CompareVersions(beyond[0], newest) > 0 {
		n := offer(beyond[0])
		o.BeyondSeries = &n
	}
}

// hostOf is the host of a URL, for messages.
func hostOf(url string) string {
	_, rest, _ := strings.Cut(url, "://")
	host, _, _ := strings.Cut(rest, "/")
	return host
}
