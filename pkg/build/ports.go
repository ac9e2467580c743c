package build

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/port"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/source"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/kernel"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

// runPort is the script around a port's own: it unpacks the step's inputs to
// where build scripts look for them (recipes/ports/README.md).
//
//go:embed runport.sh
var runPort string

// metasOutput is what a port's packages say of themselves, as JSON: for this
// program alone, which may write it in other words in its next version.
const metasOutput = "metas"

// portResult is what a port's build came to.
type portResult struct {
	port     *recipe.PortFile
	packages []Package
	err      error
}

// buildPorts runs every port of the plan that is not in the action cache, as
// many at once as there are jobs. Of the ports whose own inputs are done, the
// one that most others wait for goes first: a long chain (libc, C++ library,
// ICU, PostgreSQL) decides how long it all takes. After a failure nothing new
// starts.
func (b *Builder) buildPorts(ctx context.Context, p *portPlan) (map[string]Package, error) {
	var err error
	if b.packer, err = packerOf(b.arch.Apk); err != nil {
		return nil, err
	}
	packages := map[string]Package{}
	done := map[*recipe.PortFile]bool{}
	// dry are the ports that a plan would build, or that wait for one.
	dry := map[*recipe.PortFile]bool{}
	waiting := p.byWeight()
	results := make(chan portResult)
	running := 0
	var failed error
	for {
		for running < b.opts.jobs && failed == nil {
			i := slices.IndexFunc(waiting, func(port *recipe.PortFile) bool {
				return !slices.ContainsFunc(p.builtWith(port), func(d *recipe.PortFile) bool { return !done[d] })
			})
			if i < 0 {
				break
			}
			port := waiting[i]
			waiting = slices.Delete(waiting, i, i+1)
			if j := slices.IndexFunc(p.builtWith(port), func(d *recipe.PortFile) bool { return dry[d] }); j >= 0 {
				done[port], dry[port] = true, true
				b.miss("port "+port.Name+" "+b.portArch(port).Go, "after "+p.builtWith(port)[j].Name, true)
				continue
			}
			sysroot, err := p.sysroot(port, packages)
			if err != nil {
				failed = err
				break
			}
			running++
			go func() {
				made, err := b.buildPort(ctx, port, sysroot)
				results <- portResult{port, made, err}
			}()
		}
		if running == 0 {
			break
		}
		r := <-results
		running--
		switch {
		case errors.Is(r.err, errPlanned):
			dry[r.port] = true
		case r.err != nil && failed == nil:
			failed = r.err
			b.complain("port "+r.port.Name, r.err)
		}
		done[r.port] = true
		for _, m := range r.packages {
			packages[m.Meta.Name] = m
		}
	}
	switch {
	case failed != nil:
		return nil, failed
	case len(dry) > 0:
		return nil, errPlanned
	}
	return packages, nil
}

// sysroot returns the packages of a port's sysroot: those it names and what
// they depend on, sorted by name. Only what must have been built by then is
// looked at, whatever else is, so that it is the same at any number of jobs.
// Ports have one version of each package, so names, shared libraries and
// commands each have one provider.
func (p *portPlan) sysroot(port *recipe.PortFile, packages map[string]Package) ([]Package, error) {
	before := p.before(port)
	provider := map[string]string{}
	for _, name := range sortedKeys(packages) {
		if !before[packages[name].Meta.Origin] {
			continue
		}
		provider[name] = name
		for _, provided := range packages[name].Meta.Provides {
			if provided = recipe.DependencyName(provided); provider[provided] == "" {
				provider[provided] = name
			}
		}
	}
	in := map[string]bool{}
	todo := slices.Clone(port.Build)
	for len(todo) > 0 {
		d := recipe.DependencyName(todo[0])
		todo = todo[1:]
		if strings.HasPrefix(d, "!") {
			continue
		}
		name, ok := provider[d]
		if !ok {
			// What a package needs to run (a command, say) and no port makes
			// does not matter to a sysroot; a library does.
			if strings.HasPrefix(d, "so:") {
				return nil, fault.Errorf(fault.Usage, "%s: its sysroot needs %s, which no package it is built with provides", port.Path, d).
					Hintf("add the package with that library to build:")
			}
			continue
		}
		if in[name] {
			continue
		}
		in[name] = true
		todo = append(todo, packages[name].Meta.Depends...)
	}
	var out []Package
	for _, name := range sortedKeys(in) {
		out = append(out, packages[name])
	}
	return out, nil
}

// buildPort returns the packages of one port, from the cache or the engine.
func (b *Builder) buildPort(ctx context.Context, p *recipe.PortFile, sysroot []Package) ([]Package, error) {
	version, err := b.portVersion(p)
	if err != nil {
		return nil, err
	}
	files, err := b.dirTar(ctx, p.Dir)
	if err != nil {
		return nil, err
	}
	arch := b.portArch(p)
	packer := b.packer
	if p.NoArch {
		if packer, err = packerOf(arch.Apk); err != nil {
			return nil, err
		}
	}
	in := inputs{
		"format":      "port/2",
		"packer":      packer,
		"script":      store.FromBytes([]byte(runPort)).String(),
		"version":     version,
		"arch":        arch.Apk,
		"source date": strconv.FormatInt(b.epoch, 10),
		"toolchain":   b.toolchainKey,
		"prelude":     b.prelude.String(),
		"port files":  files.String(),
	}
	var mounts []engine.Input
	for _, name := range p.Sources {
		src, err := b.lockedSource(name, p.Path)
		if err != nil {
			return nil, err
		}
		in["source "+name] = src.Digest.String()
	}
	for i, pkg := range sysroot {
		in["package "+pkg.Meta.Name] = pkg.Digest.String()
		// The number keeps the order of unpacking that of the names.
		mounts = append(mounts, b.mount(fmt.Sprintf("/in/sysroot/%03d.apk", i), pkg.Digest))
	}
	var goInputs *goInputs
	if p.Go != nil {
		if goInputs, err = b.goInputs(ctx, p); err != nil {
			return nil, err
		}
		in["go toolchain"] = goInputs.toolchainSum
		in["go source"] = goInputs.source.String()
	}

	step := "port " + p.Name + " " + arch.Go
	out, err := b.cached(ctx, step, in, stepCompiled, func(ctx context.Context) (outputs, error) {
		if err := b.fetchSources(ctx, p.Sources); err != nil {
			return nil, err
		}
		for _, name := range p.Sources {
			src, _ := b.lock.Source(name)
			mounts = append(mounts, b.mount("/src/"+name, src.Digest))
		}
		mounts = append(mounts, b.mount("/in/port.tar", files), b.mount("/in/toolchain.tar", b.prelude))
		if goInputs != nil {
			more, err := goInputs.mounts(ctx)
			if err != nil {
				return nil, err
			}
			mounts = append(mounts, more...)
		}
		return b.compilePort(ctx, p, arch, version, mounts)
	})
	if err != nil {
		return nil, err
	}
	return packagesOf(b.store, out)
}

// compilePort runs the port's script in the engine and packs what it made.
func (b *Builder) compilePort(ctx context.Context, p *recipe.PortFile, arch arch, version string, mounts []engine.Input) (outputs, error) {
	spool, err := b.spool()
	if err != nil {
		return nil, err
	}
	defer spool.Close()
	var tree *rootfs.Tree
	// A script finds an architecture in its environment even where it makes what
	// is for all of them: always the one that the toolchain image is of.
	env := b.stepEnv(arch, version)
	if p.NoArch {
		own, err := findArch(toolchainArch, []string{toolchainArch})
		if err != nil {
			return nil, err
		}
		env = b.stepEnv(own, version)
	}
	err = b.runStep(ctx, "port "+p.Name+" "+arch.Go, engine.Step{
		Name:   fmt.Sprintf("%s %s (%s)", p.Name, version, arch.Go),
		Script: runPort,
		Env:    env,
		Inputs: mounts,
		Output: "/out",
	}, func(r io.Reader) error {
		tree, err = rootfs.ReadTar(ctx, r, spool)
		return err
	})
	if err != nil {
		return nil, err
	}

	packages, err := port.Pack(p, version, arch.Apk, tree, b.epoch)
	if err != nil {
		return nil, err
	}
	temp, err := b.scratch()
	if err != nil {
		return nil, err
	}
	out := outputs{}
	var metas []apk.Meta
	for _, pkg := range packages {
		w, err := b.store.Create(ctx)
		if err != nil {
			return nil, err
		}
		meta, err := apk.Write(w, pkg.Meta, pkg.Tree, nil, b.epoch, apk.WithTempDir(temp))
		if err != nil {
			w.Abort()
			return nil, err
		}
		if out["apk "+meta.Name], _, err = w.Commit(""); err != nil {
			return nil, err
		}
		metas = append(metas, meta)
	}
	text, err := json.Marshal(metas)
	if err != nil {
		return nil, err
	}
	out[metasOutput], _, err = b.store.Put(ctx, bytes.NewReader(text), "")
	return out, err
}

// packagesOf reads a port step's outputs back.
func packagesOf(st *store.Store, out outputs) ([]Package, error) {
	text, err := readBlob(st, out[metasOutput])
	if err != nil {
		return nil, err
	}
	var metas []apk.Meta
	if err := json.Unmarshal(text, &metas); err != nil {
		return nil, fault.Errorf(fault.Internal, "store: package metadata %s: %w", out[metasOutput], err)
	}
	var made []Package
	for _, m := range metas {
		made = append(made, Package{Meta: m, Digest: out["apk "+m.Name]})
	}
	return made, nil
}

// portVersion is the apk version: upstream's, from the port or from the lock,
// and the port's release.
func (b *Builder) portVersion(p *recipe.PortFile) (string, error) {
	version := p.Version
	if version == "" && len(p.Sources) > 0 {
		src, err := b.lockedSource(p.Sources[0], p.Path)
		if err != nil {
			return "", err
		}
		version = src.Version
	}
	if version == "" {
		return "", fault.Errorf(fault.Usage, "%s: it has neither a version nor a source", p.Path)
	}
	return fmt.Sprintf("%s-r%d", version, p.Release), nil
}

// toolchainArch is the architecture of the toolchain image, whatever it makes
// programs for.
const toolchainArch = "amd64"

// portArch is the architecture that a port's packages are for.
func (b *Builder) portArch(p *recipe.PortFile) arch {
	if p.NoArch {
		return arch{Arch: kernel.Arch{Go: apk.NoArch}, Apk: apk.NoArch}
	}
	return b.arch
}

// stepEnv is the environment of a compile step for an architecture, sorted.
func (b *Builder) stepEnv(arch arch, version string) []string {
	upstream, _, _ := strings.Cut(version, "-r")
	env := []string{
		"ARCH=" + arch.Apk,
		"GOARCH=" + arch.Go,
		"KARCH=" + arch.Linux,
		"LC_ALL=C",
		"OUT=/out",
		"PORT=/port",
		"SOURCE_DATE_EPOCH=" + strconv.FormatInt(b.epoch, 10),
		"SRC=/src",
		"SYSROOT=/sysroot",
		"TARGET=" + arch.Target,
		"TOOLCHAIN=/toolchain",
		"TZ=UTC",
		"VERSION=" + upstream,
	}
	slices.Sort(env)
	return env
}

// mount makes a stored file an input of a step.
func (b *Builder) mount(dest string, d store.Digest) engine.Input {
	return engine.Input{Dest: dest, Path: b.store.Path(d), Digest: d}
}

// dirTar puts a directory into the store as a deterministic tar: sorted, owned
// by root, modes reduced to whether a file is executable, since a checkout
// carries no more.
func (b *Builder) dirTar(ctx context.Context, dir recipe.Ref) (store.Digest, error) {
	tree, err := source.Checkout(dir, nil)
	if err != nil {
		return "", err
	}
	var buf bytes.Buffer
	if err := rootfs.WriteTar(&buf, tree, 0); err != nil {
		return "", fmt.Errorf("%s: %w", path.Base(dir.Name), err)
	}
	d, _, err := b.keep(ctx, &buf)
	return d, err
}
