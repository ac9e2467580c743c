package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/kernel"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// builtKernel is the kernel's part of a bundle.
type builtKernel struct {
	Image, Config store.Digest
}

// buildKernel merges the recipe's fragments, has the kernel's own tool make a
// .config of them, proves that no symbol was lost on the way, and only then
// compiles.
func (b *builder) buildKernel(ctx context.Context) (builtKernel, error) {
	merged, err := b.mergeFragments()
	if err != nil {
		return builtKernel{}, err
	}
	fragments, _, err := b.store.Put(ctx, bytes.NewReader(merged.Bytes()), "")
	if err != nil {
		return builtKernel{}, err
	}
	source := b.recipe.Kernel.Source
	src, err := b.lockedSource(source, b.recipe.Path)
	if err != nil {
		return builtKernel{}, err
	}

	config, err := b.kernelStep(ctx, "kernel config", kernel.ConfigScript(b.arch.Arch), src.Version, inputs{
		"source " + source: src.Digest.String(),
		"fragments":        fragments.String(),
	}, fragments, kernel.ConfigFile, kernel.NotesFile)
	if err != nil {
		return builtKernel{}, err
	}
	if err := b.verifyConfig(ctx, merged, config); err != nil {
		return builtKernel{}, err
	}

	out, err := b.kernelStep(ctx, "kernel", kernel.BuildScript(b.arch.Arch), src.Version, inputs{
		"source " + source: src.Digest.String(),
		// The fragments only matter through the .config they lead to, so a
		// changed comment does not compile a kernel.
		"config": config[kernel.ConfigFile].String(),
	}, config[kernel.ConfigFile], b.arch.Image, kernel.ConfigFile)
	if err != nil {
		return builtKernel{}, err
	}
	if out[kernel.ConfigFile] != config[kernel.ConfigFile] {
		return builtKernel{}, fault.Errorf(fault.Verification, "the kernel was compiled with another .config (%s) than the one that was checked (%s)", out[kernel.ConfigFile], config[kernel.ConfigFile])
	}
	return builtKernel{Image: out[b.arch.Image], Config: out[kernel.ConfigFile]}, nil
}

// kernelPatches puts the recipe's patches into the store, as inputs of a step.
func (b *builder) kernelPatches(ctx context.Context) ([]engine.Input, error) {
	var in []engine.Input
	for i, name := range b.recipe.Kernel.Patches {
		path := b.recipe.Resolve(name)
		f, err := os.Open(path)
		if err != nil {
			return nil, fault.Errorf(fault.Usage, "%s: kernel.patches: %w", b.recipe.Path, err)
		}
		digest, _, err := b.store.Put(ctx, f, "")
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		in = append(in, b.mount(kernel.PatchInput(i, filepath.Base(name)), digest))
	}
	return in, nil
}

// mergeFragments reads the recipe's fragments and says where one overrides
// another.
func (b *builder) mergeFragments() (*kernel.Merged, error) {
	var fragments []*kernel.Config
	for _, path := range b.recipe.Fragments(b.arch.Go) {
		name, err := filepath.Rel(b.recipe.Dir, path)
		if err != nil {
			return nil, err
		}
		// The name is what a .config's comments and errors show, so it is
		// the recipe's, not this machine's.
		fragment, err := kernel.ReadFragment(path, name)
		if err != nil {
			return nil, err
		}
		fragments = append(fragments, fragment)
	}
	merged, overrides := kernel.Merge(fragments...)
	for _, o := range overrides {
		b.note("kernel: %s", o)
	}
	return merged, nil
}

// verifyConfig fails, naming each symbol, when the final .config is not what
// the fragments asked for or what the recipe's requirement sets need.
func (b *builder) verifyConfig(ctx context.Context, merged *kernel.Merged, config outputs) error {
	list, err := b.store.Open(config[kernel.NotesFile])
	if err != nil {
		return err
	}
	defer list.Close()
	notes, err := kernel.ParseNotes(list)
	if err != nil {
		return err
	}
	f, err := b.store.Open(config[kernel.ConfigFile])
	if err != nil {
		return err
	}
	defer f.Close()
	final, err := kernel.ParseConfig(kernel.ConfigFile, f)
	if err != nil {
		return err
	}
	if err := kernel.VerifyError(merged, final, notes); err != nil {
		return b.explainLost(ctx, err, merged)
	}
	report, err := kernel.Check(final, b.recipe.Kernel.Require...)
	if err != nil {
		return fmt.Errorf("%s: kernel.require: %w", b.recipe.Path, err)
	}
	return report.Err()
}

// kernelStep runs one of the kernel's two scripts on the recipe's source and
// patches. The file config is at /src/fragments.config, and the named files come
// out of /out.
func (b *builder) kernelStep(ctx context.Context, name, script, version string, in inputs, config store.Digest, files ...string) (outputs, error) {
	in["format"] = "kernel/1"
	in["arch"] = b.arch.Linux
	in["script"] = store.FromBytes([]byte(script)).String()
	in["source date"] = strconv.FormatInt(b.epoch, 10)
	in["toolchain"] = b.toolchainKey
	patches, err := b.kernelPatches(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range patches {
		in["input "+p.Dest] = p.Digest.String()
	}
	return b.cached(ctx, name+" "+b.arch.Go, in, true, func(ctx context.Context) (outputs, error) {
		source := b.recipe.Kernel.Source
		if err := b.fetchSources(ctx, []string{source}); err != nil {
			return nil, err
		}
		src, _ := b.lock.Source(source)
		out := outputs{}
		err := b.runStep(ctx, engine.Step{
			Name:   fmt.Sprintf("%s %s (%s)", name, version, b.arch.Go),
			Script: script,
			Env:    b.stepEnv(version),
			Inputs: append([]engine.Input{b.mount(kernel.SourceInput, src.Digest), b.mount(kernel.FragmentsInput, config)}, patches...),
			Output: "/out",
		}, func(r io.Reader) error {
			spool, err := b.spool()
			if err != nil {
				return err
			}
			defer spool.Close()
			tree, err := rootfs.ReadTar(ctx, r, spool)
			if err != nil {
				return err
			}
			for _, file := range files {
				if out[file], err = b.storeEntry(ctx, tree, file); err != nil {
					return err
				}
			}
			return nil
		})
		return out, err
	})
}

// storeEntry puts one file of a step's output into the store.
func (b *builder) storeEntry(ctx context.Context, tree *rootfs.Tree, path string) (store.Digest, error) {
	e, ok := tree.Lookup(strings.TrimPrefix(path, "/"))
	if !ok || !e.Mode.IsRegular() {
		return "", fault.Errorf(fault.Step, "the step left no file %s in /out", path)
	}
	r, err := e.Open()
	if err != nil {
		return "", err
	}
	defer r.Close()
	d, _, err := b.store.Put(ctx, r, "")
	return d, err
}
