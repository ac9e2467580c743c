package cli

import (
	"context"

	"github.com/sovereign-build/sovereign/pkg/build"
	"github.com/sovereign-build/sovereign/pkg/build/engine"
)

// Wire connects the commands to pkg/build.
func (c *CLI) Wire() { c.Builder = builder{} }

// builder is pkg/build as the commands see it.
type builder struct{}

func (builder) Build(ctx context.Context, r BuildRequest) (*BuildResult, error) {
	return build.Build(ctx, r.Recipe, r.options()...)
}

func (builder) Repro(ctx context.Context, r BuildRequest, only []string) (*ReproResult, error) {
	return build.Repro(ctx, r.Recipe, only, r.options()...)
}

func (r BuildRequest) options() []build.Option {
	engineOptions := []engine.Option{engine.WithTLS(r.EngineTLS), engine.WithStepTimeout(r.StepTimeout)}
	for _, spec := range r.CacheFrom {
		engineOptions = append(engineOptions, engine.WithCacheImport(spec))
	}
	for _, spec := range r.CacheTo {
		engineOptions = append(engineOptions, engine.WithCacheExport(spec))
	}
	return []build.Option{
		build.WithArch(r.Arch),
		build.WithOutput(r.Output),
		build.WithCacheDir(r.CacheDir),
		build.WithEngine(r.Engine),
		build.WithEngineOptions(engineOptions...),
		build.WithJobs(r.Jobs),
		build.WithRepositories(r.Repositories, r.Keys),
		build.WithOffline(r.Offline),
		build.WithRelockMissing(r.RelockMissing),
		build.WithDryRun(r.DryRun),
		build.WithSums(sumsMode(r)),
		build.WithSourceDateEpoch(r.SourceDateEpoch),
		build.WithProgress(r.ProgressMode, r.Progress),
	}
}

func (builder) Lock(ctx context.Context, r LockRequest) (*LockResult, error) {
	opts := r.options()
	var result *build.LockResult
	var err error
	if r.Check {
		result, err = build.CheckLock(r.Recipe, opts...)
	} else {
		result, err = build.Lock(ctx, r.Recipe, r.Update, opts...)
	}
	if err != nil {
		return nil, err
	}
	out := &LockResult{Lock: result.Path, Inputs: result.Inputs, Notes: result.Notes}
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

func (builder) Outdated(ctx context.Context, r LockRequest) (*OutdatedResult, error) {
	return build.Outdated(ctx, r.Recipe, r.options()...)
}

func (r LockRequest) options() []build.Option {
	return []build.Option{build.WithCacheDir(r.CacheDir), build.WithProgress("plain", r.Progress)}
}
