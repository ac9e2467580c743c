package source

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// gitKind is the tree of a commit, as a tar with one directory at its top that
// has the source's name. It is made of git's objects and not by git archive, so
// that neither attributes nor the version of git have a say in its bytes.
//
// The repository is fetched by the machine's own git, with what the user has
// set up for it: credentials, proxies, keys of ssh.
type gitKind struct{}

func (gitKind) scheme() string             { return lock.SchemeGit }
func (gitKind) of(decl recipe.Source) bool { return decl.Git != (recipe.Git{}) }

// gitTarget is a commit that may be locked, and the version it is known by; ""
// where that follows from its date.
type gitTarget struct{ version, commit string }

func (k gitKind) resolve(ctx context.Context, f *Fetcher, name string, decl recipe.Source, keep *lock.Source) (lock.Source, []string, error) {
	if f.offline {
		return lock.Source{}, nil, offlineError([]string{name + " (which commits there are)"})
	}
	f.tell(Event{Kind: Started, Name: name, Mirror: decl.Git.URL})
	fail := func(err error) (lock.Source, []string, error) {
		return lock.Source{}, nil, fault.Wrap(fault.Source, fmt.Errorf("source %s: %w", name, err))
	}
	target := gitTarget{commit: decl.Git.Commit}
	if target.commit == "" {
		in, _, err := k.targets(ctx, f, decl)
		if err != nil {
			return fail(err)
		}
		if len(in) == 0 {
			return fail(fault.Errorf(fault.Source, "%s has no %s", decl.Git.URL, wanted(decl)).Hintf("look at the names of its tags and branches, and at the declared series"))
		}
		target = in[0]
	}
	var notes []string
	if keep != nil {
		locked := schemeMirror(*keep, lock.SchemeGit).Commit
		switch older := target.version != "" && CompareVersions(target.version, keep.Version) < 0; {
		case locked == target.commit, older:
			return *keep, nil, nil
		case target.version == keep.Version:
			notes = []string{fmt.Sprintf("the tag of %s names the commit %.12s now, and did name %.12s: a tag should never move, so look what that is", target.version, target.commit, locked)}
		}
	}
	t, err := f.commitTree(ctx, name, decl.Git.URL, target.commit)
	if err != nil {
		return fail(err)
	}
	defer t.close()
	stored, err := f.putTree(ctx, blob{name: name}, t.tree)
	if err != nil {
		return fail(err)
	}
	m := lock.Mirror{Scheme: lock.SchemeGit, URL: decl.Git.URL, Commit: target.commit}
	return treeEntry(name, cmp.Or(target.version, dateVersion(t.date)), stored, m), notes, nil
}

// dateVersion is the version of a commit that has no other: one that apk takes,
// and that is older than any release.
func dateVersion(date time.Time) string { return "0_git" + date.UTC().Format("20060102150405") }

// wanted is what a declaration asks of a repository, in words.
func wanted(decl recipe.Source) string {
	if decl.Git.Branch != "" {
		return "branch " + decl.Git.Branch
	}
	if decl.Series != "" {
		return fmt.Sprintf("tag like %s of the series %s", decl.Git.Tag, decl.Series)
	}
	return "tag like " + decl.Git.Tag
}

// targets are what the repository has of what is declared, newest first, and
// the newer ones beyond the series.
func (gitKind) targets(ctx context.Context, f *Fetcher, decl recipe.Source) (in, beyond []gitTarget, err error) {
	if decl.Git.Branch != "" {
		refs, err := f.gitRefs(ctx, decl.Git.URL, "refs/heads/"+decl.Git.Branch)
		if err != nil {
			return nil, nil, err
		}
		if commit, ok := refs["refs/heads/"+decl.Git.Branch]; ok {
			in = append(in, gitTarget{commit: commit})
		}
		return in, nil, nil
	}
	refs, err := f.gitRefs(ctx, decl.Git.URL, "refs/tags/*")
	if err != nil {
		return nil, nil, err
	}
	commits := map[string]string{} // by version
	want := templatePattern(decl.Git.Tag)
	for ref, commit := range refs {
		tag := strings.TrimPrefix(ref, "refs/tags/")
		m := want.FindStringSubmatch(tag)
		if m == nil || m[0] != tag {
			continue
		}
		if v, ok := matchedVersion(m); ok {
			commits[v] = commit
		}
	}
	var versions []string
	for v := range commits {
		versions = append(versions, v)
	}
	of := func(versions []string) (out []gitTarget) {
		for _, v := range versions {
			out = append(out, gitTarget{v, commits[v]})
		}
		return out
	}
	a, b := bySeries(versions, decl.Series)
	return of(a), of(b), nil
}

func (k gitKind) fetch(ctx context.Context, f *Fetcher, b blob, s lock.Source, _ recipe.Source, m lock.Mirror) error {
	t, err := f.commitTree(ctx, s.Name, m.URL, m.Commit)
	if err != nil {
		return err
	}
	defer t.close()
	_, err = f.putTree(ctx, b, t.tree)
	return err
}

func (gitKind) stale(decl recipe.Source, s lock.Source) string {
	m := schemeMirror(s, lock.SchemeGit)
	switch {
	case m.URL != decl.Git.URL:
		return fmt.Sprintf("its commit is of %s, not of the declared %s", m.URL, decl.Git.URL)
	case decl.Git.Commit != "" && m.Commit != decl.Git.Commit:
		return fmt.Sprintf("the commit %.12s is locked, and %.12s declared", m.Commit, decl.Git.Commit)
	case decl.Git.Tag != "" && strings.HasPrefix(s.Version, "0_git"):
		return "locked without a tag, and one is declared"
	}
	return ""
}

func (k gitKind) outdated(ctx context.Context, f *Fetcher, s lock.Source, decl recipe.Source) (Outdated, []string, error) {
	o := Outdated{Locked: s.Version}
	if decl.Git.Commit != "" {
		return o, []string{"a commit is declared, and no newer one is looked for"}, nil
	}
	in, beyond, err := k.targets(ctx, f, decl)
	if err != nil {
		if !tryNext(ctx, err) {
			return o, nil, err
		}
		return o, []string{err.Error()}, nil
	}
	where := func(t gitTarget) string {
		return lock.Mirror{Scheme: lock.SchemeGit, URL: decl.Git.URL, Commit: t.commit}.String()
	}
	if decl.Git.Branch != "" {
		if len(in) > 0 && in[0].commit != schemeMirror(s, lock.SchemeGit).Commit {
			o.Newer = []Offer{{Version: fmt.Sprintf("%s of %s", in[0].commit[:12], decl.Git.Branch), Where: where(in[0]), Available: true}}
		}
		return o, nil, nil
	}
	versions := func(targets []gitTarget) (out []string) {
		for _, t := range targets {
			out = append(out, t.version)
		}
		return out
	}
	o.newer(s.Version, versions(in), versions(beyond), func(version string) Offer {
		i := slices.IndexFunc(slices.Concat(in, beyond), func(t gitTarget) bool { return t.version == version })
		return Offer{Version: version, Where: where(slices.Concat(in, beyond)[i]), Available: true}
	})
	return o, nil, nil
}
