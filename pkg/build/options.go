package build

import (
	"io"
	"os"
	"path/filepath"

	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/source"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// Option changes how Build works; none changes what it builds, except Arch,
// SourceDateEpoch, Repositories, Lock and Files.
type Option func(*options) error

type options struct {
	arch          string
	output        string
	cacheDir      string
	engine        string
	engineOptions []engine.Option
	runner        Engine
	image         func() (engine.Image, error) // what steps run on, in tests
	buildkitd     string
	progressMode  string
	progress      io.Writer
	offline       bool
	relockMissing bool
	dryRun        bool
	jobs          int
	repositories  []string
	keys          []string
	epoch         string
	lock          string
	files         *rootfs.Tree
	sums          SumsMode
	// fetch changes the fetcher, for tests.
	fetch []source.Option
	// store replaces the one in cacheDir, and conditions are those its steps
	// run under: see Repro.
	store      *store.Store
	conditions *conditions
}

func newOptions(opts []Option) (*options, error) {
	o := &options{
		arch:         HostArch(),
		progressMode: "quiet",
		progress:     io.Discard,
		jobs:         2,
		epoch:        os.Getenv("SOURCE_DATE_EPOCH"),
	}
	for _, opt := range opts {
		if err := opt(o); err != nil {
			return nil, err
		}
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
		return "", fault.Errorf(fault.Environment, "no cache directory: %w", err).
			Hintf("set HOME or XDG_CACHE_HOME, or give a directory with --cache-dir")
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

// WithEngine gives the address of a BuildKit daemon: tcp://, unix://,
// docker-container://, kube-pod:// or ssh://. The default, an empty address,
// is a private daemon started for the build.
func WithEngine(address string) Option {
	return func(o *options) error { o.engine = address; return nil }
}

// WithOwnEngine has the steps run by an engine of the caller's, which outlives
// the build: one that several builds share, or another kind.
func WithOwnEngine(e Engine) Option {
	return func(o *options) error { o.runner = e; return nil }
}

// WithEngineOptions gives the engine further options: certificates of a tcp://
// address, caches that engines share, a step's time limit. They come after
// those that Build gives itself.
func WithEngineOptions(opts ...engine.Option) Option {
	return func(o *options) error { o.engineOptions = append(o.engineOptions, opts...); return nil }
}

// WithBuildkitd gives the path of the buildkitd program of the private engine.
// The default is beside the running executable, then in PATH.
func WithBuildkitd(path string) Option {
	return func(o *options) error { o.buildkitd = path; return nil }
}

// WithProgress writes progress to w; mode is auto, plain, tty, rawjson or
// quiet. The default is quiet.
func WithProgress(mode string, w io.Writer) Option {
	return func(o *options) error {
		switch mode {
		case "auto", "plain", "tty", "rawjson", "quiet":
			o.progressMode, o.progress = mode, w
			return nil
		}
		return fault.Errorf(fault.Usage, "progress mode %q is not auto, plain, tty, rawjson or quiet", mode)
	}
}

// WithOffline makes any input that is not in the content store an error; no
// network call is made.
func WithOffline(offline bool) Option {
	return func(o *options) error { o.offline = offline; return nil }
}

// WithRelockMissing lets the build lock another version of an input that every
// mirror says it does not have, say so, and go on: once for each input. A
// mirror that cannot be reached or refuses has not said so. The lock file is
// changed, and the bundle's manifest names the input.
func WithRelockMissing(relock bool) Option {
	return func(o *options) error { o.relockMissing = relock; return nil }
}

// WithDryRun only finds out what a build would do: Result.Reasons names the
// first step of each chain that would run. Nothing is fetched, and nothing
// written outside the cache directory.
func WithDryRun(dry bool) Option {
	return func(o *options) error { o.dryRun = dry; return nil }
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

// WithLock uses another lock than the one beside the recipe, for recipes that
// share their inputs.
func WithLock(path string) Option {
	return func(o *options) error { o.lock = path; return nil }
}

// WithFiles adds a tree to the root image, over packages and the recipe's own
// files. Its contents must stay readable until Build returns.
func WithFiles(t *rootfs.Tree) Option {
	return func(o *options) error { o.files = t; return nil }
}

// WithSourceDateEpoch gives the time, in seconds since 1970, that every
// timestamp in the artifacts has. The default is the environment's
// SOURCE_DATE_EPOCH, then the lock's. Text that is no number is an error.
func WithSourceDateEpoch(epoch string) Option {
	return func(o *options) error { o.epoch = epoch; return nil }
}
