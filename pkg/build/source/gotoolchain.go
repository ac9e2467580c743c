package source

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/dirhash"

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
		if got.Sum != m.Sum {
			return "", fault.Errorf(fault.Verification, "%s@%s: wrong module hash: expected %s, got %s", m.Name, m.Version, m.Sum, got.Sum)
		}
		d, n, err := f.store.Adopt(ctx, got.Zip, m.Digest)
		if err != nil {
			return "", err
		}
		f.tell(Event{Kind: Finished, Name: lock.GoName, Done: n, Total: n})
		return d, nil
	}
	return "", fault.Errorf(fault.Usage, "the lock has no Go toolchain for %s", goHost).
		Hintf("run sovereign-build lock --update %s RECIPE", lock.GoName)
}

// goZip downloads a toolchain module; the caller removes dir.
func (f *Fetcher) goZip(ctx context.Context, version string) (got struct {
	goDownload
	dir string
}, err error) {
	f.tell(Event{Kind: Started, Name: lock.GoName, Mirror: goModule + "@" + version})
	dir, err := os.MkdirTemp(filepath.Join(f.cache, "gomod"), "toolchain-")
	if err != nil {
		return got, store.FullDisk(f.cache, err)
	}
	fail := func(err error) error { return errors.Join(err, os.RemoveAll(dir)) }
	out, runErr := goRun{f: f, dir: dir, modCache: filepath.Join(dir, "mod")}.run(ctx, "mod", "download", "-json", goModule+"@"+version)
	list, err := parseDownloads(out)
	switch {
	case ctx.Err() != nil:
		return got, fail(context.Cause(ctx))
	case err != nil:
		return got, fail(fault.Wrap(fault.Source, err))
	case len(list) == 1 && goneFromProxy(list[0].Error):
		return got, fail(newMissing(map[string][]string{lock.GoName: {list[0].Error}}))
	case runErr != nil:
		if len(list) == 1 && list[0].Error != "" {
			runErr = fault.Errorf(fault.Source, "%s: %s", goModule, list[0].Error)
		}
		return got, fail(runErr)
	case len(list) != 1:
		return got, fail(fault.Errorf(fault.Source, "go mod download printed %d modules, want 1", len(list)))
	}
	got.goDownload, got.dir = list[0], dir
	// Checked by go against the checksum database; computed again here, because
	// GOFLAGS or GONOSUMDB of the user's may have turned that off.
	got.Sum, err = dirhash.HashZip(got.Zip, dirhash.Hash1)
	if err != nil {
		return got, fail(fault.Errorf(fault.Verification, "%s@%s: %w", goModule, version, err))
	}
	return got, nil
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
	d, n, err := f.store.Adopt(ctx, got.Zip, "")
	if err != nil {
		return lock.Go{}, err
	}
	return lock.Go{Version: version, Modules: []lock.Module{{
		Name: goModule, Version: goModuleVersion(version), Sum: got.Sum, Digest: d, Size: n,
	}}}, nil
}
