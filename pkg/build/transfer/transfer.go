// Package transfer carries what a build is made from to another machine: every
// source, toolchain package, Go toolchain, Go module and package of an outside
// repository, so that an offline build works there.
//
// Recipes and a content store come in and one archive goes out, or the other
// way round. Inputs that the store lacks are fetched first, unless that is
// forbidden. The package carries no step's outputs: what is built is built
// again, and comes out the same.
package transfer

import (
	"cmp"
	"context"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	sovereign "github.com/sovereign-build/sovereign"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/source"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Export writes an archive of all inputs of the recipes (each a file or its
// directory, with its lock beside it) to w, fetching with f, whose store is s,
// what is not there. Without recipes it is every input the store holds, and
// nothing is fetched.
//
// Errors are those of recipe, lock, source and store.
func Export(ctx context.Context, w io.Writer, s *store.Store, f *source.Fetcher, recipes []string, progress store.Progress) (store.Transfer, error) {
	var c store.Contents
	var err error
	if len(recipes) == 0 {
		c, err = s.Inputs(source.IsInput)
	} else {
		c, err = collect(ctx, s, f, recipes)
	}
	if err != nil {
		return store.Transfer{}, err
	}
	if len(c.Blobs) == 0 {
		return store.Transfer{}, fault.Errorf(fault.Usage, "the content store %s holds no inputs", s.Dir()).
			Hintf("build something first, or name a recipe")
	}
	return s.Export(ctx, w, c, progress)
}

// Import takes an archive into the store.
func Import(ctx context.Context, r io.Reader, s *store.Store, progress store.Progress) (store.Transfer, error) {
	return s.Import(ctx, r, source.IsInput, progress)
}

// collect has the inputs of the recipes in the store and lists them.
func collect(ctx context.Context, s *store.Store, f *source.Fetcher, recipes []string) (store.Contents, error) {
	c := store.Contents{Actions: map[string]store.Action{}}
	for _, path := range recipes {
		r, err := recipe.Load(path)
		if err != nil {
			return c, err
		}
		l, err := lock.Load(filepath.Join(r.Dir, lock.FileName))
		if err != nil {
			return c, err
		}
		if err := fetch(ctx, f, r, l); err != nil {
			return c, err
		}
		c.Blobs = append(c.Blobs, l.Inputs()...)
		ports, err := r.LoadPorts()
		if err != nil {
			return c, err
		}
		for _, port := range distinct(ports) {
			if port.Go == nil {
				continue
			}
			key, digest, err := modules(ctx, f, port)
			if err != nil {
				return c, err
			}
			a, ok, err := s.Action(key)
			if err != nil {
				return c, err
			}
			if !ok {
				return c, fault.Errorf(fault.Internal, "the modules of port %s were fetched and are not in the store", port.Name)
			}
			c.Actions[key] = a
			c.Blobs = append(c.Blobs, store.Blob{Name: a.Name, Digest: digest})
		}
	}
	return c, nil
}

// fetch brings everything a lock pins into the store.
func fetch(ctx context.Context, f *source.Fetcher, r *recipe.Recipe, l *lock.Lock) error {
	declared, err := r.LoadSources()
	if err != nil {
		return err
	}
	if err := f.Sources(ctx, l.Sources, declared); err != nil {
		return err
	}
	if err := f.Debs(ctx, l.Toolchain); err != nil {
		return err
	}
	packages := slices.Clone(l.Packages)
	for i, p := range packages {
		// A repository is a URL, or a directory below the recipe's.
		if !strings.Contains(p.Repository, "://") {
			packages[i].Repository = r.Resolve(p.Repository).String()
		}
	}
	if err := f.Packages(ctx, packages); err != nil {
		return err
	}
	if len(l.Go.Modules) == 0 {
		return nil
	}
	_, err = f.GoToolchain(ctx, l.Go)
	return err
}

// distinct lists each port once: a port stands under every package it makes.
func distinct(ports map[string]*recipe.PortFile) []*recipe.PortFile {
	byName := map[string]*recipe.PortFile{}
	for _, p := range ports {
		byName[p.Name] = p
	}
	return slices.SortedFunc(maps.Values(byName), func(a, b *recipe.PortFile) int { return cmp.Compare(a.Name, b.Name) })
}

// modules fetches the Go modules of a port, described as the build does.
func modules(ctx context.Context, f *source.Fetcher, port *recipe.PortFile) (key string, digest store.Digest, err error) {
	if port.Go.Source != "sovereign" {
		return f.GoModulesAction(ctx, port.Dir.Name)
	}
	dir, err := os.MkdirTemp("", "sovereign-guest-")
	if err != nil {
		return "", "", fault.Wrap(fault.Environment, err)
	}
	defer os.RemoveAll(dir)
	err = sovereign.GuestSource(func(name string, content []byte) error {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		return os.WriteFile(path, content, 0o644)
	})
	if err != nil {
		return "", "", fault.Wrap(fault.Environment, err)
	}
	return f.GoModulesAction(ctx, dir, sovereign.GuestPackage)
}
