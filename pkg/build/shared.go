package build

import (
	"context"
	"fmt"
	"slices"

	"github.com/sovereign-build/sovereign/pkg/build/cache"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
)

// openCache prepares the caches that the options name; nothing is asked yet.
func (b *Builder) openCache() error {
	if b.opts.ownWork {
		return nil
	}
	b.trusted = slices.Clone(b.opts.cacheKeys)
	for i, name := range b.recipe.Cache.Keys {
		key, err := b.readKey(fmt.Sprintf("cache.keys[%d]", i), name)
		if err != nil {
			return err
		}
		b.trusted = append(b.trusted, key)
	}
	o := cache.Options{Push: b.opts.cachePush, Key: b.opts.cacheKey, Tell: func(t cache.Trouble) { b.tell(CacheTrouble{t}) }}
	places := b.opts.caches
	if o.Push != nil {
		b.trusted = append(b.trusted, o.Key.Public())
		places = append([]cache.Place{o.Push}, places...)
	}
	for _, p := range places {
		if !p.Remote() || !b.opts.offline {
			o.Places = append(o.Places, p)
		}
	}
	o.Trusted = b.trusted
	if len(o.Places) > 0 {
		b.cache = cache.New(o)
	}
	return nil
}

// trusts says whether what a step made counts: what was made here does, and what
// was signed by a key that this build trusts. Another recipe may have trusted
// another one.
func (b *Builder) trusts(a store.Action) bool {
	return a.Signer == "" || slices.Contains(b.trusted, signature.Key(a.Signer))
}

// findShared takes what a step makes from a cache; nil where none has it.
func (b *Builder) findShared(ctx context.Context, step, key string, kind stepKind) (outputs, error) {
	if b.cache == nil {
		return nil, nil
	}
	found, err := b.cache.Find(ctx, b.store, step, key)
	if found == nil || err != nil {
		return nil, err
	}
	if kind == stepCompiled {
		b.mu.Lock()
		b.result.StepsFetched++
		b.mu.Unlock()
	}
	b.tell(StepFetched{step, found.Place, found.By, found.Bytes})
	b.made(step, key, found.Outputs)
	return found.Outputs, nil
}

// share gives what a step made to others. What others made is theirs to give: a
// signature says that its owner's machine did the work.
func (b *Builder) share(ctx context.Context, key string, a store.Action) error {
	if b.cache == nil || a.Signer != "" || b.opts.cachePush == nil {
		return nil
	}
	n, err := b.cache.Keep(ctx, b.store, key, a)
	if n > 0 {
		b.tell(StepShared{a.Name, b.opts.cachePush.String(), n})
	}
	return err
}
