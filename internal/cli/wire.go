package cli

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/sovereign-build/sovereign/pkg/build"
	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/remedy"
)

// Wire connects the commands to pkg/build.
func (c *CLI) Wire() { c.Builder = builder{} }

// builder is pkg/build as the commands see it.
type builder struct{}

// opened is a recipe of this machine's and the lock beside it.
type opened struct {
	*build.Builder
	lock     *lock.File
	progress *buildProgress
}

// open reads a recipe and its lock. One that is not there is an error, unless
// the command can do without.
func (r BuildRequest) open(needLock bool) (_ *opened, err error) {
	o := &opened{}
	rec, err := recipe.Load(r.Recipe)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(rec.Dir, lock.FileName)
	switch o.lock, err = lock.Open(path); {
	case errors.Is(err, fs.ErrNotExist) && !needLock:
		o.lock = lock.New(path)
	case err != nil:
		return nil, err
	}
	if o.progress, err = newBuildProgress(r.ProgressMode, r.Progress); err != nil {
		return nil, err
	}
	options, err := r.options()
	if err != nil {
		return nil, errors.Join(err, o.progress.close())
	}
	mirrors, err := userMirrors()
	if err != nil {
		return nil, errors.Join(err, o.progress.close())
	}
	if o.Builder, err = build.New(rec, o.lock.Lock(), append(options, build.WithMirrors(mirrors), build.WithEvents(o.progress.event))...); err != nil {
		return nil, errors.Join(err, o.progress.close())
	}
	return o, nil
}

// mirrorsFile is the user's list of places that are asked in place of others,
// in the directory of this program's configuration.
const mirrorsFile = "mirrors.yaml"

// maxUserFile bounds a file of the user's configuration, in bytes.
const maxUserFile = 1 << 20

// userMirrors reads it; there are none without it.
func userMirrors() (recipe.Mirrors, error) {
	text, path, err := userFile(mirrorsFile)
	if err != nil || text == nil {
		return nil, err
	}
	return recipe.ParseMirrors(path, text)
}

// close saves the lock, if it is another one by now, and ends everything.
func (o *opened) close(ctx context.Context) error {
	var err error
	if l := o.Lock(); l != nil {
		// Also after Ctrl-C: what was locked is not lost.
		err = o.lock.Save(context.WithoutCancel(ctx), l)
	}
	return errors.Join(err, o.Close(), o.progress.close())
}

func (builder) Build(ctx context.Context, r BuildRequest) (_ *BuildResult, err error) {
	o, err := r.open(true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, o.close(ctx)) }()
	return o.Bundle(ctx)
}

func (builder) Rebuild(ctx context.Context, r BuildRequest, l *lock.Lock) (_ *BuildResult, err error) {
	rec, err := recipe.Load(r.Recipe)
	if err != nil {
		return nil, err
	}
	progress, err := newBuildProgress(r.ProgressMode, r.Progress)
	if err != nil {
		return nil, err
	}
	options, err := r.options()
	if err != nil {
		return nil, errors.Join(err, progress.close())
	}
	// What others have made proves nothing.
	b, err := build.New(rec, l, append(options, build.WithOwnWork(true), build.WithEvents(progress.event))...)
	if err != nil {
		return nil, errors.Join(err, progress.close())
	}
	defer func() { err = errors.Join(err, b.Close(), progress.close()) }()
	return b.Bundle(ctx)
}

func (builder) Plan(ctx context.Context, r BuildRequest) (_ *build.Plan, err error) {
	o, err := r.open(true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, o.close(ctx)) }()
	return o.Plan(ctx)
}

func (builder) Repro(ctx context.Context, r BuildRequest, only []string) (_ *ReproResult, err error) {
	o, err := r.open(true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, o.close(ctx)) }()
	return o.Repro(ctx, only...)
}

func (r BuildRequest) options() ([]build.Option, error) {
	engineOptions := []engine.Option{engine.WithAddress(r.Engine), engine.WithTLS(r.EngineTLS)}
	if r.StepTimeout > 0 {
		engineOptions = append(engineOptions, engine.WithStepTimeout(r.StepTimeout))
	}
	for _, spec := range r.CacheFrom {
		engineOptions = append(engineOptions, engine.WithCacheImport(spec))
	}
	for _, spec := range r.CacheTo {
		engineOptions = append(engineOptions, engine.WithCacheExport(spec))
	}
	shared, err := r.Shared.options()
	return append(shared,
		build.WithArch(r.Arch),
		build.WithOutput(r.Output),
		build.WithCacheDir(r.CacheDir),
		build.WithEngineOptions(engineOptions...),
		build.WithJobs(max(r.Jobs, 1)),
		build.WithRepositories(r.Repositories, r.Keys),
		build.WithOffline(r.Offline),
		build.WithRelockMissing(r.RelockMissing),
		build.WithFrozenLock(r.Frozen),
		build.WithSums(sumsMode(r)),
		build.WithSourceDateEpoch(r.SourceDateEpoch),
	), err
}

func (builder) Lock(ctx context.Context, r LockRequest) (_ *LockResult, err error) {
	o, err := r.open()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, o.close(ctx)) }()
	result := &build.LockUpdate{}
	if r.Check {
		err = o.CheckLock()
	} else {
		result, err = o.UpdateLock(ctx, r.Update...)
	}
	if err != nil {
		return nil, err
	}
	l := o.Builder.Lock()
	out := &LockResult{Lock: o.lock.Path(), Inputs: l.Count(), Notes: result.Notes}
	for _, c := range result.Changes {
		out.Changes = append(out.Changes, c.String())
	}
	return out, nil
}

func sumsMode(r BuildRequest) build.SumsMode {
	switch {
	case r.WriteSums:
		return build.SumsWrite
	case r.CheckSums:
		return build.SumsCheck
	}
	return build.SumsCompare
}

func (builder) Outdated(ctx context.Context, r LockRequest) (_ *OutdatedResult, err error) {
	o, err := r.open()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, o.close(ctx)) }()
	return o.Outdated(ctx)
}

// open is that of a build for this machine: locking is for all architectures.
func (r LockRequest) open() (*opened, error) {
	o, err := BuildRequest{Recipe: r.Recipe, CacheDir: r.CacheDir, ProgressMode: "plain", Progress: r.Progress}.open(false)
	if err == nil && o.Lock() == nil && (r.Check || r.Outdated) {
		err = errors.Join(remedy.By(remedy.Remedy{Kind: remedy.Lock, Recipe: r.Recipe},
			fault.Errorf(fault.Usage, "there is no %s", o.lock.Path()).Hintf("make one")), o.close(context.Background()))
	}
	return o, err
}
