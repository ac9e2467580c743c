package source

import (
	"context"
	"slices"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// kind is one way in which sources come. Another one is a file with such a
// type, its declaration in package recipe, its scheme in package lock, and a
// line in kinds.
type kind interface {
	// scheme is that of a lock's mirrors of this kind.
	scheme() string
	// of says whether a source is declared to be of this kind.
	of(decl recipe.Source) bool
	// resolve makes the lock's entry of a declaration. It keeps an entry that is
	// as good: of the same bytes, or newer than all that can be had. The notes
	// are for people.
	resolve(ctx context.Context, f *Fetcher, name string, decl recipe.Source, keep *lock.Source) (lock.Source, []string, error)
	// fetch brings the bytes of an entry from a mirror of this kind into the
	// store, where they have the entry's digest or do not come to be.
	fetch(ctx context.Context, f *Fetcher, b blob, s lock.Source, decl recipe.Source, m lock.Mirror) error
	// stale says why an entry is not of the declaration, "" if it is. Series and
	// https mirrors have been compared.
	stale(decl recipe.Source, s lock.Source) string
	// outdated finds newer versions. The notes say what could not be asked.
	outdated(ctx context.Context, f *Fetcher, s lock.Source, decl recipe.Source) (Outdated, []string, error)
}

// kinds are all of them. A file at a URL is what is of no other kind.
var kinds = []kind{debianKind{}, gitKind{}, npmKind{}, directoryKind{}, httpsKind{}}

func kindOf(decl recipe.Source) kind {
	return kinds[slices.IndexFunc(kinds, func(k kind) bool { return k.of(decl) })]
}

// kindOfMirror is the kind of a mirror that lock.ParseMirror has read.
func kindOfMirror(m lock.Mirror) kind {
	return kinds[slices.IndexFunc(kinds, func(k kind) bool { return k.scheme() == m.Scheme })]
}

// Resolve makes the lock's entry for a source as it is declared.
func (f *Fetcher) Resolve(ctx context.Context, name string, decl recipe.Source) (lock.Source, error) {
	s, _, err := kindOf(decl).resolve(ctx, f, name, decl, nil)
	return s, err
}

// declaredURLs are the https mirrors of a version.
func declaredURLs(decl recipe.Source, version string) []string {
	if decl.URL == "" {
		return nil
	}
	urls := []string{expandURL(decl.URL, version)}
	for _, m := range decl.Mirrors {
		urls = append(urls, expandURL(m, version))
	}
	return urls
}

// treeEntry is the entry of a source that is a tree, whose tar has been stored.
func treeEntry(name, version string, stored lock.Source, m lock.Mirror) lock.Source {
	return lock.Source{Name: name, Version: version, File: name + "-" + version + ".tar",
		Digest: stored.Digest, Size: stored.Size, Mirrors: []string{m.String()}}
}

// putTree puts a tree into the store as a tar that is the same wherever it is
// made, and returns its digest and size. With a digest in b, another one is an
// error of class fault.Verification.
func (f *Fetcher) putTree(ctx context.Context, b blob, t *rootfs.Tree) (lock.Source, error) {
	w, err := f.store.Create(ctx)
	if err != nil {
		return lock.Source{}, err
	}
	if err := rootfs.WriteTar(w, t, 0); err != nil {
		w.Abort()
		return lock.Source{}, err
	}
	d, n, err := w.Commit(b.digest)
	return lock.Source{Digest: d, Size: n}, err
}
