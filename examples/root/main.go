// Root makes a root file system and changes it before it is written: packages
// of recipes/sql without what a container has no use for, as an EROFS image.
//
//	cd examples/root && go run .
//
// It writes root.erofs to this directory. The packages come from the cache of
// whoever has built recipes/sql; else the engine compiles them, for which it
// wants bin/buildkitd of this repository (make).
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/sovereign-build/sovereign/pkg/build"
	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/erofs"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, ".", os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "root:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, output string, out io.Writer) (err error) {
	pins, err := lock.Load("../../recipes/sql/sovereign.lock")
	if err != nil {
		return err
	}
	r := &recipe.Recipe{
		Name: "root", Architectures: []string{"amd64", "arm64"},
		FS:        os.DirFS("../../recipes"),
		Toolchain: "toolchain", Ports: "ports", Sources: "sources.yaml",
		Packages: []string{"musl", "busybox", "icu-libs", "tzdata"},
		Users:    []recipe.User{{Name: "app", UID: 1000}},
	}
	b, err := build.New(r, pins, build.WithEngineOptions(engine.WithBuildkitd("../../bin/buildkitd")))
	if err != nil {
		return err
	}
	// The tree's contents are readable until then.
	defer func() { err = errors.Join(err, b.Close()) }()
	tree, err := b.Root(ctx)
	if err != nil {
		return err
	}

	before := tree.Len()
	tree.Remove("lib/apk") // nothing will be installed any more
	tree.Remove("etc/apk")
	if err := tree.Set(rootfs.Regular("etc/motd", 0o644, []byte("changed before it was written\n"))); err != nil {
		return err
	}
	home := rootfs.Dir("home/app", 0o700)
	home.UID, home.GID = 1000, 1000
	if err := tree.Set(home); err != nil {
		return err
	}

	f, err := os.Create(filepath.Join(output, "root.erofs"))
	if err != nil {
		return err
	}
	info, err := erofs.Write(ctx, f, tree, erofs.Options{Epoch: pins.SourceDate})
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%d entries, %d before they were changed; %d bytes\n", tree.Len(), before, info.Size)
	return err
}
