package engine

import (
	"context"
	"errors"
	"sync"

	"github.com/moby/buildkit/client"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Engine runs steps. Its methods may be called concurrently.
type Engine struct {
	opts *options

	mu     sync.Mutex
	link   *link // nil: not connected
	closed bool
	stats  Stats
}

// Stats counts what an engine did.
type Stats struct {
	Run    int // steps whose script ran, with whatever end
	Cached int // steps the engine answered from its cache
}

// link is a connection to an engine; lease is nil for a remote one. It is
// closed when it was dropped and its last user is done.
type link struct {
	client *client.Client
	lease  *lease
	users  int
	gone   bool
}

// Start checks the options. No daemon is started and nothing is dialled before
// the first Run.
func Start(_ context.Context, opts ...Option) (*Engine, error) {
	o, err := newOptions(opts)
	if err != nil {
		return nil, err
	}
	return &Engine{opts: o}, nil
}

// Stats returns the counts so far.
func (e *Engine) Stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.stats
}

// Close disconnects; a private daemon is stopped
// if no other engine uses it. Runs still going on fail. A second call does
// nothing.
func (e *Engine) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	l := e.link
	e.link = nil
	if l != nil {
		// Its users are not waited for: none of them is the last any more.
		l.users, l.gone = 0, true
	}
	e.mu.Unlock()
	if l == nil {
		return nil
	}
	return l.close()
}

// connect returns the engine's connection, made anew if the last one is gone.
// The caller gives it back to done. Concurrent first steps wait for one daemon.
func (e *Engine) connect(ctx context.Context) (*link, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, fault.Errorf(fault.Internal, "the engine is closed")
	}
	if e.link == nil {
		l, err := e.opts.connect(ctx)
		if err != nil {
			return nil, err
		}
		e.link = l
	}
	e.link.users++
	return e.link, nil
}

func (o *options) connect(ctx context.Context) (*link, error) {
	if o.address != "" {
		c, err := dial(ctx, o.address, o.tls)
		if err != nil {
			return nil, err
		}
		return &link{client: c}, nil
	}
	buildkitd, err := o.findBuildkitd()
	if err != nil {
		return nil, err
	}
	lease, err := newDaemon(o, buildkitd).acquire(ctx)
	if err != nil {
		return nil, err
	}
	c, err := client.New(ctx, "unix://"+lease.socket)
	if err != nil {
		return nil, errors.Join(err, lease.release())
	}
	return &link{client: c, lease: lease}, nil
}

// done gives a connection back. A broken one is not used again.
func (e *Engine) done(l *link, broken bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if broken && e.link == l {
		e.link = nil
		l.gone = true
	}
	l.users--
	if l.gone && l.users == 0 {
		return l.close()
	}
	return nil
}

func (l *link) close() error {
	// The connection's own error says nothing: it may be broken already.
	_ = l.client.Close()
	if l.lease == nil {
		return nil
	}
	return l.lease.release()
}
