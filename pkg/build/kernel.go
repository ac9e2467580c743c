package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/kernel"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// buildKernel merges the recipe's fragments, has the kernel's own tool make a
// .config of them, proves that no symbol was lost on the way, and only then
// compiles.
func (b *Builder) buildKernel(ctx context.Context) (Kernel, error) {
	merged, err := b.mergeFragments()
	if err != nil {
		return Kernel{}, err
	}
	fragments, _, err := b.keep(ctx, bytes.NewReader(merged.Bytes()))
	if err != nil {
		return Kernel{}, err
	}
	source := b.recipe.Kernel.Source
	src, err := b.lockedSource(source, b.name())
	if err != nil {
		return Kernel{}, err
	}

	config, err := b.kernelStep(ctx, "kernel config", kernel.ConfigScript(b.arch.Arch), src.Version, inputs{
		"source " + source: src.Digest.String(),
		"fragments":        fragments.String(),
	}, fragments, kernel.ConfigFile, kernel.NotesFile)
	if err != nil {
		return Kernel{}, err
	}
	if err := b.verifyConfig(ctx, merged, config); err != nil {
		return Kernel{}, err
	}

	out, err := b.kernelStep(ctx, "kernel", kernel.BuildScript(b.arch.Arch), src.Version, inputs{
		"source " + source: src.Digest.String(),
		// The fragments only matter through the .config they lead to, so a
		// changed comment does not compile a kernel.
		"config": config[kernel.ConfigFile].String(),
	}, config[kernel.ConfigFile], b.arch.Image, kernel.ConfigFile)
	if err != nil {
		return Kernel{}, err
	}
	if out[kernel.ConfigFile] != config[kernel.ConfigFile] {
		return Kernel{}, fault.Errorf(fault.Verification, "the kernel was compiled with another .config (%s) than the one that was checked (%s)", out[kernel.ConfigFile], config[kernel.ConfigFile])
	}
	return Kernel{Image: out[b.arch.Image], Config: out[kernel.ConfigFile]}, nil
}

// kernelPatches puts the recipe's patches into the store, as inputs of a step.
func (b *Builder) kernelPatches(ctx context.Context) ([]engine.Input, error) {
	var in []engine.Input
	for i, name := range b.recipe.Kernel.Patches {
		path := b.recipe.Resolve(name)
		f, err := path.Open()
		if err != nil {
			return nil, fault.Errorf(fault.Usage, "%s: kernel.patches: %w", b.name(), err)
		}
		digest, _, err := b.keep(ctx, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		in = append(in, b.mount(kernel.PatchInput(i, filepath.Base(name)), digest))
	}
	return in, nil
}

// mergeFragments reads the recipe's fragments and says where one overrides
// another.
func (b *Builder) mergeFragments() (*kernel.Merged, error) {
	var fragments []*kernel.Config
	for _, name := range b.recipe.Fragments(b.arch.Go) {
		fragment, err := readFragment(b.recipe.Resolve(name), name)
		if err != nil {
			return nil, err
		}
		fragments = append(fragments, fragment)
	}
	merged, overrides := kernel.Merge(fragments...)
	for _, o := range overrides {
		b.tell(FragmentOverridden{o})
	}
	return merged, nil
}

// readFragment reads a fragment. The name is what a .config's comments and
// errors show, so it is the recipe's, not this machine's.
func readFragment(file recipe.Ref, name string) (_ *kernel.Config, err error) {
	if path, ok := file.OnDisk(); ok {
		return kernel.ReadFragment(path, filepath.Clean(name))
	}
	f, err := file.Open()
	if err != nil {
		return nil, fault.Errorf(fault.Usage, "kernel configuration: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	text, err := kernel.Decompress(name, f)
	if err != nil {
		return nil, err
	}
	return kernel.ParseFragment(filepath.Clean(name), text)
}

// verifyConfig fails, naming each symbol, when the final .config is not what
// the fragments asked for or what the recipe's requirement sets need.
func (b *Builder) verifyConfig(ctx context.Context, merged *kernel.Merged, config outputs) error {
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
	if err := b.readsRoot(final); err != nil {
		return err
	}
	report, err := kernel.Check(final, b.recipe.Kernel.Require...)
	if err != nil {
		return fmt.Errorf("%s: kernel.require: %w", b.name(), err)
	}
	return report.Err()
}

// readsRoot checks that a kernel can read the root as it is compressed. One
// that cannot finds that out at its boot only.
func (b *Builder) readsRoot(config *kernel.Config) error {
	symbols := map[string][]string{"lz4": {"EROFS_FS_ZIP"}, "zstd": {"EROFS_FS_ZIP", "EROFS_FS_ZIP_ZSTD"}}
	algorithm := b.recipe.Root.Compression
	for _, symbol := range symbols[algorithm] {
		if config.Value(symbol) != "y" {
			return fault.Errorf(fault.Verification, "%s: root.compression is %s, and the kernel's .config has no CONFIG_%s=y", b.name(), algorithm, symbol).
				Hintf("add it to a fragment of the recipe, or leave root.compression out")
		}
	}
	return nil
}

// kernelStep runs one of the kernel's two scripts on the recipe's source and
// patches. The file config is at /src/fragments.config, and the named files come
// out of /out.
func (b *Builder) kernelStep(ctx context.Context, name, script, version string, in inputs, config store.Digest, files ...string) (outputs, error) {
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
	return b.cached(ctx, name+" "+b.arch.Go, in, stepCompiled, func(ctx context.Context) (outputs, error) {
		source := b.recipe.Kernel.Source
		if err := b.fetchSources(ctx, []string{source}); err != nil {
			return nil, err
		}
		src, _ := b.lock.Source(source)
		out := outputs{}
		err := b.runStep(ctx, name+" "+b.arch.Go, engine.Step{
			Name:   fmt.Sprintf("%s %s (%s)", name, version, b.arch.Go),
			Script: script,
			Env:    b.stepEnv(b.arch, version),
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
func (b *Builder) storeEntry(ctx context.Context, tree *rootfs.Tree, path string) (store.Digest, error) {
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
