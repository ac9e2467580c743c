// Package muxhttp is HTTP/1.1 over yamux over one byte stream: what the guest's
// agent and sovereignd's protocol have in common.
//
// A byte stream on which both ends have agreed to begin comes in; an
// http.Handler is served on it, or a Session opens streams that lead to one.
// Every limit that keeps one peer from using up the other is here: streams at a
// time, sizes, times. It dials and listens nowhere and knows no endpoint.
package muxhttp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// maxHeader bounds a request's line and headers, bytes.
const maxHeader = 16 << 10

// Options are what a session may differ in. Both ends need not have the same.
type Options struct {
	// MaxStreams is how many streams there are at a time. The client's must not
	// be larger than the server's: a stream that is not taken within Patience
	// ends the session.
	MaxStreams int
	// Window is how much of a stream may be on its way to this end, in bytes;
	// 0 is yamux's least, 256 KiB. Throughput is at most that by the time that
	// a byte takes there and back.
	Window uint32
	// KeepAlive is the time between two questions whether the other end is
	// there, and Patience how long an answer may take: longer than all that
	// may be on its way takes on the slowest link.
	KeepAlive, Patience time.Duration
}

func (o Options) config() *yamux.Config {
	c := yamux.DefaultConfig()
	c.AcceptBacklog = o.MaxStreams
	if o.Window > 0 {
		c.MaxStreamWindowSize = o.Window
	}
	c.KeepAliveInterval = o.KeepAlive
	c.ConnectionWriteTimeout = o.Patience
	c.StreamOpenTimeout = o.Patience
	c.StreamCloseTimeout = o.Patience
	c.LogOutput = io.Discard
	return c
}

// A Server answers one peer.
type Server struct {
	session *yamux.Session
	http    *http.Server
	streams int
}

// NewServer takes the stream over, on which the peer is the client.
func NewServer(stream io.ReadWriteCloser, o Options, h http.Handler) (*Server, error) {
	session, err := yamux.Server(stream, o.config())
	if err != nil {
		return nil, err
	}
	return &Server{session, &http.Server{
		Handler:           h,
		MaxHeaderBytes:    maxHeader,
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       2 * time.Minute,
	}, o.MaxStreams}, nil
}

// Serve answers until the session ends, for any reason: there is nobody to
// tell, as the peer sees the end of its own session. The stream is closed then,
// and the contexts of its requests have ended.
func (s *Server) Serve() {
	_ = s.http.Serve(&limited{Listener: s.session, free: make(Slots, s.streams), done: s.session.CloseChan()})
	s.Close()
}

// Close ends the session at once.
func (s *Server) Close() {
	_ = s.session.Close()
	_ = s.http.Close()
}

// A Session is the client's end.
type Session struct {
	session *yamux.Session
	places  Slots
}

// NewSession takes the stream over, on which the peer is the server.
func NewSession(stream io.ReadWriteCloser, o Options) (*Session, error) {
	session, err := yamux.Client(stream, o.config())
	if err != nil {
		return nil, err
	}
	return &Session{session, make(Slots, o.MaxStreams)}, nil
}

// Close ends the session and closes the stream under it.
func (s *Session) Close() error { return s.session.Close() }

// Done is closed when the session has ended, whoever ended it.
func (s *Session) Done() <-chan struct{} { return s.session.CloseChan() }

// Open opens a stream that leads to the peer's HTTP server. While as many are
// open as the session has, it waits for one to be closed: yamux ends the whole
// session, everybody's, when a stream is not taken in time.
func (s *Session) Open(ctx context.Context) (net.Conn, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	select {
	case s.places <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%d streams are open: %w", cap(s.places), context.Cause(ctx))
	case <-s.session.CloseChan():
		return nil, net.ErrClosed
	}
	conn, err := s.session.Open()
	if err != nil {
		<-s.places
		return nil, err
	}
	return &limitedConn{Conn: conn, release: sync.OnceFunc(func() { <-s.places })}, nil
}

// Client makes each request over a stream of its own, which dial opens; at most
// streams at a time.
func Client(dial func(context.Context) (net.Conn, error), streams int) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableCompression: true,
		WriteBufferSize:    64 << 10, // a frame of yamux for each
		// An idle stream would take the place of another.
		DisableKeepAlives: true,
		MaxConnsPerHost:   streams,
	}, CheckRedirect: func(*http.Request, []*http.Request) error {
		return errors.New("the peer redirects, which nobody here does")
	}}
}
