package source

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// hosts is the circuit breaker: a host that cannot be reached is asked once a
// run. While the first request to a host is under way the others wait for its
// outcome, so that ten inputs from a dead host cost one time-out and not ten.
type hosts struct {
	mu sync.Mutex
	m  map[string]*host
}

type host struct {
	turn chan struct{} // holds a token while somebody tries the host first
	mu   sync.Mutex
	up   bool
	down error
}

func newHosts() *hosts { return &hosts{m: make(map[string]*host)} }

func (h *hosts) get(name string) *host {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.m[name] == nil {
		h.m[name] = &host{turn: make(chan struct{}, 1)}
	}
	return h.m[name]
}

func (h *host) state() (up bool, down error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.up, h.down
}

// unreachableError is a host that did not take a connection.
type unreachableError struct {
	host string
	err  error
}

func (e *unreachableError) Error() string {
	return fmt.Sprintf("%s cannot be reached: %v", e.host, e.err)
}
func (e *unreachableError) Unwrap() error { return e.err }

// do runs try, which connects to the host. An *unreachableError from it closes
// the host for the rest of the run: later calls return the same error at once.
func (h *hosts) do(ctx context.Context, name string, try func() error) error {
	s := h.get(name)
	up, down := s.state()
	if down != nil {
		return down
	}
	if up {
		return again(try())
	}
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	up, down = s.state()
	if down != nil || up {
		<-s.turn
		if down != nil {
			return down
		}
		return again(try())
	}
	defer func() { <-s.turn }()
	return s.note(try())
}

// again makes a connection that failed after others to the same host went well
// worth another try: two hundred packages from one mirror see a reset now and
// then.
func again(err error) error {
	var un *unreachableError
	if errors.As(err, &un) {
		return &againError{err: err}
	}
	return err
}

func (h *host) note(err error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var un *unreachableError
	switch {
	case errors.As(err, &un):
		h.down = un
	case errors.Is(err, context.Canceled):
		// says nothing about the host
	default:
		h.up = true
	}
	return err
}
