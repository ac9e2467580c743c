package source

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// ResolveToolchain makes the lock's entry for the toolchain image: the named
// packages and the essential ones of the suite with everything they depend on,
// no recommendations, as apt chooses them for an empty amd64 system.
func (f *Fetcher) ResolveToolchain(ctx context.Context, suite string, packages []string) (lock.Toolchain, error) {
	if f.offline {
		return lock.Toolchain{}, offlineError([]string{"toolchain (which versions to lock)"})
	}
	f.tell(Event{Kind: Started, Name: lock.ToolchainName, Mirror: "debian:" + suite})
	for _, p := range packages {
		if p == "" || p[0] == '-' || strings.ContainsAny(p, " \t?!~") {
			return lock.Toolchain{}, fault.Errorf(fault.Usage, "toolchain: %q is not a package", p)
		}
	}
	l, err := f.apt.lists(ctx, binaryLists, suite, true)
	if err != nil {
		return lock.Toolchain{}, err
	}
	chosen := make(map[store.Digest]bool)
	args := append([]string{"install", "-o", "Acquire::ForceHash=SHA256", "--print-uris", "-qq", "-y", "--", "?essential"}, packages...)
	err = l.run(ctx, "apt-get", func(r io.Reader) error {
		uris, err := parseURIs(r)
		for _, u := range uris {
			chosen[u.Digest] = true
		}
		return err
	}, args...)
	if err != nil {
		return lock.Toolchain{}, err
	}
	t := lock.Toolchain{Suite: suite}
	err = l.run(ctx, "apt-cache", func(r io.Reader) error {
		return eachStanza(r, func(s stanza) error {
			d, err := store.ParseDigest("sha256:" + s["sha256"])
			if err != nil || !chosen[d] {
				return nil
			}
			size, err := strconv.ParseInt(s["size"], 10, 64)
			if err != nil {
				return fault.Errorf(fault.Source, "package %s: size %q", s["package"], s["size"])
			}
			delete(chosen, d)
			t.Packages = append(t.Packages, lock.DebPackage{Name: s["package"], Version: s["version"], Arch: s["architecture"],
				File: path.Clean(s["filename"]), Digest: d, Size: size})
			return nil
		})
	}, "dumpavail")
	if err != nil {
		return lock.Toolchain{}, err
	}
	if len(chosen) > 0 || len(t.Packages) == 0 {
		return lock.Toolchain{}, fault.Errorf(fault.Source, "toolchain: apt chose %d packages that its lists of %s do not have", len(chosen), suite)
	}
	slices.SortFunc(t.Packages, func(a, b lock.DebPackage) int { return strings.Compare(a.Name, b.Name) })
	return t, nil
}

// changedPackages are those of a toolchain that another does not have with the
// same bytes.
func changedPackages(old, t lock.Toolchain) []lock.DebPackage {
	had := make(map[store.Digest]bool)
	for _, p := range old.Packages {
		had[p.Digest] = true
	}
	var out []lock.DebPackage
	for _, p := range t.Packages {
		if !had[p.Digest] {
			out = append(out, p)
		}
	}
	return out
}

// absentPackages are the packages of t, by file name, that old does not have
// and that the archives say they do not have either: lists are ahead of files
// now and then.
func (f *Fetcher) absentPackages(ctx context.Context, old, t lock.Toolchain) ([]string, error) {
	var mu sync.Mutex
	var absent []string
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(f.parallel)
	for _, p := range changedPackages(old, t) {
		if f.store.Has(p.Digest) {
			continue
		}
		g.Go(func() error {
			ok, err := f.inPool(gctx, t.Suite, p.File)
			if err != nil {
				return fault.Wrap(fault.Source, fmt.Errorf("toolchain: %s: %w", path.Base(p.File), err))
			}
			if !ok {
				mu.Lock()
				defer mu.Unlock()
				absent = append(absent, path.Base(p.File))
			}
			return nil
		})
	}
	err := g.Wait()
	slices.Sort(absent)
	return absent, err
}

// olderPackages are the packages of t that are older than in old, in words.
func olderPackages(old, t lock.Toolchain) []string {
	var older []string
	for _, p := range t.Packages {
		for _, o := range old.Packages {
			if o.Name == p.Name && o.Arch == p.Arch && CompareVersions(p.Version, o.Version) < 0 {
				older = append(older, fmt.Sprintf("%s %s (was %s)", p.Name, p.Version, o.Version))
			}
		}
	}
	return older
}

// aptURI is a line of apt-get --print-uris.
type aptURI struct {
	URI, File string
	Size      int64
	Digest    store.Digest
}

// parseURIs reads what apt-get --print-uris prints: 'URI' FILE SIZE SHA256:HEX.
// Other lines are notices.
func parseURIs(r io.Reader) ([]aptURI, error) {
	var out []aptURI
	in := bufio.NewScanner(r)
	in.Buffer(make([]byte, 64<<10), maxLine)
	for in.Scan() {
		rest, ok := strings.CutPrefix(in.Text(), "'")
		if !ok {
			continue
		}
		uri, rest, ok := strings.Cut(rest, "' ")
		w := strings.Fields(rest)
		if !ok || len(w) != 3 {
			continue
		}
		size, err := strconv.ParseInt(w[1], 10, 64)
		hexa, isSHA := strings.CutPrefix(w[2], "SHA256:")
		d, err2 := store.ParseDigest("sha256:" + hexa)
		if err != nil || err2 != nil || !isSHA || size < 0 {
			return nil, fault.Errorf(fault.Source, "apt names no SHA-256 for %s", w[0])
		}
		out = append(out, aptURI{uri, w[0], size, d})
	}
	return out, in.Err()
}
