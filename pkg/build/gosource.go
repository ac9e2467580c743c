package build

import (
	"archive/zip"
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"

	sovereign "github.com/sovereign-build/sovereign"
	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// goInputs is what a Go port's step needs beside the port's own files.
type goInputs struct {
	b             *Builder
	port          *recipe.PortFile
	toolchainSum  string       // the toolchain module's h1 sum
	source        store.Digest // of the guest's source, or of the port's files
	guestSource   bool
	guestPackages []string
}

// goInputs describes the inputs of a Go port without fetching anything.
func (b *Builder) goInputs(ctx context.Context, p *recipe.PortFile) (*goInputs, error) {
	sum, err := goToolchainSum(b.lock)
	if err != nil {
		return nil, err
	}
	g := &goInputs{b: b, port: p, toolchainSum: sum}
	if p.Go.Source != "sovereign" {
		return g, nil
	}
	g.guestSource = true
	g.guestPackages = []string{sovereign.GuestPackage}
	tree := rootfs.New()
	err = sovereign.GuestSource(func(name string, content []byte) error {
		return tree.Add(rootfs.Entry{Path: name, Mode: 0o644, Size: int64(len(content)), Content: rootfs.Bytes(content)})
	})
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	if err := rootfs.WriteTar(&buf, tree, 0); err != nil {
		return nil, err
	}
	g.source, _, err = b.keep(ctx, &buf)
	return g, err
}

// mounts fetches the toolchain and the modules and returns them as inputs.
func (g *goInputs) mounts(ctx context.Context) ([]engine.Input, error) {
	b := g.b
	toolchain, err := b.goToolchain(ctx, g.toolchainSum)
	if err != nil {
		return nil, err
	}
	mounts := []engine.Input{b.mount("/in/go.tar", toolchain)}
	if g.guestSource {
		mounts = append(mounts, b.mount("/in/sovereign.tar", g.source))
	}
	modules, err := g.modules(ctx)
	if err != nil {
		return nil, err
	}
	return append(mounts, b.mount("/in/gomod.tar", modules)), nil
}

// modules fetches the modules, as a tar in the store.
func (g *goInputs) modules(ctx context.Context) (_ store.Digest, err error) {
	dir, onDisk := g.port.Dir.OnDisk()
	if g.guestSource || !onDisk {
		if dir, err = os.MkdirTemp("", "sovereign-go-"); err != nil {
			return "", fault.Wrap(fault.Environment, err)
		}
		defer os.RemoveAll(dir)
	}
	switch {
	case g.guestSource:
		err := sovereign.GuestSource(func(name string, content []byte) error {
			path := filepath.Join(dir, filepath.FromSlash(name))
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return err
			}
			return os.WriteFile(path, content, 0o644)
		})
		if err != nil {
			return "", err
		}
	case !onDisk:
		files, err := g.port.Dir.Sub()
		if err != nil {
			return "", err
		}
		if err := os.CopyFS(dir, files); err != nil {
			return "", fault.Wrap(fault.Environment, err)
		}
	}
	return g.b.fetcher.GoModules(ctx, dir, g.guestPackages...)
}

// goToolchain returns the pinned Go toolchain as a tar. The module proxy
// serves it as a zip, whose format holds no modes: go itself makes what lies
// in bin and pkg/tool executable when it unpacks one, and so does this.
func (b *Builder) goToolchain(ctx context.Context, sum string) (store.Digest, error) {
	out, err := b.cached(ctx, "go toolchain", inputs{"format": "go-toolchain/1", "sum": sum}, stepOwn, func(ctx context.Context) (outputs, error) {
		archive, err := b.fetcher.GoToolchain(ctx, b.lock.Go)
		if err != nil {
			return nil, err
		}
		z, err := zip.OpenReader(b.store.Path(archive))
		if err != nil {
			return nil, fault.Errorf(fault.Verification, "go toolchain %s: %w", archive, err)
		}
		defer z.Close()
		tree := rootfs.New()
		for _, f := range z.File {
			// golang.org/toolchain@v0.0.1-go1.26.8.linux-amd64/bin/go
			_, inside, _ := strings.Cut(f.Name, "/toolchain@")
			_, name, ok := strings.Cut(inside, "/")
			if !ok || strings.HasSuffix(name, "/") {
				continue
			}
			e := rootfs.Entry{Path: name, Mode: 0o644, Size: int64(f.UncompressedSize64), Content: f}
			if strings.HasPrefix(name, "bin/") || strings.HasPrefix(name, "pkg/tool/") {
				e.Mode = 0o755
			}
			if err := tree.Add(e); err != nil {
				return nil, err
			}
		}
		w, err := b.store.Create(ctx)
		if err != nil {
			return nil, err
		}
		if err := rootfs.WriteTar(w, tree, 0); err != nil {
			w.Abort()
			return nil, err
		}
		d, _, err := w.Commit("")
		return outputs{"tar": d}, err
	})
	return out["tar"], err
}
