package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// stallTimeout is how long a place may take to say anything.
const stallTimeout = 60 * time.Second

// Options of New.
type Options struct {
	// Places are asked in this order.
	Places []Place
	// Trusted are the keys whose entries are taken.
	Trusted []signature.Key
	// Push is where Keep puts entries, which Key signs; nil for nowhere.
	Push Place
	Key  signature.SecretKey
	// Tell is told of what was not taken, and of places that are not asked any
	// more: each thing once, one call at a time.
	Tell func(Trouble)
	// Stall is how long a place may say nothing before it is given up; 0 is 60 s.
	Stall time.Duration
}

// Trouble is why something of a place was not used.
type Trouble struct {
	Place string
	// Step is the one whose entry was refused; empty where nothing of the place
	// is used from here on.
	Step   string
	Reason string
}

// Cache takes results of steps from places and gives them to one. It may be used
// by any number of goroutines.
type Cache struct {
	o     Options
	mu    sync.Mutex
	down  map[string]bool // places by name
	told  map[Trouble]bool
	lost  error // of the first entry that could not be pushed
	stall time.Duration
}

// New makes a cache. Nothing is asked yet.
func New(o Options) *Cache {
	c := &Cache{o: o, down: map[string]bool{}, told: map[Trouble]bool{}, stall: o.Stall}
	if c.stall == 0 {
		c.stall = stallTimeout
	}
	return c
}

// Found is what a place had.
type Found struct {
	store.Action
	By    signature.Key
	Place string
	Bytes int64 // of all outputs
}

// Find looks for what the step of a name made of the inputs of a key, and puts it
// into the store, the record of it too. It is nil where no place has it that can
// be believed. An error is one of ctx or of the store: a place that fails is
// told of.
func (c *Cache) Find(ctx context.Context, st *store.Store, step, key string) (*Found, error) {
	for _, p := range c.o.Places {
		if c.isDown(p) {
			continue
		}
		f, err := c.find(ctx, p, st, key)
		var own *storeError
		switch {
		case err == nil:
			return f, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errors.As(err, &own):
			return nil, own.error
		case errors.Is(err, fs.ErrNotExist):
		case errors.Is(err, errNoDirectory) && c.o.Push != nil && c.o.Push.String() == p.String():
			// The first push makes it.
		default:
			c.blame(p, step, err)
		}
	}
	return nil, nil
}

// blame tells why a place, or one entry of it, is not used.
func (c *Cache) blame(p Place, step string, err error) {
	t := Trouble{Place: p.String(), Step: step, Reason: err.Error()}
	var untrusted *signature.UntrustedError
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case errors.As(err, &untrusted):
		// The same for a whole place, whose steps are all signed by one.
		t.Step = "what it has"
	case fault.ClassOf(err) != fault.Verification:
		if c.down[p.String()] {
			return // by another step meanwhile
		}
		c.down[p.String()], t.Step = true, ""
	}
	if !c.told[t] && c.o.Tell != nil {
		c.o.Tell(t)
	}
	c.told[t] = true
}

func (c *Cache) isDown(p Place) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.down[p.String()]
}

// storeError is an error of the store, and not of a place.
type storeError struct{ error }

func (c *Cache) find(ctx context.Context, p Place, st *store.Store, key string) (*Found, error) {
	e, by, err := c.entry(ctx, p, key)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(e.Outputs)) {
		if err := c.fetch(ctx, p, st, name, e.Outputs[name]); err != nil {
			return nil, err
		}
	}
	a, err := e.action(by)
	if err != nil {
		return nil, err
	}
	if err := st.PutAction(key, a); err != nil {
		return nil, &storeError{err}
	}
	return &Found{Action: a, By: by, Place: p.String(), Bytes: e.Bytes()}, nil
}

// entry fetches a believable entry.
func (c *Cache) entry(ctx context.Context, p Place, key string) (*Entry, signature.Key, error) {
	ctx, w := c.watch(ctx)
	defer w.stop()
	text, err := p.Entry(ctx, key)
	if err != nil {
		return nil, "", w.cause(ctx, err)
	}
	return Parse(text, key, c.o.Trusted)
}

// fetch has an output in the store when it returns.
func (c *Cache) fetch(ctx context.Context, p Place, st *store.Store, name string, o Output) error {
	if st.Has(o.Digest) {
		return nil
	}
	outer := ctx
	ctx, w := c.watch(ctx)
	defer w.stop()
	var own error
	err := p.Blob(ctx, o.Digest, o.Size, func(r io.Reader) error {
		var in *store.Writer
		// Not under the place's clock: the disk may be slow.
		if in, own = st.Create(outer); own != nil {
			return own
		}
		defer in.Abort()
		from := &source{r: r, w: w}
		// One byte more than there should be is enough to know.
		n, err := io.Copy(in, io.LimitReader(from, o.Size+1))
		switch {
		case from.err != nil:
			return from.err
		case err != nil:
			own = err
			return err
		case n > o.Size:
			return fault.Errorf(fault.Verification, "output %s is longer than the %d bytes that its entry says", name, o.Size)
		case n < o.Size:
			return fault.Errorf(fault.Verification, "output %s ends after %d of %d bytes", name, n, o.Size)
		}
		if _, _, err = in.Commit(o.Digest); fault.ClassOf(err) == fault.Verification {
			return fault.Errorf(fault.Verification, "output %s: %w", name, err)
		}
		own = err
		return err
	})
	if own != nil {
		return &storeError{own}
	}
	return w.cause(ctx, err)
}

// source is a place's reader, which keeps its own error and winds the clock.
type source struct {
	r    io.Reader
	w    *watch
	some int // bytes since the clock was wound
	err  error
}

// enough is how much has to come for a place to count as alive, in bytes: by
// single bytes a place could keep a build waiting for ever.
const enough = 64 << 10

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if s.some += n; s.some >= enough {
		s.some = 0
		s.w.alive()
	}
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// Keep gives what a step made to others, where Push says so and nobody has done
// it yet. It says how many bytes were given, 0 for an entry that was there. A
// place that fails ends neither the build nor the step: see Lost.
func (c *Cache) Keep(ctx context.Context, st *store.Store, key string, a store.Action) (int64, error) {
	p := c.o.Push
	if p == nil {
		return 0, nil
	}
	if c.isDown(p) {
		c.lose(p, a.Name, errDown)
		return 0, nil
	}
	e := Entry{Schema: Schema, Key: key, Step: a.Name, Outputs: map[string]Output{}}
	if err := json.Unmarshal(a.Description, &e.Inputs); err != nil {
		return 0, fault.Errorf(fault.Internal, "cache: inputs of %s: %w", a.Name, err)
	}
	for name, d := range a.Outputs {
		size, err := st.Size(d)
		if err != nil {
			return 0, err
		}
		e.Outputs[name] = Output{d, size}
	}
	signed, err := e.Sign(c.o.Key)
	if err != nil {
		return 0, err
	}
	if there, _, err := c.entry(ctx, p, key); err == nil && maps.Equal(there.Outputs, e.Outputs) && p.Whole(there) {
		return 0, nil
	}
	// What is there by another key, or not to be believed, is replaced.
	err = p.Put(ctx, &e, signed, st.Path)
	switch {
	case err == nil:
		return e.Bytes(), nil
	case ctx.Err() != nil:
		return 0, context.Cause(ctx)
	}
	c.lose(p, a.Name, err)
	c.blame(p, a.Name, err)
	return 0, nil
}

// errDown is why an entry is not pushed to a place that has failed before.
var errDown = fault.Errorf(fault.Source, "the place failed before")

// lose notes why an entry is not where it was to be pushed.
func (c *Cache) lose(p Place, step string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost == nil {
		c.lost = fmt.Errorf("cache %s: %s was not pushed: %w", p, step, err)
	}
}

// Lost is why something that was to be pushed is not in its place; nil when all
// of it is.
func (c *Cache) Lost() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lost
}

// watch ends a context when nothing has come for too long.
type watch struct {
	timer  *time.Timer
	limit  time.Duration
	cancel context.CancelCauseFunc
}

// watch begins to wait for a place.
func (c *Cache) watch(ctx context.Context) (context.Context, *watch) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watch{limit: c.stall, cancel: cancel}
	w.timer = time.AfterFunc(w.limit, func() {
		cancel(fault.Errorf(fault.Source, "it sent nothing for %s", w.limit))
	})
	return ctx, w
}

func (w *watch) alive() { w.timer.Reset(w.limit) }

func (w *watch) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// cause is the error of what was watched, which is that of the clock if that
// ended it.
func (w *watch) cause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
