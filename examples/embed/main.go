// Embed builds and boots a virtual machine with Sovereign as a library, without
// its command line: a page made by this program is put into an image, the image
// is booted, and the page is fetched from it over HTTP.
//
//	cd examples/embed && go run . "a greeting"
//
// It wants bin/buildkitd of this repository (make) the first time, when the
// kernel and the packages are not in the cache yet.
package main

import (
	"context"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/sovereign-build/sovereign/pkg/build"
	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/kernel"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/direct"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	greeting := "hello from a machine of your own"
	if len(os.Args) > 1 {
		greeting = os.Args[1]
	}
	if err := run(ctx, greeting, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "embed:", err)
		os.Exit(1)
	}
}

// run builds, checks, boots and asks; the machine is stopped and forgotten
// when it returns.
func run(ctx context.Context, greeting string, out io.Writer) (err error) {
	work, err := os.MkdirTemp("", "embed-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)

	// pkg/rootfs: the image's own files as a value.
	page := []byte("<!doctype html><title>hello</title><p>" + html.EscapeString(greeting) + "\n")
	files := rootfs.New()
	if err := files.Add(rootfs.Entry{Path: "srv/www/index.html", Mode: 0o644, Content: rootfs.Bytes(page)}); err != nil {
		return err
	}

	// pkg/build: from the recipe and a lock to a bundle.
	hello, err := recipe.Load("hello")
	if err != nil {
		return err
	}
	pins, err := lock.Load("../../recipes/sql/sovereign.lock")
	if err != nil {
		return err
	}
	builder, err := build.New(hello, pins,
		build.WithEngineOptions(engine.WithBuildkitd("../../bin/buildkitd")),
		build.WithFiles(files),
		build.WithOutput(work),
		build.WithEvents(func(e build.Event) { fmt.Fprintln(out, e) }),
	)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, builder.Close()) }()
	made, err := builder.Bundle(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "built %s: %d steps run, %d from the cache\n", made.Digest, made.StepsRun, made.StepsCached)

	// pkg/kernel: what is in the kernel that was built.
	config, err := kernel.ReadConfig(filepath.Join(made.Bundle, "kernel.config"))
	if err != nil {
		return err
	}
	report, err := kernel.Check(config, "virtio", "no-android")
	if err != nil {
		return err
	}
	if err := report.WriteText(out); err != nil {
		return err
	}

	// pkg/runtime: boot it, in a state directory of its own.
	machines, err := direct.Open(filepath.Join(work, "state"))
	if err != nil {
		return err
	}
	machine, err := machines.Start(ctx, made.Bundle, direct.StartOptions{})
	if err != nil {
		return err
	}
	defer func() {
		// Also after Ctrl-C: nothing is left running.
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		_, stopErr := machine.Stop(stopping, 0)
		err = errors.Join(err, stopErr)
	}()
	booting, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if err := machine.WaitReady(booting, func(e runtime.Event) { fmt.Fprintln(out, e.Phase, e.Text) }); err != nil {
		return err
	}
	url, err := machine.URL(booting, 8080)
	if err != nil {
		return err
	}
	answer, err := http.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s answered %s:\n%s", url, answer.Status, body)
	return err
}
