package apk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// InstallOptions are what Install needs beside the packages.
type InstallOptions struct {
	// Spool keeps the files' contents; it has to outlive the tree.
	Spool *rootfs.Spool
	// World is what was asked for, written to etc/apk/world.
	World []string
	// Arch is written to etc/apk/arch.
	Arch string
	// Repositories are written to etc/apk/repositories: those the image
	// itself may use, not those it was built from.
	Repositories []string
	// AllowScripts names packages whose install scripts are known to be
	// unneeded here. They are kept in the database and not run.
	AllowScripts []string
	// Epoch is the time in scripts.tar, Unix seconds.
	Epoch int64
	// Progress, if not nil, is called before each package.
	Progress func(n, of int, m Meta)
	// NoDatabase leaves lib/apk and etc/apk out: a sysroot needs neither.
	NoDatabase bool
}

// Paths of apk's database.
const (
	dbDir         = "lib/apk/db"
	installedPath = dbDir + "/installed"
)

// installed is a package in the tree, for the database.
type installed struct {
	meta    Meta
	scripts map[string]string
	tree    *rootfs.Tree
	// owned are the paths that are this package's in the end, without
	// directories.
	owned    map[string]bool
	replaces []Dependency
}

// Install fetches, verifies and installs packages in the order Solve gave, and
// writes apk's database. Each package is trusted by its checksum in the index
// it was selected from. It is an error if two packages have the same file and
// none replaces the other, if a package brings an install script that is not
// allowed (the error has its text), or if the tree has one of the files
// already. On an error the tree is left half changed: throw it away.
func Install(ctx context.Context, t *rootfs.Tree, pkgs []Selected, o InstallOptions) error {
	if o.Spool == nil {
		return fault.Errorf(fault.Internal, "install: no spool was given")
	}
	owner := map[string]*installed{}
	var done []*installed
	for i, s := range pkgs {
		if o.Progress != nil {
			o.Progress(i+1, len(pkgs), s.Meta)
		}
		p, err := s.Open(ctx, o.Spool)
		if err != nil {
			return err
		}
		in := &installed{meta: p.Meta, scripts: p.Scripts, tree: p.Tree, owned: map[string]bool{}}
		if in.replaces, err = parseDependencies("replaces", p.Meta.Replaces); err != nil {
			return fault.Errorf(fault.Source, "package %s: %w", p.Meta.ID(), err)
		}
		if err := checkScripts(in, o.AllowScripts); err != nil {
			return err
		}
		if err := in.add(t, owner); err != nil {
			return err
		}
		done = append(done, in)
	}
	if o.NoDatabase {
		return nil
	}
	return writeDatabase(t, done, o)
}

// Open fetches the package where needed and verifies it against the index it
// was selected from.
func (s Selected) Open(ctx context.Context, spool *rootfs.Spool) (*Package, error) {
	path, remove, err := s.src.fetch(ctx, s.Meta)
	if err != nil {
		return nil, fmt.Errorf("repository %s: %w", s.Repository, err)
	}
	defer remove()
	return OpenContext(ctx, path, nil, Pinned(s.Meta), InSpool(spool))
}

func checkScripts(in *installed, allow []string) error {
	if slices.Contains(allow, in.meta.Name) {
		return nil
	}
	for _, kind := range [...]string{"pre-install", "post-install", "trigger"} {
		if text, ok := in.scripts[kind]; ok {
			return fault.Errorf(fault.Usage, "package %s wants to run a %s script, which is never done:\n%s", in.meta.ID(), kind, strings.TrimRight(text, "\n")).
				Hintf("do what it does in the recipe (users, files) and allow the script of %s to be left out", in.meta.Name)
		}
	}
	return nil
}

// replacing says whether a package may overwrite files of another.
func (in *installed) replacing(other *installed) bool {
	return slices.ContainsFunc(in.replaces, func(d Dependency) bool {
		return d.Name == other.meta.Name && d.Matches(other.meta.Version)
	})
}

func (in *installed) add(t *rootfs.Tree, owner map[string]*installed) error {
	for e := range in.tree.All() {
		if err := in.addEntry(t, e, owner); err != nil {
			return err
		}
	}
	// Hard links after all contents: a target may sort after its link.
	for e := range in.tree.All() {
		if e.Hard == "" || !in.owned[e.Path] {
			continue
		}
		if !in.owned[e.Hard] {
			e.Hard = "" // its target belongs to a package that replaces it
		}
		if err := t.Set(e); err != nil {
			return fault.Errorf(fault.Verification, "package %s: %w", in.meta.ID(), err)
		}
	}
	return nil
}

func (in *installed) addEntry(t *rootfs.Tree, e rootfs.Entry, owner map[string]*installed) error {
	have, exists := t.Lookup(e.Path)
	if e.IsDir() {
		if exists && have.IsDir() {
			// The first package with other than the common attributes has
			// its way, as with apk.
			if have.Mode == fs.ModeDir|0o755 && have.UID == 0 && have.GID == 0 {
				return in.put(t, e)
			}
			return nil
		}
		if !exists {
			return in.put(t, e)
		}
	}
	if other := owner[e.Path]; other != nil {
		switch {
		case in.replacing(other):
			delete(other.owned, e.Path)
		case other.replacing(in):
			return nil
		default:
			return fault.Errorf(fault.Usage, "packages %s and %s both have the file %s", other.meta.ID(), in.meta.ID(), e.Path).
				Hintf("take one of them out of the recipe's packages, or let one say replaces: %s", other.meta.Name)
		}
	} else if exists {
		return fault.Errorf(fault.Usage, "package %s: %s is in the tree already, and no package owns it", in.meta.ID(), e.Path).
			Hintf("install packages before adding files")
	}
	if !e.IsDir() {
		owner[e.Path] = in
		in.owned[e.Path] = true
	}
	e.Hard = ""
	return in.put(t, e)
}

func (in *installed) put(t *rootfs.Tree, e rootfs.Entry) error {
	if err := t.Set(e); err != nil {
		var f *fault.Error
		if errors.As(err, &f) {
			return err
		}
		return fault.Errorf(fault.Usage, "package %s: %w", in.meta.ID(), err)
	}
	return nil
}
