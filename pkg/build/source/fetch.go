package source

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Sources brings every source into the store. Those that are there already
// cost nothing.
//
// Errors: fault.Verification for wrong bytes that no other mirror made good;
// a *MissingError (class fault.Source) for inputs that every mirror says it
// does not have; fault.Source where a mirror could not be asked, refused or
// sent something else, or the fetcher is offline;
// fault.Environment for a full disk. Bytes that did arrive are kept in each
// case, except wrong ones.
//
// What is declared of the sources says where files beside sources.yaml are,
// which some kinds are made of.
func (f *Fetcher) Sources(ctx context.Context, sources []lock.Source, declared map[string]recipe.Source) error {
	var jobs []job
	for _, s := range sources {
		jobs = append(jobs, job{
			blob: blob{name: s.Name, digest: s.Digest, size: s.Size},
			run: func(ctx context.Context, b blob, failed *attemptError) error {
				return f.source(ctx, s, declared[s.Name], b, failed)
			},
		})
	}
	return f.all(ctx, jobs)
}

// source tries the mirrors in order; failed collects what each said. The error
// is one that makes trying on pointless.
func (f *Fetcher) source(ctx context.Context, s lock.Source, decl recipe.Source, b blob, failed *attemptError) error {
	for _, text := range s.Mirrors {
		m, err := lock.ParseMirror(text)
		if err != nil {
			return fault.Wrap(fault.Usage, err)
		}
		b.mirror = text
		f.tell(Event{Kind: Started, Name: b.name, Mirror: text, Total: b.size})
		err = kindOfMirror(m).fetch(ctx, f, b, s, decl, m)
		if err == nil || !tryNext(ctx, err) {
			return err
		}
		failed.add(text, err)
		f.tell(Event{Kind: Retried, Name: b.name, Mirror: text, Total: b.size, Message: err.Error()})
	}
	return nil
}

// Debs brings the exact packages of the toolchain image into the store, from
// the Debian archives of this machine's apt. Errors are those of Sources, with
// the name "toolchain".
func (f *Fetcher) Debs(ctx context.Context, t lock.Toolchain) error {
	var jobs []job
	for _, p := range t.Packages {
		jobs = append(jobs, job{
			blob: blob{name: lock.ToolchainName, mirror: filepath.Base(p.File), digest: p.Digest, size: p.Size},
			run: func(ctx context.Context, b blob, failed *attemptError) error {
				urls, err := f.apt.poolURLs(t.Suite, p.File)
				if err != nil {
					return err
				}
				f.tell(Event{Kind: Started, Name: b.name, Mirror: b.mirror, Total: b.size})
				for _, u := range urls {
					err := f.downloadAny(ctx, b, u)
					if err == nil || !tryNext(ctx, err) {
						return err
					}
					failed.add(b.mirror, err)
				}
				return nil
			},
		})
	}
	return f.all(ctx, jobs)
}

// Packages brings apk packages into the store, from the repositories they were
// locked from. Errors are those of Sources, with the name "packages".
func (f *Fetcher) Packages(ctx context.Context, packages []lock.Package) error {
	var jobs []job
	for _, p := range packages {
		jobs = append(jobs, job{
			blob: blob{name: lock.PackagesName, mirror: p.File(), digest: p.Digest, size: p.Size},
			run: func(ctx context.Context, b blob, failed *attemptError) error {
				f.tell(Event{Kind: Started, Name: b.name, Mirror: b.mirror, Total: b.size})
				err := f.apk(ctx, b, p)
				if err == nil || !tryNext(ctx, err) {
					return err
				}
				failed.add(p.Repository, err)
				return nil
			},
		})
	}
	return f.all(ctx, jobs)
}

func (f *Fetcher) apk(ctx context.Context, b blob, p lock.Package) error {
	if strings.Contains(p.Repository, "://") {
		return f.download(ctx, b, strings.TrimRight(p.Repository, "/")+"/"+p.File())
	}
	return f.copyFile(ctx, b, p.Repository, p.File())
}

// job is one input to fetch.
type job struct {
	blob blob
	run  func(context.Context, blob, *attemptError) error
}

// all runs the jobs whose blobs are not there, some at a time.
func (f *Fetcher) all(ctx context.Context, jobs []job) error {
	var todo []job
	var names []string
	seen := make(map[store.Digest]bool)
	for _, j := range jobs {
		if !f.store.Has(j.blob.digest) && !seen[j.blob.digest] {
			seen[j.blob.digest] = true
			todo = append(todo, j)
			names = append(names, strings.TrimSuffix(j.blob.name+" "+j.blob.mirror, " "))
		}
	}
	if len(todo) == 0 {
		return nil
	}
	if f.offline {
		return offlineError(names)
	}
	var mu sync.Mutex
	var failed []*attemptError
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(f.parallel)
	for _, j := range todo {
		g.Go(func() error {
			a := &attemptError{name: j.blob.name}
			if err := j.run(gctx, j.blob, a); err != nil {
				return fault.Wrap(fault.Source, fmt.Errorf("%s: %w", j.blob.name, err))
			}
			if f.store.Has(j.blob.digest) {
				f.tell(Event{Kind: Finished, Name: j.blob.name, Mirror: j.blob.mirror, Done: j.blob.size, Total: j.blob.size})
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			failed = append(failed, a)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	return judge(failed)
}

// tryNext says whether another mirror may do better than this error.
func tryNext(ctx context.Context, err error) bool {
	return ctx.Err() == nil && fault.ClassOf(err) != fault.Environment && fault.ClassOf(err) != fault.Cancelled
}

// worse picks, of what two places said about one file, what matters more:
// wrong bytes, then a place that cannot be asked, then absence.
func worse(a, b error) error {
	rank := func(err error) int {
		switch {
		case err == nil:
			return 0
		case isGone(err):
			return 1
		case fault.ClassOf(err) == fault.Verification:
			return 3
		default:
			return 2
		}
	}
	if rank(b) > rank(a) {
		return b
	}
	return a
}

// downloadAny fetches from a place of apt's: by http itself, from a file, and
// by apt's own helper for any other method (mirror lists, tor).
func (f *Fetcher) downloadAny(ctx context.Context, b blob, raw string) error {
	u, err := url.Parse(raw)
	if err != nil {
		return err
	}
	switch u.Scheme {
	case "http", "https":
		return f.download(ctx, b, raw)
	case "file", "copy":
		root, file, ok := strings.Cut(u.Path, "/pool/")
		if !ok {
			return fmt.Errorf("%s is not below pool/ of an archive", raw)
		}
		return f.copyFile(ctx, b, root, "pool/"+file)
	}
	part, err := f.openPartial(ctx, b)
	if err != nil || part == nil {
		return err
	}
	defer part.Close() // written by the helper, synced by Adopt
	cmd := exec.CommandContext(ctx, "/usr/lib/apt/apt-helper", "download-file", raw, part.Name(), "SHA256:"+b.digest.Hex())
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		// Its text does not say whether a server answered.
		return f.drop(part, fmt.Errorf("apt: %s", aptErrors(string(out), err)))
	}
	_, _, err = f.store.Adopt(ctx, part.Name(), b.digest)
	return err
}

// copyFile brings a file below root, a repository or archive that is a
// directory. One that is not there or empty, as the place of a disk that is not
// mounted, does not say that the file has gone.
func (f *Fetcher) copyFile(ctx context.Context, b blob, root, file string) error {
	in, err := os.Open(filepath.Join(root, filepath.FromSlash(file)))
	if errors.Is(err, os.ErrNotExist) {
		entries, rerr := os.ReadDir(root)
		if rerr != nil {
			return rerr
		}
		if len(entries) == 0 {
			return fmt.Errorf("%s is empty", root)
		}
		return &goneError{err.Error()}
	}
	if err != nil {
		return err
	}
	defer in.Close() // only read
	_, _, err = f.store.Put(ctx, in, b.digest)
	return err
}
