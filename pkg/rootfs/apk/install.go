package apk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"sync"

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
	// Actions stand for the packages' scripts, which are kept in the database
	// and never run. Those of packages that are not installed do nothing.
	Actions []Action
	// Epoch is the time in scripts.tar, Unix seconds.
	Epoch int64
	// Progress, if not nil, is called before each package.
	Progress func(n, of int, m Meta)
	// NoDatabase leaves lib/apk and etc/apk out: a sysroot needs neither.
	NoDatabase bool
}

// dbDir is the directory of apk's database.
const dbDir = "lib/apk/db"

// installed is a package in the tree, for the database.
type installed struct {
	meta    Meta
	tag     string // the repository's
	scripts map[string]string
	tree    *rootfs.Tree
	sums    map[string][]byte
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
	var actions []Action
	next, stop := openAhead(ctx, pkgs, o.Spool)
	defer stop()
	for i, s := range pkgs {
		if o.Progress != nil {
			o.Progress(i+1, len(pkgs), s.Meta)
		}
		p, err := next()
		if err != nil {
			return err
		}
		// With a signature or without, the package is as long as its index says.
		p.Meta.Size = s.Meta.Size
		in := &installed{meta: p.Meta, tag: s.Tag, scripts: p.Scripts, tree: p.Tree, sums: p.sums, owned: map[string]bool{}}
		if in.replaces, err = parseDependencies("replaces", p.Meta.Replaces); err != nil {
			return fault.Errorf(fault.Source, "package %s: %w", p.Meta.ID(), err)
		}
		own, err := actionsFor(scriptsOf(p.Meta, p.Scripts), o.Actions)
		if err != nil {
			return err
		}
		actions = append(actions, own...)
		if err := in.add(t, owner); err != nil {
			return err
		}
		done = append(done, in)
	}
	if err := run(t, actions); err != nil {
		return err
	}
	if o.NoDatabase {
		return nil
	}
	return writeDatabase(t, done, o)
}

// opensAtOnce is how many packages are fetched, inflated and verified at a
// time. Each takes a core, and up to maxInMemory of memory.
func opensAtOnce() int { return min(runtime.GOMAXPROCS(0), 4) }

// openAhead opens packages at the same time and gives them out in their order.
// stop has to be called, and waits until nothing is under way.
func openAhead(ctx context.Context, pkgs []Selected, spool *rootfs.Spool) (next func() (*Package, error), stop func()) {
	type opened struct {
		p   *Package
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	// The largest first, so that none of them is left to one core at the end.
	order := make([]int, len(pkgs))
	results := make([]chan opened, len(pkgs))
	for i := range pkgs {
		order[i], results[i] = i, make(chan opened, 1)
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(pkgs[b].Meta.Size, pkgs[a].Meta.Size) })
	var wait sync.WaitGroup
	todo := make(chan int, len(pkgs))
	for _, i := range order {
		todo <- i
	}
	close(todo)
	for range opensAtOnce() {
		wait.Go(func() {
			for i := range todo {
				if err := ctx.Err(); err != nil {
					results[i] <- opened{nil, err}
					continue
				}
				p, err := pkgs[i].Open(ctx, spool)
				results[i] <- opened{p, err}
			}
		})
	}
	taken := 0
	next = func() (*Package, error) {
		r := <-results[taken]
		taken++
		return r.p, r.err
	}
	return next, func() { cancel(); wait.Wait() }
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

// replacing returns the priority with which a package may overwrite files of
// another, -1 if it may not.
func (in *installed) replacing(other *installed) int {
	for _, d := range in.replaces {
		if d.Name == other.meta.Name && d.Matches(other.meta.Version) {
			return in.meta.ReplacesPriority
		}
	}
	return -1
}

// takes says whose a file that two packages have is: the later one's if they
// are of one origin, or if it replaces the earlier one with no lower priority
// than that replaces it; ok is false if neither replaces the other.
func (in *installed) takes(earlier *installed) (later, ok bool) {
	if in.meta.Origin != "" && in.meta.Origin == earlier.meta.Origin {
		return true, true
	}
	mine, theirs := in.replacing(earlier), earlier.replacing(in)
	return mine >= theirs, mine >= 0 || theirs >= 0
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
		later, ok := in.takes(other)
		if !ok {
			return fault.Errorf(fault.Usage, "packages %s and %s both have the file %s", other.meta.ID(), in.meta.ID(), e.Path).
				Hintf("take one of them out of the recipe's packages, or let one say replaces: %s", other.meta.Name)
		}
		if !later {
			return nil
		}
		delete(other.owned, e.Path)
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
