package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/store"
)

// sourcePackage is one version of a source package in a suite.
type sourcePackage struct {
	Name, Version, Directory string
	Files                    []sourceFile
}

type sourceFile struct {
	Name   string
	Digest store.Digest
	Size   int64
}

// parseSourcePackages reads what apt-cache showsrc prints. Paragraphs without
// SHA-256 sums are left out.
func parseSourcePackages(r io.Reader) ([]sourcePackage, error) {
	var out []sourcePackage
	err := eachStanza(r, func(s stanza) error {
		p := sourcePackage{Name: s["package"], Version: s["version"], Directory: s["directory"]}
		for line := range strings.Lines(s["checksums-sha256"]) {
			w := strings.Fields(line)
			if len(w) != 3 {
				continue
			}
			d, err := store.ParseDigest("sha256:" + w[0])
			size, err2 := strconv.ParseInt(w[1], 10, 64)
			if err != nil || err2 != nil || size < 1 || size > lock.MaxSize || path.Base(w[2]) != w[2] {
				continue
			}
			p.Files = append(p.Files, sourceFile{w[2], d, size})
		}
		if p.Name != "" && p.Version != "" && len(p.Files) > 0 && !strings.Contains("/"+p.Directory+"/", "/../") {
			out = append(out, p)
		}
		return nil
	})
	return out, err
}

// sourcePackages are the versions of a source package that a suite has, newest
// first; none is not an error.
func (a *apt) sourcePackages(ctx context.Context, suite, name string, fresh bool) ([]sourcePackage, error) {
	l, err := a.lists(ctx, sourceLists, suite, fresh)
	if err != nil {
		return nil, err
	}
	var out []sourcePackage
	err = l.run(ctx, "apt-cache", func(r io.Reader) (err error) {
		out, err = parseSourcePackages(r)
		return err
	}, "showsrc", "--only-source", name)
	if err != nil && (strings.Contains(err.Error(), "Unable to locate package") ||
		strings.Contains(err.Error(), "You must put some 'deb-src' URIs")) {
		// The second is what apt says of a suite without any source package,
		// as SUITE-updates is now and then. Its exit code is the same for all.
		return nil, nil
	}
	out = slices.DeleteFunc(out, func(p sourcePackage) bool { return p.Name != name })
	slices.SortStableFunc(out, func(a, b sourcePackage) int { return CompareVersions(b.Version, a.Version) })
	return out, err
}

// poolURLs are where a file of the pool may lie: below each archive of the
// machine, those of the suite's kind first.
func (a *apt) poolURLs(suite, file string) ([]string, error) {
	archives, err := a.archives()
	if err != nil {
		return nil, err
	}
	security := strings.HasSuffix(suite, "-security")
	var first, then []string
	for _, ar := range archives {
		u := ar.URI + "/" + escapePath(file)
		if ar.Security == security {
			first = append(first, u)
		} else {
			then = append(then, u)
		}
	}
	return append(first, then...), nil
}

// escapePath escapes a path as the archive's own lists do: + and ~ may stand,
// but some proxies want + escaped.
func escapePath(p string) string {
	return strings.ReplaceAll((&url.URL{Path: p}).EscapedPath(), "+", "%2b")
}

// poolDirectory is where Debian keeps a source package of main, by the suite it
// is in (Debian policy, "pool/main/m/musl", "pool/main/libf/libffi"; the
// security archive has pool/updates/main).
func poolDirectory(suite, name string) string {
	prefix := name[:1]
	if strings.HasPrefix(name, "lib") && len(name) > 3 {
		prefix = name[:4]
	}
	main := "pool/main/"
	if strings.HasSuffix(suite, "-security") {
		main = "pool/updates/main/"
	}
	return main + prefix + "/" + name
}

// fetchDebian brings the file of a Debian source package. It first asks for
// the place in the pool where the file must lie, which needs no lists and also
// finds versions that the suite has dropped but the archive has not; then for
// where the suite's lists say that a file with this digest is.
func (f *Fetcher) fetchDebian(ctx context.Context, b blob, file string, m lock.Mirror) error {
	tried := make(map[string]bool)
	at := func(directory string) error {
		urls, err := f.apt.poolURLs(m.Suite, path.Join(directory, file))
		if err != nil {
			return err
		}
		var failed error
		for _, u := range urls {
			if tried[u] {
				continue
			}
			tried[u] = true
			err := f.downloadAny(ctx, b, u)
			if err == nil || !tryNext(ctx, err) {
				return err
			}
			failed = worse(failed, err)
		}
		return failed
	}
	err := at(poolDirectory(m.Suite, m.Source))
	if err == nil || !isGone(err) {
		return err
	}
	for _, fresh := range []bool{false, true} {
		found, lerr := f.apt.sourcePackages(ctx, m.Suite, m.Source, fresh)
		if lerr != nil {
			// Without lists nobody knows whether it lies elsewhere.
			return fmt.Errorf("%v; %w", err, lerr)
		}
		var versions []string
		for _, p := range found {
			versions = append(versions, p.Version)
			for _, sf := range p.Files {
				if sf.Digest != b.digest {
					continue
				}
				file = sf.Name
				next := at(p.Directory)
				if next == nil && f.store.Has(b.digest) {
					return nil
				}
				if next != nil && !isGone(next) {
					return next
				}
			}
		}
		if fresh {
			has := "nothing"
			if len(versions) > 0 {
				has = strings.Join(versions, ", ")
			}
			return &goneError{fmt.Sprintf("%s is not in the archive (%v); %s has %s", file, err, m.Suite, has)}
		}
	}
	return err
}

// exists asks whether a URL is there, without its bytes. It is false only when
// the server said so.
func (f *Fetcher) exists(ctx context.Context, raw string) (bool, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return false, err
	}
	switch u.Scheme {
	case "http", "https":
	case "file", "copy":
		_, err := os.Stat(u.Path)
		if errors.Is(err, os.ErrNotExist) {
			return false, nil
		}
		return err == nil, err
	default:
		return true, nil // apt's own business: the download will tell
	}
	var resp *http.Response
	err = f.hosts.do(ctx, u.Host, func() error {
		if resp, err = f.request(ctx, http.MethodHead, u, 0); err != nil {
			return err
		}
		return resp.Body.Close()
	})
	if err != nil {
		return false, err
	}
	if resp.StatusCode == http.StatusOK {
		return true, nil
	}
	if err := statusError(resp); !isGone(err) {
		return false, fmt.Errorf("%s: %w", u.Redacted(), err)
	}
	return false, nil
}
