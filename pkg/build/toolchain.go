package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"sync"

	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/build/toolchain"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// pinToolchain computes the toolchain's key and arranges that its image is
// made at most once, when the first step needs it.
func (b *Builder) pinToolchain(ctx context.Context) (err error) {
	if b.recipe.Toolchain == "" {
		return fault.Errorf(fault.Usage, "%s names no toolchain, without which nothing is compiled", b.name()).
			Hintf("name the toolchain's directory, or take packages from a repository")
	}
	if len(b.lock.Toolchain.Packages) == 0 {
		return lock.NotLocked(lock.ToolchainName, b.recipe.Dir, fault.Errorf(fault.Usage, "%s: the toolchain is not locked", b.lock))
	}
	if b.prelude, err = b.dirTar(ctx, b.recipe.Resolve(b.recipe.Toolchain)); err != nil {
		return err
	}
	text, err := json.Marshal(struct {
		Suite    string
		Packages []lock.DebPackage
	}{b.lock.Toolchain.Suite, b.lock.Toolchain.Packages})
	if err != nil {
		return err
	}
	sum := sha256.Sum256(text)
	b.toolchainKey = hex.EncodeToString(sum[:])
	if b.opts.image != nil {
		b.image = b.opts.image
		return nil
	}
	pinned, date := b.lock.Toolchain, b.lock.SourceDate
	b.image = sync.OnceValues(func() (engine.Image, error) {
		b.tell(ToolchainNeeded{len(pinned.Packages), pinned.Suite})
		if err := b.fetcher.Debs(ctx, pinned); err != nil {
			return engine.Image{}, err
		}
		// The image is an input: its date is the lock's, whatever the
		// artifacts' is.
		image, err := toolchain.Ensure(ctx, b.store, pinned, date, b.opts.cacheDir)
		if err != nil {
			return engine.Image{}, err
		}
		return image, b.sameImage(image.Digest, pinned.Image)
	})
	return nil
}

// sameImage compares the toolchain image with the locked one, where that is
// known. Another one is told, or refused where the lock is frozen: what is
// compiled on it may be other than what was locked for.
func (b *Builder) sameImage(got, locked store.Digest) error {
	switch {
	case locked == "" || locked == got:
		return nil
	case b.opts.frozen:
		return fault.Errorf(fault.Verification, "%s is frozen, and the toolchain image is %s here, not %s as locked", b.lock, got, locked).
			Hintf("this machine's mmdebstrap, dpkg or apt makes another one: use those that it was locked with, or build without a frozen lock")
	}
	b.tell(ToolchainDiffers{got, locked})
	return nil
}

// runStep runs a step on the toolchain image and gives its output, a tar
// stream, to read. Name is the step's in events.
func (b *Builder) runStep(ctx context.Context, name string, step engine.Step, read func(io.Reader) error) error {
	image, err := b.image()
	if err != nil {
		return err
	}
	step.Base = image
	if b.opts.events != nil {
		step.Log = stepLog{b, name}
	}
	if b.opts.conditions != nil {
		b.opts.conditions.apply(&step, b.store.Path)
	}
	pr, pw := io.Pipe()
	var (
		mu       sync.Mutex
		firstErr error // of reading, if it came before the engine's
	)
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := read(pr)
		if err == nil {
			// A tar stream may go on after its end marker.
			_, err = io.Copy(io.Discard, pr)
		}
		mu.Lock()
		firstErr = err
		mu.Unlock()
		pr.CloseWithError(err)
	}()
	err = b.engine.Run(ctx, step, pw)
	mu.Lock()
	readErr := firstErr
	mu.Unlock()
	pw.CloseWithError(err)
	<-done
	switch {
	case readErr != nil:
		return readErr
	case err != nil:
		return err
	}
	return firstErr
}

// lockedSource finds a source in the lock; by says what wants it.
func (b *Builder) lockedSource(name, by string) (lock.Source, error) {
	if _, ok := b.decls[name]; !ok {
		return lock.Source{}, fault.Errorf(fault.Usage, "%s: source %q is not in %s", by, name, b.recipe.Sources)
	}
	src, ok := b.lock.Source(name)
	if !ok {
		return lock.Source{}, lock.NotLocked(name, b.recipe.Dir, fault.Errorf(fault.Usage, "%s: source %q, which %s needs, is not locked", b.lock, name, by))
	}
	return src, nil
}

// fetchSources has the named sources in the store when it returns.
func (b *Builder) fetchSources(ctx context.Context, names []string) error {
	var sources []lock.Source
	for _, name := range names {
		src, _ := b.lock.Source(name)
		sources = append(sources, src)
	}
	return b.fetcher.Sources(ctx, sources, b.decls)
}
