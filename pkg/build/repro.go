package build

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/compare"
	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

// ReproResult says whether two builds of a recipe came out the same.
type ReproResult struct {
	Name string `json:"name"`
	Arch string `json:"arch"`
	// Same is true when the bundles are, byte for byte, and so is what every
	// step that was done twice made.
	Same   bool   `json:"same"`
	First  string `json:"first"`  // the first bundle's digest
	Second string `json:"second"` // the second's
	// Steps are those that were done a second time, in the order of names.
	Steps []ReproStep `json:"steps"`
	// Descriptions are the files that describe the two bundles.
	Descriptions []ReproStep `json:"descriptions"`
	// Conditions are what was different for the second build.
	Conditions []Condition `json:"conditions"`
	// Difference is what differs between the bundles, nil for nothing. Kept
	// is then the directory with the second bundle and diffoscope's reports.
	Difference *compare.Report `json:"difference,omitempty"`
	Kept       string          `json:"kept,omitempty"`
	Seconds    float64         `json:"seconds"` // of the second build
}

// ReproStep is one step that was done twice.
type ReproStep struct {
	Name string `json:"name"` // "port zlib amd64"
	Same bool   `json:"same"`
	// Signer is the key of the machine that the first's outputs are from, where a
	// shared cache had them; empty where both were made here.
	Signer signature.Key `json:"signer,omitempty"`
	// Outputs that differ, sorted by name.
	Outputs []ReproOutput `json:"outputs,omitempty"`
}

// ReproOutput is one output that differs.
type ReproOutput struct {
	Name   string       `json:"name"`
	First  store.Digest `json:"first"`
	Second store.Digest `json:"second"`
	// Changes are the files of a package, or one change for another file;
	// empty when only one build has the output.
	Changes []rootfs.Change `json:"changes,omitempty"`
}

// Repro makes the recipe's bundle as Bundle does, from the cache where it can,
// and then a second time under other conditions: another cache, engine,
// toolchain image, working directory, order of files, umask, locale, time
// zone, user, number of jobs and, where libfaketime is installed, clock. Only
// names the steps to do again ("kernel", "port zlib"); none is all of them. It
// reports what came out differently. What the first build took from a shared cache
// is held against this machine's own work in that way.
//
// Two builds that differ are no error: look at Same. When a step of the second
// build fails, what it left stays, the step's log among it.
func (b *Builder) Repro(ctx context.Context, only ...string) (_ *ReproResult, err error) {
	first, err := b.Bundle(ctx)
	if err != nil {
		return nil, err
	}
	// Two engines at once take the memory of two.
	if err := b.stopEngine(); err != nil {
		return nil, err
	}
	if err := b.startEngine(); err != nil {
		return nil, err
	}
	dir := filepath.Join(b.opts.cacheDir, "repro")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	if dir, err = os.MkdirTemp(dir, first.Name+"-"+first.Arch+"-"); err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	keep := false
	defer func() {
		if !keep {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()

	again := func(name string) bool { return doneAgain(name, only) }
	blank, err := b.store.Forgetful(filepath.Join(dir, "memory"), again)
	if err != nil {
		return nil, err
	}
	where, list, err := elsewhere(ctx, b.store, findFaketime())
	if err != nil {
		return nil, err
	}
	o := *b.opts
	o.cacheDir, o.output, o.store, o.conditions = dir, filepath.Join(dir, "out"), blank, &where
	// What a shared cache has is what is being checked.
	o.caches, o.cachePush, o.cacheKeys = nil, nil, b.trusted
	second, err := b.again(ctx, &o)
	if err != nil {
		// The error names the step's log, which lies there.
		var failed *engine.StepError
		keep = errors.As(err, &failed)
		return nil, err
	}

	r := &ReproResult{Name: first.Name, Arch: first.Arch, First: first.Digest, Second: second.Digest, Conditions: list, Seconds: second.Seconds}
	if r.Steps, err = reproSteps(ctx, b.store, blank, again); err != nil {
		return nil, err
	}
	if len(r.Steps) == 0 {
		return nil, fault.Errorf(fault.Usage, "no step is called %s", strings.Join(only, " or ")).
			Hintf("name a step as a build does: kernel, or port zlib")
	}
	described, err := reproDescriptions(first.Bundle, second.Bundle)
	if err != nil {
		return nil, err
	}
	r.Descriptions = described
	differs := func(s ReproStep) bool { return !s.Same }
	r.Same = first.Digest == second.Digest && !slices.ContainsFunc(r.Descriptions, differs) && !slices.ContainsFunc(r.Steps, differs)
	if first.Digest != second.Digest {
		if r.Difference, err = compare.Bundles(ctx, first.Bundle, second.Bundle, dir); err != nil {
			return nil, err
		}
	}
	if !r.Same {
		keep, r.Kept = true, dir
		err = diffoscope(ctx, dir, b.store, r.Steps)
	}
	return r, err
}

// again makes the same bundle with other options.
func (b *Builder) again(ctx context.Context, o *options) (_ *Result, err error) {
	second, err := open(b.recipe, b.lock, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, second.Close()) }()
	return second.Bundle(ctx)
}

// doneAgain says whether a second build does the step again. Fetching and
// unpacking are checked by digests and are not repeated.
func doneAgain(name string, only []string) bool {
	if len(only) == 0 {
		only = []string{"kernel", "port", "root"}
	}
	return slices.ContainsFunc(only, func(o string) bool { return strings.HasPrefix(name+" ", o+" ") })
}

// reproSteps compares what the steps of the second build made with what the
// first's made of the same inputs. A step whose inputs differ is not listed:
// the step that made the input is.
func reproSteps(ctx context.Context, main, blank *store.Store, again func(string) bool) ([]ReproStep, error) {
	var steps []ReproStep
	err := blank.Actions(func(key string, second store.Action) error {
		if !again(second.Name) {
			return nil
		}
		first, ok, err := main.Action(key)
		if err != nil || !ok {
			return err
		}
		s := ReproStep{Name: second.Name, Same: true, Signer: signature.Key(first.Signer)}
		both := maps.Clone(first.Outputs)
		maps.Copy(both, second.Outputs)
		for _, name := range sortedKeys(both) {
			out := ReproOutput{Name: name, First: first.Outputs[name], Second: second.Outputs[name]}
			// What the packages say of themselves is in the packages too.
			if out.First == out.Second || name == metasOutput {
				continue
			}
			s.Same = false
			if out.First != "" && out.Second != "" {
				if out.Changes, err = changesOf(ctx, main, out, first, second); err != nil {
					return err
				}
			}
			s.Outputs = append(s.Outputs, out)
		}
		steps = append(steps, s)
		return nil
	})
	slices.SortFunc(steps, func(a, b ReproStep) int { return strings.Compare(a.Name, b.Name) })
	return steps, err
}

// reproDescriptions compares what the two builds say of their bundles.
func reproDescriptions(first, second string) ([]ReproStep, error) {
	var steps []ReproStep
	for _, name := range []string{bundle.ProvenanceFile, bundle.SPDXFile, bundle.CycloneDXFile, bundle.LicensesFile, bundle.LicenseTextsFile} {
		out := ReproOutput{Name: name}
		for to, dir := range map[*store.Digest]string{&out.First: first, &out.Second: second} {
			text, err := os.ReadFile(filepath.Join(dir, name))
			if errors.Is(err, fs.ErrNotExist) {
				continue // licences, where a source could not be had
			}
			if err != nil {
				return nil, fault.Wrap(fault.Environment, err)
			}
			*to = store.FromBytes(text)
		}
		if out.First == "" && out.Second == "" {
			continue
		}
		s := ReproStep{Name: name, Same: out.First == out.Second}
		if !s.Same {
			s.Outputs = []ReproOutput{out}
		}
		steps = append(steps, s)
	}
	return steps, nil
}

// changesOf names the files that differ in an output of a step's two runs.
func changesOf(ctx context.Context, st *store.Store, out ReproOutput, first, second store.Action) ([]rootfs.Change, error) {
	var trees [2]*rootfs.Tree
	for i, run := range []store.Action{first, second} {
		d := run.Outputs[out.Name]
		if name, ok := strings.CutPrefix(out.Name, "apk "); ok {
			packages, err := packagesOf(st, run.Outputs)
			if err != nil {
				return nil, err
			}
			j := slices.IndexFunc(packages, func(p Package) bool { return p.Meta.Name == name })
			if j < 0 {
				return nil, fault.Errorf(fault.Internal, "store: %s %s is not in the metadata of %s", out.Name, d, run.Name)
			}
			p, err := apk.OpenContext(ctx, st.Path(d), nil, apk.Pinned(packages[j].Meta))
			if err != nil {
				return nil, err
			}
			defer p.Close()
			trees[i] = p.Tree
			continue
		}
		size, err := st.Size(d)
		if err != nil {
			return nil, err
		}
		trees[i] = rootfs.New()
		if err := trees[i].Add(rootfs.Entry{Path: filepath.Base(out.Name), Mode: 0o644, Size: size, Content: rootfs.File(st.Path(d))}); err != nil {
			return nil, err
		}
	}
	return rootfs.Diff(ctx, trees[0], trees[1])
}

// diffoscope writes its report on every pair that differs, where it is
// installed.
func diffoscope(ctx context.Context, dir string, st *store.Store, steps []ReproStep) error {
	program, err := exec.LookPath("diffoscope")
	if err != nil {
		return nil
	}
	for _, s := range steps {
		for _, out := range s.Outputs {
			if out.First == "" || out.Second == "" {
				continue
			}
			report := filepath.Join(dir, strings.ReplaceAll(s.Name+" "+filepath.Base(out.Name), " ", "-")+".diffoscope.txt")
			cmd := exec.CommandContext(ctx, program, "--text", report, st.Path(out.First), st.Path(out.Second))
			text, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			// It ends with 1 when it found a difference.
			if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
				return fault.Errorf(fault.Environment, "diffoscope: %w: %s", err, text)
			}
		}
	}
	return nil
}
