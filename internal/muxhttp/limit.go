package muxhttp

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// Slots bounds what runs at a time.
type Slots chan struct{}

// Take returns how to give the slot back, or answers 503 and returns nil.
func (s Slots) Take(w http.ResponseWriter) (release func()) {
	select {
	case s <- struct{}{}:
		return func() { <-s }
	default:
		http.Error(w, "too many requests of this kind at a time: try again later", http.StatusServiceUnavailable)
		return nil
	}
}

// Pace lets so many requests through a second, after a burst of as many;
// others wait. How many can wait is bounded by the streams.
type Pace struct {
	PerSecond int

	mu   sync.Mutex
	next time.Time // when the next request is due at the steady rate
}

// Wait returns when the caller's turn has come, or ctx ended.
func (p *Pace) Wait(ctx context.Context) error {
	every := time.Second / time.Duration(p.PerSecond)
	p.mu.Lock()
	now := time.Now()
	if earliest := now.Add(-time.Second); p.next.Before(earliest) {
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

// limited is a session that has a number of accepted streams at a time.
type limited struct {
	net.Listener
	free Slots
	done <-chan struct{} // closed when the session has ended
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

// Close ends this end's own reads too. yamux goes on with those until the peer
// has closed its end.
func (c *limitedConn) Close() error {
	defer c.release()
	_ = c.Conn.SetReadDeadline(time.Unix(1, 0)) // yamux has no error for it
	return c.Conn.Close()
}
