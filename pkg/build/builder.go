package build

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"context"
	"io"

	"github.com/sovereign-build/sovereign/pkg/build/cache"
	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/source"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/build/sums"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

// An Engine runs compile steps; an *engine.Engine is one. Run writes what the
// step left in its output directory as a tar stream. It is called from several
// goroutines, one for each job.
type Engine interface {
	Run(ctx context.Context, s engine.Step, tarball io.Writer) error
}

// A Builder makes what one recipe says, for one architecture, of what one lock
// pins. Each of Plan, Kernel, Packages, Root and Bundle takes from the cache
// what is there and makes the rest. One goroutine calls them at a time; several
// Builders, in one process or many, may share a store.
//
// It holds the store, and from the first step on the engine, until Close.
type Builder struct {
	opts   *options
	recipe *recipe.Recipe
	// lock is what it works with, never changed in place; nil before there is
	// one.
	lock *lock.Lock
	// relocked are the inputs that were locked anew because they were missing,
	// by name; repin says that packages are to be.
	relocked map[string]bool
	repin    bool
	decls    map[string]recipe.Source
	arch     arch
	epoch    int64
	store    *store.Store
	fetcher  *source.Fetcher
	// cache is what other machines share, nil for nothing; trusted are the keys
	// of those whose results count.
	cache   *cache.Cache
	trusted []signature.Key
	engine  Engine
	// ownEngine is closed with the Builder, another one is the caller's.
	ownEngine *engine.Engine
	key       *apk.SigningKey // nil before it is needed
	spools    []*rootfs.Spool // of trees that were given out

	// toolchainKey stands for the toolchain image in the keys of steps: the
	// digest of the locked packages, known without making the image.
	toolchainKey string
	prelude      store.Digest // of the toolchain directory's files
	packer       string       // stands for the code that makes packages
	image        func() (engine.Image, error)

	// planning is true while nothing is to have an effect; see Plan.
	planning bool
	began    time.Time
	mu       sync.Mutex // guards what follows
	result   Result
	plan     Plan
	sums     []sums.Sum   // what the steps made, each after those it needed
	manifest store.Digest // of the bundle
	telling  sync.Mutex   // one event at a time
}

// New makes a Builder of a recipe, which is checked and completed first (see
// [recipe.Recipe.Checked]), and a lock, nil where there is none yet: only
// [Builder.UpdateLock] then works. Both stay the caller's and are not changed.
// Nothing is started or fetched.
//
// Errors are of class Usage for the recipe and the options, and Environment for
// a store that cannot be opened.
func New(r *recipe.Recipe, l *lock.Lock, opts ...Option) (*Builder, error) {
	o, err := newOptions(opts)
	if err != nil {
		return nil, err
	}
	return open(r, l, o)
}

func open(r *recipe.Recipe, l *lock.Lock, o *options) (_ *Builder, err error) {
	b := &Builder{opts: o}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	if b.recipe, err = r.Checked(); err != nil {
		return nil, err
	}
	if b.decls, err = b.recipe.LoadSources(); err != nil {
		return nil, err
	}
	if l != nil {
		b.lock = l.Clone()
	}
	if b.store = o.store; b.store == nil {
		if b.store, err = store.Open(filepath.Join(o.cacheDir, "store")); err != nil {
			return nil, err
		}
	}
	if b.fetcher, err = b.newFetcher(); err != nil {
		return nil, err
	}
	if err := b.openCache(); err != nil {
		return nil, err
	}
	return b, b.startEngine()
}

// startEngine prepares the engine; nothing runs before the first step.
func (b *Builder) startEngine() (err error) {
	if b.engine = b.opts.engine; b.engine != nil {
		return nil
	}
	own := []engine.Option{
		engine.WithStateDir(filepath.Join(b.opts.cacheDir, "engine")),
		engine.WithLogDir(filepath.Join(b.opts.cacheDir, "logs")),
	}
	if b.opts.events != nil {
		own = append(own, engine.WithStatus(func(s engine.Status) { b.tell(EngineStatus{s}) }))
	}
	b.ownEngine, err = engine.Start(context.Background(), append(own, b.opts.engineOptions...)...)
	b.engine = b.ownEngine
	return err
}

// stopEngine stops the Builder's own engine.
func (b *Builder) stopEngine() error {
	e := b.ownEngine
	if e == nil {
		return nil
	}
	b.ownEngine, b.engine = nil, nil
	return e.Close()
}

// Close stops the engine and lets go of the store, where they are the Builder's
// own, and frees the trees that Root returned. A second call does nothing.
func (b *Builder) Close() error {
	err := b.stopEngine()
	for _, s := range b.spools {
		err = errors.Join(err, s.Close())
	}
	b.spools = nil
	if b.store != nil && b.opts.store == nil {
		err = errors.Join(err, b.store.Close())
	}
	return err
}

// Lock is the lock as it is now, a copy: that New was given, with what has been
// locked since. Nobody saves it: [lock.File.Save] does. It is nil where New was
// given none and UpdateLock has made none.
func (b *Builder) Lock() *lock.Lock {
	if b.lock == nil {
		return nil
	}
	return b.lock.Clone()
}

// Recipe is the recipe, completed; it is not to be changed.
func (b *Builder) Recipe() *recipe.Recipe { return b.recipe }

// Store is the content store that has what the phases return by digest.
func (b *Builder) Store() *store.Store { return b.store }

// keep puts bytes into the store, and in a plan only counts and sums them.
func (b *Builder) keep(ctx context.Context, r io.Reader) (store.Digest, int64, error) {
	if b.planning {
		return digestOf(r)
	}
	return b.store.Put(ctx, r, "")
}

// scratch is the directory of temporary files, in the cache directory because
// /tmp may be memory.
func (b *Builder) scratch() (string, error) {
	dir := filepath.Join(b.opts.cacheDir, "tmp")
	return dir, fault.Wrap(fault.Environment, os.MkdirAll(dir, 0o755))
}

// spool is a temporary file for contents.
func (b *Builder) spool() (*rootfs.Spool, error) {
	dir, err := b.scratch()
	if err != nil {
		return nil, err
	}
	return rootfs.NewSpool(dir)
}

// tempDir is a new temporary directory.
func (b *Builder) tempDir(prefix string) (string, error) {
	dir, err := b.scratch()
	if err != nil {
		return "", err
	}
	dir, err = os.MkdirTemp(dir, prefix)
	return dir, fault.Wrap(fault.Environment, err)
}

func sortedKeys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}

// signing is the key that signs the exported packages: the user's own, made
// when it is needed for the first time.
func (b *Builder) signing() (*apk.SigningKey, error) {
	if b.key != nil {
		return b.key, nil
	}
	if b.opts.conditions != nil {
		b.key = b.opts.conditions.key
		return b.key, nil
	}
	key, err := signingKey(true)
	b.key = key
	return key, err
}

// known is the signing key where there is one, else nil.
func (b *Builder) known() (*apk.SigningKey, error) {
	if b.key != nil || b.opts.conditions != nil {
		return b.signing()
	}
	key, err := signingKey(false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return key, err
}
