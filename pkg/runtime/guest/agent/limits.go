package agent

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// MaxStreams is how many streams a session has at a time; further ones wait.
const MaxStreams = 32

// Limits of the server, over all sessions where nothing else is said. A host
// that keeps to the Client's methods meets none of them.
const (
	maxHeader    = 16 << 10 // bytes of a request's line and headers
	maxQuick     = 16       // requests at a time that end by themselves
	maxFollowers = 8        // logs followed at a time
	maxExecs     = 8        // programs at a time

	perSecond = 100 // requests a second, after a burst of as many

	quickLimit  = 30 * time.Second // for most requests
	reloadLimit = 3 * time.Minute  // where a service's own command runs
	growLimit   = 10 * time.Minute
	helloLimit  = 30 * time.Second // for a connection's hello
	bodyLimit   = 30 * time.Second // for the host to send a body, or to take a part of an answer
	maxFreeze   = 10 * time.Minute
)

// slots bounds what runs at a time.
type slots chan struct{}

// take returns how to give the slot back, or answers 503 and returns nil.
func (s slots) take(w http.ResponseWriter) (release func()) {
	select {
	case s <- struct{}{}:
		return func() { <-s }
	default:
		http.Error(w, "too many requests of this kind at a time: try again later", http.StatusServiceUnavailable)
		return nil
	}
}

// pace lets perSecond requests through a second; others wait. How many can
// wait is bounded by the streams.
type pace struct {
	mu   sync.Mutex
	next time.Time // when the next request is due at the steady rate
}

func (p *pace) wait(ctx context.Context) error {
	const every = time.Second / perSecond
	p.mu.Lock()
	now := time.Now()
	if earliest := now.Add(-perSecond * every); p.next.Before(earliest) {
		p.next = earliest
	}
	due := p.next
	p.next = p.next.Add(every)
	p.mu.Unlock()
	if !due.After(now) {
		return nil
	}
	select {
	case <-time.After(due.Sub(now)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// limited is a session that has at most MaxStreams accepted streams at a time.
type limited struct {
	net.Listener
	free slots
	done <-chan struct{} // closed when the session has ended
}

func limit(l net.Listener, done <-chan struct{}) net.Listener {
	return &limited{Listener: l, free: make(slots, MaxStreams), done: done}
}

// Accept implements net.Listener.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.free <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.free
		return nil, err
	}
	return &limitedConn{Conn: c, release: sync.OnceFunc(func() { <-l.free })}, nil
}

type limitedConn struct {
	net.Conn
	release func()
}

func (c *limitedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
