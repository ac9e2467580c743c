package build

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/source"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/build/sums"
	"github.com/sovereign-build/sovereign/pkg/build/toolchain"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

// LockFile is the name of the lock beside a recipe.
const LockFile = "sovereign.lock"

// Result says what a build made and what it cost.
type Result struct {
	Name string `json:"name"`
	Arch string `json:"arch"`
	// Bundle is the bundle's directory.
	Bundle string `json:"bundle"`
	// Digest is the SHA-256 of the bundle's manifest, and so of all of it.
	Digest string `json:"digest"`
	// StepsRun and StepsCached count the engine's steps: the kernel's two and
	// one for each port.
	StepsRun    int     `json:"steps_run"`
	StepsCached int     `json:"steps_cached"`
	Seconds     float64 `json:"seconds"`
	// Reasons says, for each thing that was not in the cache, why.
	Reasons []string `json:"reasons,omitempty"`
	// Took says how long each thing that ran took, longest first.
	Took []Took `json:"took,omitempty"`
	// Changed names inputs that the machine had to lock anew.
	Changed []string `json:"changed,omitempty"`
	// Sums says how the build compares with the recipe's sovereign.sums; nil
	// where there is none or it does not apply.
	Sums *Sums `json:"sums,omitempty"`
}

// Took is the time of one step.
type Took struct {
	Step    string  `json:"step"`
	Seconds float64 `json:"seconds"`
}

// errDryRun ends a dry run at the first step of a chain that would run.
var errDryRun = errors.New("dry run")

// An Engine runs compile steps; an *engine.Engine is one. Run writes what the
// step left in its output directory as a tar stream. It is called from several
// goroutines, one for each job.
type Engine interface {
	Run(ctx context.Context, s engine.Step, tarball io.Writer) error
}

// builder is one build under way.
type builder struct {
	opts     *options
	recipe   *recipe.Recipe
	lock     *lock.Lock // what this build works with
	locked   *lock.File // the file it is from, with what this build changed
	lockPath string
	// relocked are the inputs that were locked anew because they were missing,
	// by name; repin says that packages are to be.
	relocked map[string]bool
	repin    bool
	decls    map[string]recipe.Source
	arch     arch
	epoch    int64
	store    *store.Store
	fetcher  *source.Fetcher
	engine   Engine
	// ownEngine is closed with the builder, another one is the caller's.
	ownEngine *engine.Engine
	key       *apk.SigningKey

	// toolchainKey stands for the toolchain image in the keys of steps: the
	// digest of the locked packages, known without making the image.
	toolchainKey string
	prelude      store.Digest // of the toolchain directory's files
	packer       string       // stands for the code that makes packages
	image        func() (engine.Image, error)

	mu       sync.Mutex
	result   Result
	sums     []sums.Sum   // what the steps made, each after those it needed
	manifest store.Digest // of the bundle
}

// Build makes the bundle of the recipe at path (a file or its directory).
//
// Errors have a class of package fault: Usage for the recipe and the lock,
// Source for an input no mirror gave, Step for a failed compile step,
// Verification for a digest, a signature or a lost kernel symbol, Environment
// for what this machine lacks.
func Build(ctx context.Context, path string, opts ...Option) (*Result, error) {
	o, err := newOptions(opts)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	b := &builder{opts: o}
	defer b.close()
	if err := b.open(ctx, path); err != nil {
		return nil, err
	}
	if err := b.relocking(ctx, b.run); err != nil && !errors.Is(err, errDryRun) {
		return nil, err
	}
	b.result.Seconds = time.Since(start).Seconds()
	slices.Sort(b.result.Reasons)
	slices.SortFunc(b.result.Took, func(a, b Took) int { return cmp.Compare(b.Seconds, a.Seconds) })
	return &b.result, b.close()
}

// open reads what the build is made from and prepares, without starting or
// fetching anything.
func (b *builder) open(ctx context.Context, path string) (err error) {
	if b.recipe, err = recipe.Load(path); err != nil {
		return err
	}
	if b.arch, err = findArch(b.opts.arch, b.recipe.Architectures); err != nil {
		return err
	}
	if err := b.openStore(); err != nil {
		return err
	}
	if b.locked, err = lock.Open(b.lockPath); err != nil {
		return err
	}
	b.lock = b.locked.Lock()
	// An input that is missing matters when something needs it, and one too
	// many never does: recipes may share a lock.
	if err := b.checkLock(func(s source.Stale) bool { return !s.Missing && !s.Undeclared }); err != nil {
		return err
	}
	if b.epoch, err = lock.SourceDate(b.lock, b.opts.epoch); err != nil {
		return err
	}
	if b.prelude, err = b.dirTar(ctx, b.recipe.Resolve(b.recipe.Toolchain)); err != nil {
		return err
	}
	if b.opts.conditions != nil {
		b.key = b.opts.conditions.key
	} else if b.key, err = signingKey(); err != nil {
		return err
	}
	if b.opts.runner != nil {
		b.engine = b.opts.runner
		return nil
	}
	b.ownEngine, err = b.newEngine(ctx)
	b.engine = b.ownEngine
	return err
}

// openStore opens what building and locking share: the declared sources, the
// content store and the fetcher.
func (b *builder) openStore() (err error) {
	b.lockPath = cmp.Or(b.opts.lock, filepath.Join(b.recipe.Dir, LockFile))
	if b.decls, err = recipe.LoadSources(b.recipe.Resolve(b.recipe.Sources)); err != nil {
		return err
	}
	if b.store = b.opts.store; b.store == nil {
		if b.store, err = store.Open(filepath.Join(b.opts.cacheDir, "store")); err != nil {
			return err
		}
	}
	b.fetcher, err = b.newFetcher()
	return err
}

// saveLock goes on with another lock, and saves it.
func (b *builder) saveLock(ctx context.Context, l *lock.Lock) error {
	if err := b.locked.Save(ctx, l); err != nil {
		return err
	}
	b.lock = l
	return nil
}

// newEngine prepares the engine; nothing is started before the first step.
func (b *builder) newEngine(ctx context.Context) (*engine.Engine, error) {
	opts := []engine.Option{
		engine.WithAddress(b.opts.engine),
		engine.WithStateDir(filepath.Join(b.opts.cacheDir, "engine")),
		engine.WithLogDir(filepath.Join(b.opts.cacheDir, "logs")),
		engine.WithProgress(b.opts.progressMode, b.opts.progress),
	}
	if b.opts.buildkitd != "" {
		opts = append(opts, engine.WithBuildkitd(b.opts.buildkitd))
	}
	return engine.Start(ctx, append(opts, b.opts.engineOptions...)...)
}

// close stops the build's own engine, and ends the use of the store if that is
// the build's own too. A second call does nothing.
func (b *builder) close() error {
	var err error
	if e := b.ownEngine; e != nil {
		b.ownEngine = nil
		err = e.Close()
	}
	if b.store != nil && b.opts.store == nil {
		err = errors.Join(err, b.store.Close())
	}
	return err
}

// run does the whole build with the lock as it is now.
func (b *builder) run(ctx context.Context) error {
	b.result = Result{Name: b.recipe.Name, Arch: b.arch.Go, Reasons: b.result.Reasons, Changed: b.lock.Changed(),
		Took: b.result.Took, StepsRun: b.result.StepsRun}
	b.sums = nil
	if err := b.rememberLock(); err != nil {
		return err
	}
	if err := b.pinToolchain(ctx); err != nil {
		return err
	}
	ports, err := recipe.LoadPorts(b.recipe.Resolve(b.recipe.Ports))
	if err != nil {
		return err
	}
	p, err := makePlan(b.recipe, ports, len(b.recipe.Repositories)+len(b.opts.repositories) > 0)
	if err != nil {
		return err
	}
	for _, port := range p.ports {
		if err := port.CheckSources(b.decls); err != nil {
			return err
		}
	}
	for _, name := range p.sourceNames(b.recipe) {
		if _, err := b.lockedSource(name, b.recipe.Path); err != nil {
			return err
		}
	}

	// The kernel and the packages need nothing of each other.
	var (
		kernel   builtKernel
		packages map[string]built
	)
	err = both(func() (err error) {
		kernel, err = b.buildKernel(ctx)
		b.complain("the kernel", err)
		return err
	}, func() (err error) {
		packages, err = b.buildPorts(ctx, p)
		return err
	})
	if err != nil {
		return err
	}
	output := b.opts.output
	if b.opts.dryRun {
		// Everything is in the cache so far, and whether the root is too shows
		// when its packages are solved: of a repository that nobody sees.
		if output, err = b.tempDir("dry-run-"); err != nil {
			return err
		}
		defer os.RemoveAll(output)
	}
	repository, release, err := b.writeRepository(ctx, output, packages)
	if err != nil {
		return err
	}
	root, err := b.assemble(ctx, repository, packages)
	if err := errors.Join(err, release()); err != nil {
		return err
	}
	if err := b.writeBundle(ctx, kernel, root); err != nil || b.opts.dryRun {
		return err
	}
	// The lock may be another one by now.
	if err := b.rememberLock(); err != nil {
		return err
	}
	if err := b.rememberBundle(); err != nil {
		return err
	}
	return b.checkSums()
}

// pinToolchain computes the toolchain's key and arranges that its image is
// made at most once, when the first step needs it.
func (b *builder) pinToolchain(ctx context.Context) error {
	if len(b.lock.Toolchain.Packages) == 0 {
		return fault.Errorf(fault.Usage, "%s: the toolchain is not locked", b.lockPath).
			Hintf("run sovereign-build lock --update %s %s", lock.ToolchainName, b.recipe.Dir)
	}
	text, err := json.Marshal(struct {
		Suite    string
		Packages []lock.DebPackage
	}{b.lock.Toolchain.Suite, b.lock.Toolchain.Packages})
	if err != nil {
		return err
	}
	sum := sha256.Sum256(text)
	b.toolchainKey = hex.EncodeToString(sum[:])
	if b.opts.image != nil {
		b.image = b.opts.image
		return nil
	}
	b.image = sync.OnceValues(func() (engine.Image, error) {
		b.note("toolchain: %d packages of %s", len(b.lock.Toolchain.Packages), b.lock.Toolchain.Suite)
		if err := b.fetcher.Debs(ctx, b.lock.Toolchain); err != nil {
			return engine.Image{}, err
		}
		// The image is an input: its date is the lock's, whatever the
		// artifacts' is.
		image, err := toolchain.Ensure(ctx, b.store, b.lock.Toolchain, b.lock.SourceDate, b.opts.cacheDir)
		if err != nil {
			return engine.Image{}, err
		}
		if want := b.lock.Toolchain.Image; want != "" && want != image.Digest {
			b.say("toolchain: the image made here is %s, the lock has %s; the packages in it are the locked ones", image.Digest, want)
		}
		return image, nil
	})
	return nil
}

// runStep runs a step on the toolchain image and gives its output, a tar
// stream, to read.
func (b *builder) runStep(ctx context.Context, step engine.Step, read func(io.Reader) error) error {
	image, err := b.image()
	if err != nil {
		return err
	}
	step.Base = image
	if b.opts.conditions != nil {
		b.opts.conditions.apply(&step, b.store.Path)
	}
	pr, pw := io.Pipe()
	var (
		mu       sync.Mutex
		firstErr error // of reading, if it came before the engine's
	)
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := read(pr)
		if err == nil {
			// A tar stream may go on after its end marker.
			_, err = io.Copy(io.Discard, pr)
		}
		mu.Lock()
		firstErr = err
		mu.Unlock()
		pr.CloseWithError(err)
	}()
	err = b.engine.Run(ctx, step, pw)
	mu.Lock()
	readErr := firstErr
	mu.Unlock()
	pw.CloseWithError(err)
	<-done
	switch {
	case readErr != nil:
		return readErr
	case err != nil:
		return err
	}
	return firstErr
}

// lockedSource finds a source in the lock; by says what wants it.
func (b *builder) lockedSource(name, by string) (lock.Source, error) {
	if _, ok := b.decls[name]; !ok {
		return lock.Source{}, fault.Errorf(fault.Usage, "%s: source %q is not in %s", by, name, b.recipe.Sources)
	}
	src, ok := b.lock.Source(name)
	if !ok {
		return lock.Source{}, fault.Errorf(fault.Usage, "%s: source %q, which %s needs, is not locked", b.lockPath, name, by).
			Hintf("run sovereign-build lock --update %s %s", name, b.recipe.Dir)
	}
	return src, nil
}

// fetchSources has the named sources in the store when it returns.
func (b *builder) fetchSources(ctx context.Context, names []string) error {
	var sources []lock.Source
	for _, name := range names {
		src, _ := b.lock.Source(name)
		sources = append(sources, src)
	}
	return b.fetcher.Sources(ctx, sources)
}

// scratch is the directory of temporary files, in the cache directory because
// /tmp may be memory.
func (b *builder) scratch() (string, error) {
	dir := filepath.Join(b.opts.cacheDir, "tmp")
	return dir, fault.Wrap(fault.Environment, os.MkdirAll(dir, 0o755))
}

// spool is a temporary file for contents.
func (b *builder) spool() (*rootfs.Spool, error) {
	dir, err := b.scratch()
	if err != nil {
		return nil, err
	}
	return rootfs.NewSpool(dir)
}

// tempDir is a new temporary directory.
func (b *builder) tempDir(prefix string) (string, error) {
	dir, err := b.scratch()
	if err != nil {
		return "", err
	}
	dir, err = os.MkdirTemp(dir, prefix)
	return dir, fault.Wrap(fault.Environment, err)
}

// note tells the user something, one line.
func (b *builder) note(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.opts.progressMode != "quiet" && b.opts.progressMode != "rawjson" {
		fmt.Fprintf(b.opts.progress, "sovereign-build: "+format+"\n", args...)
	}
}

// complain tells of a failure at once when other work goes on to its end.
func (b *builder) complain(what string, err error) {
	if err != nil && !errors.Is(err, errDryRun) && !errors.Is(err, context.Canceled) {
		b.note("%s failed, what runs is finished and kept: %v", what, err)
	}
}

func (b *builder) miss(reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.result.Reasons = append(b.result.Reasons, reason)
}

// count counts a step of the engine.
func (b *builder) count(ran bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ran {
		b.result.StepsRun++
	} else {
		b.result.StepsCached++
	}
}

// took records how long a thing that ran took.
func (b *builder) took(name string, d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.result.Took = append(b.result.Took, Took{Step: name, Seconds: d.Seconds()})
}

func sortedKeys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}
