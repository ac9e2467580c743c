package build

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/source"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

// Kernel is a compiled kernel, in the store.
type Kernel struct {
	// Image is what boots: a bzImage on amd64, an Image on arm64.
	Image store.Digest
	// Config is the .config it was compiled with.
	Config store.Digest
}

// Package is one apk package made from source.
type Package struct {
	// Meta is of the package as it is in the store.
	Meta apk.Meta
	// Digest is of the package, which is in the store without a signature: a
	// signature is of whoever builds, and the cache's keys are the same
	// everywhere.
	Digest store.Digest
}

// Result says what [Builder.Bundle] made and what it cost.
type Result struct {
	Name string `json:"name"`
	Arch string `json:"arch"`
	// Bundle is the bundle's directory.
	Bundle string `json:"bundle"`
	// Digest is the SHA-256 of the bundle's manifest, and so of all of it.
	Digest string `json:"digest"`
	// StepsRun and StepsCached count the engine's steps: the kernel's two and
	// one for each port.
	StepsRun    int `json:"steps_run"`
	StepsCached int `json:"steps_cached"`
	// StepsFetched were neither: other machines had made them. They are not in
	// Reasons.
	StepsFetched int     `json:"steps_fetched,omitempty"`
	Seconds      float64 `json:"seconds"`
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

// Plan says what [Builder.Bundle] would do.
type Plan struct {
	Name string `json:"name"`
	Arch string `json:"arch"`
	// Steps are the steps whose inputs are known by now, by name. A step that
	// waits for one that would run is named as that, and what comes after all
	// of them (the root, the bundle) is not.
	Steps []PlannedStep `json:"steps"`
	// Bundle is the bundle's directory and Digest its manifest's, where nothing
	// but the bundle would be written; else empty.
	Bundle string `json:"bundle,omitempty"`
	Digest string `json:"digest,omitempty"`
	// Changed names inputs that the machine locked anew by itself some time.
	Changed []string `json:"changed,omitempty"`
}

// PlannedStep is a step of a Plan.
type PlannedStep struct {
	Step string `json:"step"`
	// Cached is true when nothing would run. Reason says what would run for:
	// why the cache has nothing.
	Cached bool   `json:"cached"`
	Reason string `json:"reason,omitempty"`
	// Engine is true for a compile step, which the engine runs.
	Engine bool `json:"engine,omitempty"`
}

// Reasons has a line for each step that would run, sorted.
func (p *Plan) Reasons() []string {
	var out []string
	for _, s := range p.Steps {
		if !s.Cached {
			out = append(out, s.Step+": "+s.Reason)
		}
	}
	slices.Sort(out)
	return out
}

// errPlanned ends a plan at the first step of a chain that would run.
var errPlanned = errors.New("planned")

// Plan finds out what Bundle would do. It has no effects: it fetches nothing,
// asks no engine and no network, changes no lock, and writes nothing but
// temporary files that are gone when it returns.
//
// Errors are those that Bundle would end with before its first step.
func (b *Builder) Plan(ctx context.Context) (*Plan, error) {
	b.begin()
	b.planning = true
	defer func() { b.planning = false }()
	if err := b.bundle(ctx); err != nil && !errors.Is(err, errPlanned) {
		return nil, err
	}
	p := b.plan
	p.Name, p.Arch, p.Changed = b.recipe.Name, b.arch.Go, b.lock.Changed()
	p.Bundle, p.Digest = b.result.Bundle, b.result.Digest
	slices.SortStableFunc(p.Steps, func(a, b PlannedStep) int { return cmp.Compare(a.Step, b.Step) })
	if p.Steps == nil {
		p.Steps = []PlannedStep{} // an empty list in JSON
	}
	return &p, nil
}

// Kernel compiles the recipe's kernel.
//
// Errors have a class of package fault: Usage for the recipe and the lock,
// Source for an input no mirror gave, Step for a failed compile step,
// Verification for a digest, a signature or a lost kernel symbol, Environment
// for what this machine lacks. Those of the other phases are the same.
func (b *Builder) Kernel(ctx context.Context) (*Kernel, error) {
	b.begin()
	var k Kernel
	err := b.relocking(ctx, func(ctx context.Context) error {
		if err := b.ready(); err != nil {
			return err
		}
		if err := b.wants(b.recipe.Kernel.Source != "", "a kernel"); err != nil {
			return err
		}
		if err := b.pinToolchain(ctx); err != nil {
			return err
		}
		var err error
		k, err = b.buildKernel(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &k, nil
}

// Packages makes the packages that the recipe's ports make, as far as the
// recipe needs them, and returns them by name. Packages of the recipe's
// repositories are not among them.
func (b *Builder) Packages(ctx context.Context) ([]Package, error) {
	b.begin()
	var made map[string]Package
	err := b.relocking(ctx, func(ctx context.Context) error {
		if err := b.ready(); err != nil {
			return err
		}
		var err error
		made, err = b.packages(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	var out []Package
	for _, name := range sortedKeys(made) {
		out = append(out, made[name])
	}
	return out, nil
}

// Root makes the packages and installs them, with the recipe's files and those
// of WithFiles, as a tree that the caller may change and write with packages
// erofs, ext4, oci or as a tar. Contents are readable until Close.
func (b *Builder) Root(ctx context.Context) (*rootfs.Tree, error) {
	b.begin()
	var t *rootfs.Tree
	err := b.relocking(ctx, func(ctx context.Context) error {
		if err := b.ready(); err != nil {
			return err
		}
		packages, err := b.packages(ctx)
		if err != nil {
			return err
		}
		content, err := b.solve(ctx, packages)
		if err != nil {
			return err
		}
		spool, err := b.spool()
		if err != nil {
			return err
		}
		b.spools = append(b.spools, spool)
		t, err = b.installed(ctx, content, spool)
		return err
	})
	return t, err
}

// Bundle makes all of it and writes the bundle, a directory NAME-ARCH in the
// output, and the ports' packages as an apk repository, the directory packages
// beside it. A bundle that is there already is left alone.
func (b *Builder) Bundle(ctx context.Context) (*Result, error) {
	b.begin()
	if err := b.relocking(ctx, b.bundle); err != nil {
		return nil, err
	}
	r := b.result
	r.Seconds = time.Since(b.began).Seconds()
	slices.Sort(r.Reasons)
	slices.SortFunc(r.Took, func(a, b Took) int { return cmp.Compare(b.Seconds, a.Seconds) })
	return &r, nil
}

// begin forgets what the last call found.
func (b *Builder) begin() {
	b.began = time.Now()
	b.result, b.plan, b.sums, b.manifest = Result{}, Plan{}, nil, ""
}

// wants refuses a phase that the recipe says nothing for.
func (b *Builder) wants(said bool, what string) error {
	if said {
		return nil
	}
	return fault.Errorf(fault.Usage, "%s has nothing to make %s of", b.name(), what).
		Hintf("a recipe made in Go says only what is wanted of it: say this too")
}

// name is the recipe's in messages.
func (b *Builder) name() string { return cmp.Or(b.recipe.Path, "recipe "+b.recipe.Name) }

// ready checks the lock that a phase begins with, as it is now.
func (b *Builder) ready() (err error) {
	if b.arch, err = findArch(b.opts.arch, b.recipe.Architectures); err != nil {
		return err
	}
	if b.lock == nil {
		return b.noLock()
	}
	if err := b.checkFrozen(); err != nil {
		return err
	}
	// An input that is missing matters when something needs it, and one too
	// many never does: recipes may share a lock.
	if err := b.checkLock(func(s source.Stale) bool { return !s.Missing && !s.Undeclared }); err != nil {
		return err
	}
	if b.epoch, err = lock.SourceDate(b.lock, b.opts.epoch); err != nil {
		return err
	}
	b.result = Result{Name: b.recipe.Name, Arch: b.arch.Go, Reasons: b.result.Reasons, Changed: b.lock.Changed(),
		Took: b.result.Took, StepsRun: b.result.StepsRun, StepsFetched: b.result.StepsFetched}
	b.sums = nil
	return b.rememberLock()
}

// ports finds the ports the recipe needs and checks that their sources, and the
// others named, are locked.
func (b *Builder) ports(kernel bool) (*portPlan, error) {
	ports, err := b.recipe.LoadPorts()
	if err != nil {
		return nil, err
	}
	p, err := makePlan(b.recipe, ports, len(b.recipe.Repositories)+len(b.opts.repositories) > 0)
	if err != nil {
		return nil, err
	}
	for _, port := range p.ports {
		if err := port.CheckSources(b.decls); err != nil {
			return nil, err
		}
	}
	names := p.sourceNames()
	if kernel {
		names = append(names, b.recipe.Kernel.Source)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if _, err := b.lockedSource(name, b.name()); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// packages makes the ports' packages.
func (b *Builder) packages(ctx context.Context) (map[string]Package, error) {
	if err := b.wants(len(b.recipe.Packages) > 0, "a root"); err != nil {
		return nil, err
	}
	p, err := b.ports(false)
	if err != nil || len(p.ports) == 0 {
		return nil, err
	}
	if err := b.pinToolchain(ctx); err != nil {
		return nil, err
	}
	return b.buildPorts(ctx, p)
}

// bundle does the whole build with the lock as it is now.
func (b *Builder) bundle(ctx context.Context) error {
	if err := b.ready(); err != nil {
		return err
	}
	if err := b.wants(b.recipe.VM != (recipe.VM{}) && len(b.recipe.Services) > 0, "a bundle"); err != nil {
		return err
	}
	if err := b.wants(b.recipe.Kernel.Source != "", "a kernel"); err != nil {
		return err
	}
	if err := b.wants(len(b.recipe.Packages) > 0, "a root"); err != nil {
		return err
	}
	if err := b.pinToolchain(ctx); err != nil {
		return err
	}
	p, err := b.ports(true)
	if err != nil {
		return err
	}

	// The kernel and the packages need nothing of each other.
	var (
		kernel   Kernel
		packages map[string]Package
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
	root, err := b.assemble(ctx, packages)
	if err != nil {
		return err
	}
	if err := b.writeBundle(ctx, kernel, root); err != nil || b.planning {
		return err
	}
	if err := b.describe(ctx, p, root); err != nil {
		return err
	}
	if err := b.exportRepository(ctx, packages); err != nil {
		return err
	}
	// The lock may be another one by now.
	if err := b.rememberLock(); err != nil {
		return err
	}
	if err := b.rememberBundle(); err != nil {
		return err
	}
	if err := b.checkSums(); err != nil || b.cache == nil {
		return err
	}
	return b.cache.Lost()
}

// miss notes a step that runs, or would.
func (b *Builder) miss(step, reason string, engine bool) {
	b.mu.Lock()
	b.result.Reasons = append(b.result.Reasons, step+": "+reason)
	b.plan.Steps = append(b.plan.Steps, PlannedStep{Step: step, Reason: reason, Engine: engine})
	b.mu.Unlock()
}

// hit notes a step that is in the cache.
func (b *Builder) hit(step string, engine bool) {
	b.mu.Lock()
	b.plan.Steps = append(b.plan.Steps, PlannedStep{Step: step, Cached: true, Engine: engine})
	if engine {
		b.result.StepsCached++
	}
	b.mu.Unlock()
}
