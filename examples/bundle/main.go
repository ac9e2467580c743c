// Bundle makes a machine's bundle of a recipe that is written in Go, without a
// recipe.yaml: a web server, on the kernel and the packages of recipes/sql.
//
//	cd examples/bundle && go run . && ../../bin/sovereign-build run dist/web-amd64
//
// Kernel and packages come from the cache of whoever has built recipes/sql;
// else the engine compiles them, for which it wants bin/buildkitd of this
// repository (make).
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/sovereign-build/sovereign/pkg/build"
	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if _, err := run(ctx, "dist", os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bundle:", err)
		os.Exit(1)
	}
}

// web is the whole recipe.
func web() *recipe.Recipe {
	kernel := func(names ...string) []string {
		for i := range names {
			names[i] = "../kernel/" + names[i]
		}
		return names
	}
	return &recipe.Recipe{
		Name: "web", Summary: "a page over HTTP",
		Architectures: []string{"amd64", "arm64"},
		// Dir is the directory that names are relative to; that of recipes/sql
		// gives the fragments the names they have there, and so the same kernel.
		FS: os.DirFS("../../recipes"), Dir: "sql",
		Toolchain: "../toolchain", Ports: "../ports", Sources: "../sources.yaml",
		Kernel: recipe.Kernel{
			Source:  "linux",
			Patches: kernel("patches/mm-freed-init-memory.patch", "patches/x86-apic-tcg-timer.patch", "patches/x86-return-thunks.patch"),
			Fragments: kernel("base.config", "mm.config", "console.config", "virtio.config", "efi.config", "storage.config", "initramfs.config",
				"network.config", "services.config", "postgresql.config", "tailscale.config", "security.config", "no-android.config"),
			Arch: map[string][]string{
				"amd64": kernel("arch/x86.config"),
				"arm64": kernel("arch/arm64.config", "arch/arm64-pkvm-guest.config"),
			},
			Require: []string{"no-android", "verity", "virtio"},
		},
		Packages: []string{"musl", "busybox", "sovereign-init", "e2fsprogs"},
		Users:    []recipe.User{{Name: "web", UID: 1000}},
		Files:    []recipe.File{{Path: "/srv/www/index.html", Content: "<!doctype html><title>web</title><p>made in Go\n"}},
		VM:       recipe.VM{Memory: 128 * recipe.MiB, CPUs: 1, Data: 64 * recipe.MiB},
		Services: []recipe.Service{{
			Name: "web", User: "web",
			Command: []string{"/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/srv/www"},
			Health:  recipe.Health{Command: []string{"/bin/busybox", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8080/"}},
			Ports:   []recipe.Port{{Name: "http", Port: 8080, URL: "http://${address}/"}},
		}},
	}
}

func run(ctx context.Context, output string, out io.Writer) (_ *build.Result, err error) {
	pins, err := lock.Load("../../recipes/sql/sovereign.lock")
	if err != nil {
		return nil, err
	}
	b, err := build.New(web(), pins,
		build.WithOutput(output),
		build.WithFrozenLock(true), // every byte is pinned, or this ends
		build.WithEngineOptions(engine.WithBuildkitd("../../bin/buildkitd")),
	)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()

	plan, err := b.Plan(ctx)
	if err != nil {
		return nil, err
	}
	for _, step := range plan.Steps {
		if !step.Cached {
			fmt.Fprintf(out, "%s will run: %s\n", step.Step, step.Reason)
		}
	}
	made, err := b.Bundle(ctx)
	if err != nil {
		return nil, err
	}
	_, err = fmt.Fprintf(out, "%s %s\n", made.Bundle, made.Digest)
	return made, err
}
