// Kernel makes a kernel and nothing else: that of recipes/sql.
//
//	cd examples/kernel && go run .
//
// It writes the kernel and its .config to this directory. Whoever has built
// recipes/sql has them in the cache; else the engine compiles them, for which
// it wants bin/buildkitd of this repository (make).
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"

	"github.com/sovereign-build/sovereign/pkg/build"
	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/store"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, ".", os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "kernel:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, output string, out io.Writer) (err error) {
	// Recipe and lock are values: these two come from a file system, which might
	// as well be an embed.FS.
	recipes := os.DirFS("../../recipes")
	sql, err := recipe.Parse(recipes, "sql/recipe.yaml")
	if err != nil {
		return err
	}
	text, err := fs.ReadFile(recipes, "sql/sovereign.lock")
	if err != nil {
		return err
	}
	pins, err := lock.Parse("sovereign.lock", text)
	if err != nil {
		return err
	}

	// A recipe made in Go says what is wanted of it: here a kernel.
	r := &recipe.Recipe{
		Name: "kernel", Architectures: sql.Architectures,
		FS: recipes, Dir: sql.Dir, Toolchain: sql.Toolchain, Sources: sql.Sources,
		Kernel: sql.Kernel,
	}
	b, err := build.New(r, pins,
		build.WithEngineOptions(engine.WithBuildkitd("../../bin/buildkitd")),
		build.WithEvents(func(e build.Event) {
			switch e := e.(type) {
			case build.StepCached, build.StepMissed, build.StepDone:
				fmt.Fprintln(out, e)
			case build.Fetching:
				fmt.Fprintf(out, "%s: %d %%\n", e.Name, e.Percent())
			}
		}))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	k, err := b.Kernel(ctx)
	if err != nil {
		return err
	}
	return errors.Join(
		export(b.Store(), k.Image, filepath.Join(output, "kernel-"+runtime.GOARCH)),
		export(b.Store(), k.Config, filepath.Join(output, "kernel-"+runtime.GOARCH+".config")))
}

// export copies a file out of the content store.
func export(st *store.Store, d store.Digest, path string) error {
	from, err := st.Open(d)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Close())
}
