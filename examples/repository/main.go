// Repository makes an image of the packages of an apk repository, such as
// Alpine's, and compiles nothing: there is no toolchain, no port and no kernel.
//
//	cd examples/repository && go run . https://… KEY.rsa.pub busybox
//
// It writes root.ext4 and, beside it, sovereign.lock: with that the same image
// comes out again, whatever the repository has by then.
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

	"github.com/sovereign-build/sovereign/pkg/build"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/rootfs/ext4"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: repository LOCATION KEY PACKAGE...")
		os.Exit(2)
	}
	if err := run(ctx, ".", os.Args[1], os.Args[2], os.Args[3:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "repository:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, output, location, key string, packages []string, out io.Writer, opts ...build.Option) (err error) {
	dir, err := filepath.Abs(filepath.Dir(key))
	if err != nil {
		return err
	}
	r := &recipe.Recipe{
		Name: "repository", Architectures: []string{"amd64", "arm64"},
		Dir: dir, Keys: []string{filepath.Base(key)},
		Repositories: []string{location}, Packages: packages,
	}
	// The first time there is no lock: one with a date is enough, and the
	// packages are locked on the way.
	path := filepath.Join(output, lock.FileName)
	file, err := lock.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		file, err = lock.New(path), nil
	}
	if err != nil {
		return err
	}
	pins := file.Lock()
	if pins == nil {
		pins = &lock.Lock{SourceDate: 1767225600} // 2026-01-01
	}

	b, err := build.New(r, pins, append(opts, build.WithEvents(func(e build.Event) { fmt.Fprintln(out, e) }))...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	tree, err := b.Root(ctx)
	if err != nil {
		return err
	}
	if err := file.Save(ctx, b.Lock()); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(output, "root.ext4"))
	if err != nil {
		return err
	}
	_, err = ext4.Write(ctx, f, tree, ext4.Options{Epoch: b.Lock().SourceDate})
	return errors.Join(err, f.Close())
}
