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
	"github.com/sovereign-build/sovereign/pkg/runtime/daemon"
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

	// pkg/runtime/daemon: this program keeps its machines itself, in a state
	// directory of its own, and stops them when it ends. With runtime.Local alone
	// the program sovereignd would keep them, beyond the end of this one.
	state := filepath.Join(work, "state")
	keeping, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	kept, err := daemon.Start(keeping, daemon.Options{StateDir: state, StopMachines: true})
	if err != nil {
		return err
	}
	defer func() {
		stop() // also after Ctrl-C: nothing is left running
		err = errors.Join(err, kept())
	}()

	// pkg/runtime: boot the bundle, and ask how to reach it.
	machines, err := runtime.Local(state)
	if err != nil {
		return err
	}
	defer machines.Close()
	booting, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	progress := func(e runtime.Event) { fmt.Fprintln(out, e.Phase, e.Text) }
	machine, err := machines.Install(booting, made.Bundle, "", runtime.UpOptions{Restart: runtime.RestartNever}, progress)
	if err != nil {
		return err
	}
	if _, err := machine.WaitReady(booting, progress); err != nil {
		return err
	}
	credentials, err := machine.Credentials(booting, 8080)
	if err != nil {
		return err
	}
	url := credentials.URL
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
