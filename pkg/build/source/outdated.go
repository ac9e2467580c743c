package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
)

// Offer is a version of an input that is newer than the locked one.
type Offer struct {
	Version string `json:"version"`
	// Where it is listed: "debian:trixie-security/linux=6.12.118-1", a
	// repository's location, the module proxy's name of it.
	Where string `json:"where"`
	// Available says whether its files can be had as well; Why says why not.
	Available bool   `json:"available"`
	Why       string `json:"why,omitempty"`
	// Packages are, for the toolchain, the packages that would change.
	Packages []string `json:"packages,omitempty"`
}

// Outdated is an input of which newer versions are listed.
type Outdated struct {
	// Name of the source, "toolchain" or "go", or "packages" with the name of
	// the file without version: "packages x86_64/zlib".
	Name   string `json:"name"`
	Locked string `json:"locked"`
	// Newer are newer versions of the declared series, newest first, down to
	// the first that can be had.
	Newer []Offer `json:"newer,omitempty"`
	// BeyondSeries is the newest version of all, where it is newer than those
	// and not in the declared series.
	BeyondSeries *Offer `json:"beyond_series,omitempty"`
}

// Outdated lists the inputs of which the archives list newer versions, by
// name, and what could not be asked. It changes and downloads nothing but
// lists.
func (f *Fetcher) Outdated(ctx context.Context, l *lock.Lock, d Declared) ([]Outdated, []string, error) {
	if f.offline {
		return nil, nil, offlineError([]string{"lists of newer versions"})
	}
	var (
		mu    sync.Mutex
		all   []Outdated
		notes []string
	)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(f.parallel)
	ask := func(name string, what func(context.Context) (Outdated, []string, error)) {
		g.Go(func() error {
			o, said, err := what(gctx)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			for _, s := range said {
				notes = append(notes, name+": "+s)
			}
			if len(o.Newer) > 0 || o.BeyondSeries != nil {
				o.Name = name
				all = append(all, o)
			}
			return nil
		})
	}
	for _, s := range l.Sources {
		if decl, ok := d.Sources[s.Name]; ok {
			ask(s.Name, func(ctx context.Context) (Outdated, []string, error) { return kindOf(decl).outdated(ctx, f, s, decl) })
		}
	}
	if d.ToolchainSuite != "" && len(l.Toolchain.Packages) > 0 {
		ask(lock.ToolchainName, func(ctx context.Context) (Outdated, []string, error) {
			o, err := f.outdatedToolchain(ctx, l.Toolchain, d)
			return o, nil, err
		})
	}
	if l.Go.Version != "" {
		ask(lock.GoName, func(ctx context.Context) (Outdated, []string, error) {
			o, err := f.outdatedGo(ctx, l.Go)
			return o, nil, err
		})
	}
	if err := g.Wait(); err != nil {
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		return nil, nil, err
	}
	slices.SortFunc(all, func(a, b Outdated) int { return strings.Compare(a.Name, b.Name) })
	slices.Sort(notes)
	return all, notes, nil
}

// offered fills in whether an offer can be had.
func (f *Fetcher) offered(o *Offer, there func() (bool, error), file string) {
	switch ok, err := there(); {
	case err != nil:
		o.Why = fmt.Sprintf("listed, but whether it is there could not be asked: %v", err)
	case !ok:
		o.Why = fmt.Sprintf("listed, but the archive answers 404 for %s", file)
	default:
		o.Available = true
	}
}

func (f *Fetcher) outdatedToolchain(ctx context.Context, old lock.Toolchain, d Declared) (Outdated, error) {
	o := Outdated{Locked: describeToolchain(old)}
	t, err := f.ResolveToolchain(ctx, d.ToolchainSuite, d.ToolchainPackages)
	if err != nil {
		return o, err
	}
	changed := changedPackages(old, t)
	if len(changed) == 0 {
		return o, nil
	}
	offer := Offer{Version: fmt.Sprintf("%s, %d others", describeToolchain(t), len(changed)), Where: "debian:" + t.Suite}
	for _, p := range changed {
		offer.Packages = append(offer.Packages, p.Name+" "+p.Version)
	}
	absent, err := f.absentPackages(ctx, old, t)
	f.offered(&offer, func() (bool, error) { return len(absent) == 0, err }, few(absent))
	o.Newer = []Offer{offer}
	return o, context.Cause(ctx)
}

func (f *Fetcher) outdatedGo(ctx context.Context, old lock.Go) (Outdated, error) {
	o := Outdated{Locked: old.Version}
	releases, err := f.goReleases(ctx)
	if err != nil {
		return o, err
	}
	for _, r := range releases {
		if compareGo(r, old.Version) <= 0 {
			break
		}
		offer := Offer{Version: r, Where: goModule + "@" + goModuleVersion(r), Available: true} // the proxy lists what it serves
		if goSeries(r) == goSeries(old.Version) {
			o.Newer = append(o.Newer, offer)
			break
		}
		if o.BeyondSeries == nil {
			o.BeyondSeries = &offer
		}
	}
	return o, nil
}

// HasFile asks whether a file of an apk repository, a URL or a directory, is
// there. It is false only when the repository said so.
func (f *Fetcher) HasFile(ctx context.Context, repository, file string) (bool, error) {
	if strings.Contains(repository, "://") {
		return f.exists(ctx, strings.TrimRight(repository, "/")+"/"+file)
	}
	_, err := os.Stat(filepath.Join(repository, filepath.FromSlash(file)))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
