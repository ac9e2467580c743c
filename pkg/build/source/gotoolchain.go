package source

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/dirhash"

	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// goModule is the module that Go's toolchains are served as, and goHost the
// platform compile steps run on.
const (
	goModule = "golang.org/toolchain"
	goHost   = "linux-amd64"
)

func goModuleVersion(version string) string { return "v0.0.1-" + version + "." + goHost }

// GoToolchain brings the locked Go toolchain into the store: the zip file of
// the module golang.org/toolchain, whose entries begin with
// "golang.org/toolchain@VERSION/". It is checked against the h1 sum and the
// digest of the lock.
func (f *Fetcher) GoToolchain(ctx context.Context, g lock.Go) (store.Digest, error) {
	for _, m := range g.Modules {
		if m.Name != goModule || !strings.HasSuffix(m.Version, "."+goHost) {
			continue
		}
		if f.store.Has(m.Digest) {
			return m.Digest, nil
		}
		if f.offline {
			return "", offlineError([]string{lock.GoName + " " + m.Version})
		}
		got, err := f.goZip(ctx, m.Version)
		if err != nil {
			return "", err
		}
		defer os.RemoveAll(got.dir)
		if got.sum != m.Sum {
			return "", fault.Errorf(fault.Verification, "%s@%s: wrong module hash: expected %s, got %s", m.Name, m.Version, m.Sum, got.sum)
		}
		d, n, err := f.store.Adopt(ctx, got.path, m.Digest)
		if err != nil {
			return "", err
		}
		f.tell(Event{Kind: Finished, Name: lock.GoName, Done: n, Total: n})
		return d, nil
	}
	return "", lock.NotLocked(lock.GoName, "", fault.Errorf(fault.Usage, "the lock has no Go toolchain for %s", goHost))
}

// goReleases are the Go versions ("go1.26.8") that the module proxy lists
// toolchains of for goHost, newest first, without betas and candidates.
func (f *Fetcher) goReleases(ctx context.Context) ([]string, error) {
	dir, err := os.MkdirTemp(filepath.Join(f.cache, "gomod"), "list-")
	if err != nil {
		return nil, store.FullDisk(f.cache, err)
	}
	defer os.RemoveAll(dir)
	// The machine's own module cache knows only what it has.
	g := goRun{f: f, dir: dir, modCache: filepath.Join(dir, "mod"), proxiesOnly: true}
	out, err := g.run(ctx, "list", "-m", "-versions", goModule)
	if err != nil {
		return nil, err
	}
	return parseGoReleases(string(out)), nil
}

// goRelease is a released version of Go.
var goRelease = regexp.MustCompile(`^go1\.[0-9]{1,4}\.[0-9]{1,4}$`)

// parseGoReleases reads what go list -m -versions prints: the module and its
// versions in one line.
func parseGoReleases(text string) []string {
	var out []string
	for _, word := range strings.Fields(text) {
		v, ok := strings.CutPrefix(word, "v0.0.1-")
		if !ok {
			continue
		}
		if v, ok = strings.CutSuffix(v, "."+goHost); ok && goRelease.MatchString(v) {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b string) int { return compareGo(b, a) })
	return out
}

// compareGo orders two versions such as go1.26.8.
func compareGo(a, b string) int {
	return CompareVersions(strings.TrimPrefix(a, "go"), strings.TrimPrefix(b, "go"))
}

// goSeries is the series of a Go version: go1.26 of go1.26.8. Within one,
// releases only mend.
func goSeries(version string) string {
	parts := strings.SplitN(version, ".", 3)
	return strings.Join(parts[:min(len(parts), 2)], ".")
}

// toolchainZip is a downloaded toolchain module in a directory of its own,
// which the caller removes.
type toolchainZip struct {
	dir, path, sum string
}

// goZip downloads a toolchain module by the go command and computes its hash.
//
// go would go on to unpack what it has downloaded, 15,000 files that nobody
// needs here (50 s on a busy disk), so it is stopped when the zip file has its
// final name: it gets that by a rename after go has compared its hash with the
// checksum database (cmd/go/internal/modfetch, downloadZip).
func (f *Fetcher) goZip(ctx context.Context, version string) (z toolchainZip, err error) {
	f.tell(Event{Kind: Started, Name: lock.GoName, Mirror: goModule + "@" + version})
	dir, err := os.MkdirTemp(filepath.Join(f.cache, "gomod"), "toolchain-")
	if err != nil {
		return z, store.FullDisk(f.cache, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	z = toolchainZip{dir: dir, path: filepath.Join(dir, "mod", "cache", "download", filepath.FromSlash(goModule), "@v", version+".zip")}
	runCtx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		for pause.For(runCtx, pollLock) == nil {
			if _, err := os.Stat(z.path); err == nil {
				stop()
			}
		}
	}()
	out, runErr := goRun{f: f, dir: dir, modCache: filepath.Join(dir, "mod")}.run(runCtx, "mod", "download", "-json", goModule+"@"+version)
	if ctx.Err() != nil {
		return z, context.Cause(ctx)
	}
	if _, err := os.Stat(z.path); err != nil {
		return z, toolchainError(version, out, cmp.Or(runErr, err))
	}
	// Computed again, because GOFLAGS or GONOSUMDB of the user's may have
	// turned the database off.
	if z.sum, err = dirhash.HashZip(z.path, dirhash.Hash1); err != nil {
		return z, fault.Errorf(fault.Verification, "%s@%s: %w", goModule, version, err)
	}
	return z, nil
}

// toolchainError says why go brought no zip.
func toolchainError(version string, out []byte, err error) error {
	if list, perr := parseDownloads(out); perr == nil && len(list) == 1 && list[0].Error != "" {
		if goneFromProxy(list[0].Error) {
			return newMissing(map[string][]string{lock.GoName: {list[0].Error}})
		}
		return fault.Errorf(fault.Source, "%s@%s: %s", goModule, version, list[0].Error)
	}
	return fault.Wrap(fault.Source, err)
}

// ResolveGo makes the lock's entry for a Go version such as "go1.26.8" and
// brings its toolchain into the store. The checksum database vouches for it.
func (f *Fetcher) ResolveGo(ctx context.Context, version string) (lock.Go, error) {
	if f.offline {
		return lock.Go{}, offlineError([]string{version})
	}
	got, err := f.goZip(ctx, goModuleVersion(version))
	if err != nil {
		return lock.Go{}, err
	}
	defer os.RemoveAll(got.dir)
	d, n, err := f.store.Adopt(ctx, got.path, "")
	if err != nil {
		return lock.Go{}, err
	}
	return lock.Go{Version: version, Modules: []lock.Module{{
		Name: goModule, Version: goModuleVersion(version), Sum: got.sum, Digest: d, Size: n,
	}}}, nil
}
