package source

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/mod/semver"
	"golang.org/x/sync/errgroup"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// npmKind is the packages that a lock file of npm or pnpm names, each held
// against the integrity that it has there, as one tar with
//
//   - registry/NAME/-/NAME-VERSION.tgz: the tarballs as a registry lays them
//     out, for pnpm and others from any file server on loopback;
//   - cache/_cacache: the same as npm's own cache, for npm ci --offline --cache;
//   - package-lock.json, for npm: with a URL for each package, which npm wants
//     before it looks into the cache.
type npmKind struct{}

func (npmKind) scheme() string             { return lock.SchemeNPM }
func (npmKind) of(decl recipe.Source) bool { return decl.NPM != (recipe.NPM{}) }

// maxTarball bounds a package, bytes; the largest programs among them have some
// 100 MiB.
const maxTarball = 1 << 30

// read reads the lock file, and returns its digest too.
func (npmKind) read(decl recipe.Source, file string) (*npmLock, store.Digest, error) {
	at := decl.Dir.Join(file)
	data, err := at.ReadFile(maxNPMLock)
	if err != nil {
		return nil, "", err
	}
	l, err := parseNPMLock(at.String(), data)
	return l, store.FromBytes(data), err
}

func (k npmKind) resolve(ctx context.Context, f *Fetcher, name string, decl recipe.Source, keep *lock.Source) (lock.Source, []string, error) {
	l, digest, err := k.read(decl, decl.NPM.Lock)
	if err != nil {
		return lock.Source{}, nil, fmt.Errorf("source %s: %w", name, err)
	}
	m := lock.Mirror{Scheme: lock.SchemeNPM, Path: decl.NPM.Lock, Lock: digest}
	if keep != nil && schemeMirror(*keep, lock.SchemeNPM) == m {
		return *keep, nil, nil
	}
	if f.offline {
		return lock.Source{}, nil, offlineError([]string{name + " (its packages)"})
	}
	stored, err := k.put(ctx, f, blob{name: name}, l)
	if err != nil {
		return lock.Source{}, nil, fault.Wrap(fault.Source, fmt.Errorf("source %s: %w", name, err))
	}
	version := l.version
	if !npmVersion.MatchString(version) {
		version = noVersion
	}
	// What is after it (1.0.0-rc.1) is not for apk.
	version, _, _ = strings.Cut(strings.NewReplacer("+", "-").Replace(version), "-")
	return treeEntry(name, version, stored, m), nil, nil
}

func (k npmKind) fetch(ctx context.Context, f *Fetcher, b blob, s lock.Source, decl recipe.Source, m lock.Mirror) error {
	if decl.Dir == (recipe.Ref{}) {
		return fault.Errorf(fault.Usage, "the lock file %s is beside a sources.yaml that does not name it", m.Path)
	}
	l, digest, err := k.read(decl, m.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &goneError{err.Error()}
	case err != nil:
		return err
	case digest != m.Lock:
		return fault.Errorf(fault.Verification, "%s is another file than the one that was locked", m.Path)
	}
	_, err = k.put(ctx, f, b, l)
	return err
}

// put fetches the packages and stores them.
func (npmKind) put(ctx context.Context, f *Fetcher, b blob, l *npmLock) (lock.Source, error) {
	dir, err := os.MkdirTemp(filepath.Join(f.cache, "tmp"), "npm-")
	if err != nil {
		return lock.Source{}, store.FullDisk(f.cache, err)
	}
	defer os.RemoveAll(dir) // the tar has all of it
	t := rootfs.New()
	var mu sync.Mutex
	var sizes int64
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(f.parallel)
	registry := sync.OnceValues(func() (string, error) { return npmRegistry(gctx) })
	files := make([]int64, len(l.packages))
	for i, p := range l.packages {
		g.Go(func() error {
			n, err := f.npmPackage(gctx, b.name, p, filepath.Join(dir, fmt.Sprint(i)), registry)
			if err != nil {
				return fmt.Errorf("%s %s: %w", p.name, p.version, err)
			}
			files[i] = n
			mu.Lock()
			defer mu.Unlock()
			if sizes += n; sizes > lock.MaxSize {
				return fault.Errorf(fault.Source, "its packages have more than %d bytes", int64(lock.MaxSize))
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		if ctx.Err() != nil {
			return lock.Source{}, context.Cause(ctx)
		}
		return lock.Source{}, err
	}
	for i, p := range l.packages {
		at := "registry/" + p.file()
		sum := p.integrity.sum
		cached := fmt.Sprintf("cache/_cacache/content-v2/%s/%s/%s/%s", p.integrity.algorithm, sum[:2], sum[2:4], sum[4:])
		if err := t.Add(rootfs.Entry{Path: at, Mode: 0o644, Size: files[i], Content: rootfs.File(filepath.Join(dir, fmt.Sprint(i)))}); err != nil {
			return lock.Source{}, fault.Wrap(fault.Source, err)
		}
		if _, ok := t.Lookup(cached); ok {
			continue // two names of the same bytes
		}
		if err := t.Add(rootfs.Hardlink(cached, at)); err != nil {
			return lock.Source{}, fault.Wrap(fault.Source, err)
		}
	}
	if l.complete != nil {
		if err := t.Add(rootfs.Regular("package-lock.json", 0o644, l.complete)); err != nil {
			return lock.Source{}, fault.Wrap(fault.Internal, err)
		}
	}
	return f.putTree(ctx, b, t)
}

// npmPackage brings a tarball into a file and holds it against its integrity. It
// comes from where the lock file says or, where that says nothing, from the
// registry that npm is set up for.
func (f *Fetcher) npmPackage(ctx context.Context, name string, p npmPackage, to string, registry func() (string, error)) (int64, error) {
	url := p.url
	if url == "" {
		base, err := registry()
		if err != nil {
			return 0, err
		}
		url = base + p.file()
	}
	out, err := os.Create(to)
	if err != nil {
		return 0, store.FullDisk(f.cache, err)
	}
	var n int64
	err = f.get(ctx, blob{name: name}, url, maxTarball, false, func(r io.Reader) error {
		if err := errors.Join(out.Truncate(0), seekStart(out)); err != nil {
			return store.FullDisk(f.cache, err)
		}
		h := p.integrity.hash()
		var err error
		if n, err = io.Copy(io.MultiWriter(out, h), r); err != nil {
			var disk *os.PathError
			if errors.As(err, &disk) {
				return store.FullDisk(f.cache, err)
			}
			return err
		}
		if got := fmt.Sprintf("%x", h.Sum(nil)); got != p.integrity.sum {
			return fault.Errorf(fault.Verification, "wrong bytes: the lock file has the %s %.16s…, got %.16s…", p.integrity.algorithm, p.integrity.sum, got)
		}
		return nil
	})
	return n, errors.Join(err, out.Close())
}

// npmRegistry is the address of the registry that npm is set up for, with a
// slash at its end: npm's own variable, its configuration, or what npm says.
func npmRegistry(ctx context.Context) (string, error) {
	for _, v := range []string{"npm_config_registry", "NPM_CONFIG_REGISTRY"} {
		if r := os.Getenv(v); r != "" {
			return registryURL(r)
		}
	}
	home, err := os.UserHomeDir()
	if err == nil {
		r, err := npmrcRegistry(cmp.Or(os.Getenv("NPM_CONFIG_USERCONFIG"), filepath.Join(home, ".npmrc")))
		if err != nil {
			return "", err
		}
		if r != "" {
			return registryURL(r)
		}
	}
	out, err := exec.CommandContext(ctx, "npm", "config", "get", "registry").Output()
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if err != nil {
		return "", fault.Errorf(fault.Environment, "the lock file does not say where its packages are, and there is no npm to ask for its registry: %w", err).
			Hintf("set npm_config_registry to the registry's address")
	}
	return registryURL(strings.TrimSpace(string(out)))
}

func registryURL(s string) (string, error) {
	if !strings.HasPrefix(s, "https://") && !strings.HasPrefix(s, "http://") {
		return "", fault.Errorf(fault.Environment, "npm's registry %q is not a URL", s)
	}
	return strings.TrimRight(s, "/") + "/", nil
}

// npmrcRegistry is what an .npmrc says, "" where it says or is nothing.
func npmrcRegistry(path string) (string, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return "", nil
	}
	if err != nil {
		return "", fault.Wrap(fault.Environment, err)
	}
	defer f.Close() // only read
	registry := ""
	for in := bufio.NewScanner(io.LimitReader(f, 1<<20)); in.Scan(); {
		key, value, ok := strings.Cut(in.Text(), "=")
		if ok && strings.TrimSpace(key) == "registry" {
			registry = strings.Trim(strings.TrimSpace(value), `"'`)
		}
	}
	return registry, nil
}

func (k npmKind) stale(decl recipe.Source, s lock.Source) string {
	m := schemeMirror(s, lock.SchemeNPM)
	if m.Path != decl.NPM.Lock {
		return fmt.Sprintf("the packages of %s are locked, and %s is declared", m.Path, decl.NPM.Lock)
	}
	data, err := decl.Dir.Join(decl.NPM.Lock).ReadFile(maxNPMLock)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "" // its packages may be in the store, from another machine
	case err != nil:
		return err.Error()
	case store.FromBytes(data) != m.Lock:
		return decl.NPM.Lock + " has changed since it was locked"
	}
	return ""
}

// outdated asks the registry for the newest versions of what the program itself
// names. Updating is npm's business: the lock file is then another one.
func (k npmKind) outdated(ctx context.Context, f *Fetcher, s lock.Source, decl recipe.Source) (Outdated, []string, error) {
	o := Outdated{Locked: s.Version}
	l, _, err := k.read(decl, decl.NPM.Lock)
	if err != nil {
		return o, nil, err
	}
	var newer, notes []string
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(f.parallel)
	registry := sync.OnceValues(func() (string, error) { return npmRegistry(gctx) })
	for name, locked := range l.direct {
		g.Go(func() error {
			latest, err := f.npmLatest(gctx, s.Name, l.registryOf(name), name, registry)
			if err != nil && !tryNext(gctx, err) {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				notes = append(notes, fmt.Sprintf("%s: %v", name, err))
			case semver.Compare("v"+latest, "v"+locked) > 0:
				newer = append(newer, fmt.Sprintf("%s %s → %s", name, locked, latest))
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		if ctx.Err() != nil {
			return o, nil, context.Cause(ctx)
		}
		return o, nil, err
	}
	slices.Sort(newer)
	slices.Sort(notes)
	if len(newer) > 0 {
		o.Newer = []Offer{{Version: fmt.Sprintf("%d of %d packages it names have newer versions", len(newer), len(l.direct)), Where: decl.NPM.Lock, Available: true, Packages: newer}}
	}
	return o, notes, nil
}

// registryOf is the registry that the lock file has a package from, "" where it
// does not say.
func (l *npmLock) registryOf(name string) string {
	for _, p := range l.packages {
		if base, ok := strings.CutSuffix(p.url, p.file()); ok && p.name == name {
			return base
		}
	}
	return ""
}

// npmLatest is the version that a registry calls the latest.
func (f *Fetcher) npmLatest(ctx context.Context, source, base, name string, registry func() (string, error)) (string, error) {
	if base == "" {
		var err error
		if base, err = registry(); err != nil {
			return "", err
		}
	}
	text, err := f.page(ctx, source, base+strings.ReplaceAll(name, "/", "%2f")+"/latest")
	if err != nil {
		return "", err
	}
	var latest struct {
		Version string `json:"version"`
	}
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&latest); err != nil || !npmVersion.MatchString(latest.Version) {
		return "", fault.Errorf(fault.Source, "the registry's answer names no version: %.100q", text)
	}
	return latest.Version, nil
}
