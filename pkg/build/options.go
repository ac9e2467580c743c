package build

import (
	"os"
	"path/filepath"

	"github.com/sovereign-build/sovereign/pkg/build/cache"
	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/source"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/remedy"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// Option changes how a [Builder] works; none changes what it makes, except
// those that give it an architecture, a time or further inputs: WithArch,
// WithSourceDateEpoch, WithRepositories and WithFiles.
type Option func(*options) error

type options struct {
	arch          string
	output        string
	cacheDir      string
	engine        Engine // nil: one of the Builder's own
	engineOptions []engine.Option
	image         func() (engine.Image, error) // what steps run on, in tests
	events        func(Event)
	offline       bool
	relockMissing bool
	frozen        bool
	jobs          int
	repositories  []string
	keys          []string
	epoch         string
	files         *rootfs.Tree
	sums          SumsMode
	mirrors       recipe.Mirrors
	caches        []cache.Place
	cacheKeys     []signature.Key
	cachePush     cache.Place
	cacheKey      signature.SecretKey
	ownWork       bool
	// fetch changes the fetcher, for tests.
	fetch []source.Option
	// store is the caller's, or the one of a second build, whose steps run
	// under conditions: see Repro.
	store      *store.Store
	conditions *conditions
}

func newOptions(opts []Option) (*options, error) {
	o := &options{
		arch:  HostArch(),
		jobs:  2,
		epoch: os.Getenv("SOURCE_DATE_EPOCH"),
	}
	for _, opt := range opts {
		if err := opt(o); err != nil {
			return nil, err
		}
	}
	if o.frozen && o.relockMissing {
		return nil, fault.Errorf(fault.Usage, "the lock is frozen, and what is missing is to be locked anew: one excludes the other")
	}
	if o.offline && o.cachePush != nil && o.cachePush.Remote() {
		return nil, fault.Errorf(fault.Usage, "no network call is to be made, and results are to be put into %s: one excludes the other", o.cachePush)
	}
	if o.cacheDir == "" {
		dir, err := DefaultCacheDir()
		if err != nil {
			return nil, err
		}
		o.cacheDir = dir
	}
	if o.output == "" {
		o.output = "dist"
	}
	return o, nil
}

// DefaultCacheDir is "sovereign" in the user's cache directory.
func DefaultCacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", remedy.By(remedy.Remedy{Kind: remedy.ChooseCacheDir}, fault.Errorf(fault.Environment, "no cache directory: %w", err).
			Hintf("set HOME or XDG_CACHE_HOME, or choose a directory"))
	}
	return filepath.Join(dir, "sovereign"), nil
}

// WithArch chooses the architecture, "amd64" or "arm64". The default is this
// machine's.
func WithArch(arch string) Option {
	return func(o *options) error {
		if arch != "" {
			o.arch = arch
		}
		return nil
	}
}

// WithOutput chooses the directory that gets NAME-ARCH/ (the bundle) and
// packages/ (the apk repository). The default is "dist".
func WithOutput(dir string) Option {
	return func(o *options) error { o.output = dir; return nil }
}

// WithCacheDir chooses where the content store, the engine's state and the
// toolchain image are kept. The default is DefaultCacheDir.
func WithCacheDir(dir string) Option {
	return func(o *options) error { o.cacheDir = dir; return nil }
}

// WithStore has inputs and results in a store of the caller's, which outlives
// the Builder. The default is the directory store in the cache directory.
func WithStore(s *store.Store) Option {
	return func(o *options) error { o.store = s; return nil }
}

// WithEngine has the steps run by an engine of the caller's, which outlives the
// Builder: one that several share, or another kind.
func WithEngine(e Engine) Option {
	return func(o *options) error { o.engine = e; return nil }
}

// WithEvents has fn told what the Builder does, one event at a time, from any
// goroutine. The work waits meanwhile, so fn should be quick; it must not call
// the Builder.
func WithEvents(fn func(Event)) Option {
	return func(o *options) error { o.events = fn; return nil }
}

// WithEngineOptions gives the Builder's own engine options: the address of a
// BuildKit daemon instead of a private one, the certificates of a tcp://
// address, caches that engines share, a step's time limit.
func WithEngineOptions(opts ...engine.Option) Option {
	return func(o *options) error { o.engineOptions = append(o.engineOptions, opts...); return nil }
}

// WithOffline makes any input that is not in the content store an error; no
// network call is made.
func WithOffline(offline bool) Option {
	return func(o *options) error { o.offline = offline; return nil }
}

// WithRelockMissing lets the build lock another version of an input that every
// mirror says it does not have, say so, and go on: once for each input. A
// mirror that cannot be reached or refuses has not said so. Lock is then
// another one, and the bundle's manifest names the input.
func WithRelockMissing(relock bool) Option {
	return func(o *options) error { o.relockMissing = relock; return nil }
}

// WithFrozenLock makes it an error of class Usage when the lock would have to
// change, or when something would be built in that no lock pins:
// WithRepositories and WithFiles.
func WithFrozenLock(frozen bool) Option {
	return func(o *options) error { o.frozen = frozen; return nil }
}

// WithMirrors has other places asked for sources, packages and indexes in place
// of those that recipe and lock name. What is locked has to have its digest,
// wherever it comes from.
func WithMirrors(m recipe.Mirrors) Option {
	return func(o *options) error { o.mirrors = m; return nil }
}

// WithCaches has results of compile steps taken from places where others have
// put them, in this order, before the engine runs a step: what is signed by a key
// of WithCacheKeys or of the recipe's cache.keys. What cannot be believed or had
// is told of (see CacheTrouble), and the step runs. Places on a network are not
// asked by WithOffline, and none by Plan.
func WithCaches(places ...cache.Place) Option {
	return func(o *options) error { o.caches = append(o.caches, places...); return nil }
}

// WithCacheKeys trusts keys to sign results of steps.
func WithCacheKeys(keys ...signature.Key) Option {
	return func(o *options) error { o.cacheKeys = append(o.cacheKeys, keys...); return nil }
}

// WithCachePush has results of compile steps put into a place for others, signed
// by the key, unless they are there: those that this machine has made, now or
// before, and none that it has taken from others. The place is asked as well, and
// the key trusted. When something could not be put there, Bundle ends with an
// error of class Source after all else is done.
func WithCachePush(to cache.Place, key signature.SecretKey) Option {
	return func(o *options) error { o.cachePush, o.cacheKey = to, key; return nil }
}

// WithOwnWork takes no results of steps from other machines, also none that the
// store has of them: the keys of the recipe and of WithCacheKeys count for
// nothing.
func WithOwnWork(own bool) Option {
	return func(o *options) error { o.ownWork = own; return nil }
}

// WithSums says what to do with the sums beside the recipe; the default is
// SumsCompare.
func WithSums(mode SumsMode) Option {
	return func(o *options) error { o.sums = mode; return nil }
}

// WithJobs sets how many steps run at once, 1 to 64. The default is 2: each
// compile step fills all cores for most of its time, and two fill the gaps.
func WithJobs(n int) Option {
	return func(o *options) error {
		if n < 1 || n > 64 {
			return fault.Errorf(fault.Usage, "jobs %d is not between 1 and 64", n)
		}
		o.jobs = n
		return nil
	}
}

// WithRepositories adds apk repositories (URLs or directories), after the
// ports' and the recipe's, and the files of the public keys they are signed
// with.
func WithRepositories(repositories, keys []string) Option {
	return func(o *options) error {
		o.repositories = append(o.repositories, repositories...)
		o.keys = append(o.keys, keys...)
		return nil
	}
}

// WithFiles adds a tree to the root image, over packages and the recipe's own
// files. Its contents must stay readable until Close.
func WithFiles(t *rootfs.Tree) Option {
	return func(o *options) error { o.files = t; return nil }
}

// WithSourceDateEpoch gives the time, in seconds since 1970, that every
// timestamp in the artifacts has. The default is the environment's
// SOURCE_DATE_EPOCH, then the lock's. Text that is no number is an error.
func WithSourceDateEpoch(epoch string) Option {
	return func(o *options) error { o.epoch = epoch; return nil }
}
