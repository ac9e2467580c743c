package agent

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// A Port is a byte stream that sessions come and go on: a virtio-serial port
// (os.File) or one connection (net.Conn). Deadlines are needed to take it away
// from a session that ended; a Port without them blocks the next one.
type Port interface {
	io.ReadWriteCloser
	SetWriteDeadline(time.Time) error
}

// reopenEvery is how often a port whose host has gone is tried again: reads of
// a virtio-serial port return EOF at once while nobody is at the other end.
const reopenEvery = 50 * time.Millisecond

// goneAfter is how many such ends in a row mean that the host has gone. One
// alone may be old news: the kernel learns of hosts that come and go in another
// queue than of what they send, and an end can be seen after the next host's
// hello.
const goneAfter = 20

// ServePort answers the sessions on a port, one after another, until ctx ends
// or the port fails; then it closes the port and returns the reason (nil for
// an ended ctx). With persistent, the end of the stream is not that of
// the port, and of a session only when it lasts.
func ServePort(ctx context.Context, port Port, persistent bool, h http.Handler) error {
	stop := context.AfterFunc(ctx, func() { port.Close() })
	defer stop()
	defer port.Close()
	d := &demux{port: port, handler: h}
	defer d.drop()
	buf := make([]byte, 32<<10)
	ends := 0
	for {
		begin := time.Now()
		n, err := port.Read(buf)
		if n > 0 || time.Since(begin) > reopenEvery {
			ends = 0
		}
		if feedErr := d.feed(buf[:n]); err == nil {
			err = feedErr
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, io.EOF) && persistent:
			if ends++; ends >= goneAfter {
				d.drop()
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(reopenEvery):
			}
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// demux cuts the host's byte stream into sessions.
type demux struct {
	port    Port
	handler http.Handler
	scan    helloScanner
	nonce   string  // of the session, "" without one
	opened  bool    // the session's first frame was seen
	current *stream // nil without a session
}

// feed takes what the host sent. It returns an error only when the port does
// not take the answer to a hello.
func (d *demux) feed(b []byte) error {
	from := 0 // start of what belongs to the session
	for i, c := range b {
		if d.current != nil && !d.opened && c == 0 {
			// A yamux frame starts with its version, 0; a hello never holds
			// one. So the repeated hellos are over.
			d.opened, from = true, i
		}
		nonce, ok := d.scan.next(c)
		if !ok || d.current != nil && nonce == d.nonce {
			continue
		}
		d.drop()
		if err := d.begin(nonce); err != nil {
			return err
		}
		from = i + 1
	}
	if d.opened && from < len(b) {
		d.current.push(b[from:])
	}
	return nil
}

// begin answers a hello and starts a session.
func (d *demux) begin(nonce string) error {
	// A host that goes away before it read the answer must not hold the port.
	if err := d.port.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(d.port, helloLine(nonce)); err != nil {
		if isTimeout(err) {
			return nil // no session; the next hello starts one
		}
		return err
	}
	if err := d.port.SetWriteDeadline(time.Time{}); err != nil {
		return err
	}
	s := newStream(d.port)
	session, err := yamux.Server(s, muxConfig())
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           d.handler,
		MaxHeaderBytes:    maxHeader,
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       2 * time.Minute,
	}
	s.done.Go(func() {
		// Serve ends with the session, for any reason; there is nobody to
		// tell, and the host sees the end of its own session.
		_ = server.Serve(limit(session, session.CloseChan()))
		_ = server.Close()
		_ = session.Close()
	})
	d.current, d.nonce, d.opened = s, nonce, false
	return nil
}

// drop ends the session, if there is one, and waits until it no longer uses
// the port.
func (d *demux) drop() {
	if d.current == nil {
		return
	}
	d.current.Close()
	d.current.done.Wait()
	d.current, d.nonce, d.opened = nil, "", false
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// maxPending bounds what a session may leave unread, in bytes: more than all
// windows of the streams a session may have open at a time is a host that
// does not keep to yamux.
const maxPending = (maxStreams + 1) * 256 << 10

// stream is the part of a port that belongs to one session. Reads take what
// push left; writes go to the port until Close.
type stream struct {
	port Port
	done sync.WaitGroup // the session's server

	mu      sync.Mutex
	cond    sync.Cond
	pending []byte
	closed  bool

	writing sync.Mutex // held while the session writes to the port
}

func newStream(port Port) *stream {
	s := &stream{port: port}
	s.cond.L = &s.mu
	return s
}

// push adds bytes from the host; a session that reads too slowly is closed.
func (s *stream) push(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pending)+len(b) > maxPending {
		s.closed = true
	}
	if !s.closed {
		s.pending = append(s.pending, b...)
	}
	s.cond.Broadcast()
}

// Read implements io.Reader for yamux.
func (s *stream) Read(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.pending) == 0 && !s.closed {
		s.cond.Wait()
	}
	if s.closed {
		return 0, io.EOF
	}
	n := copy(b, s.pending)
	s.pending = s.pending[n:]
	if len(s.pending) == 0 {
		s.pending = nil // let go of a large buffer
	}
	return n, nil
}

// Write implements io.Writer for yamux.
func (s *stream) Write(b []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return 0, io.ErrClosedPipe
	}
	return s.port.Write(b)
}

// Close ends the session's use of the port and leaves the port open. When it
// returns, no write of the session is under way.
func (s *stream) Close() error {
	s.mu.Lock()
	s.closed = true
	s.cond.Broadcast()
	s.mu.Unlock()
	// A write may hang on a port nobody reads: a deadline in the past ends it.
	err := s.port.SetWriteDeadline(time.Unix(1, 0))
	s.writing.Lock()
	defer s.writing.Unlock()
	return errors.Join(err, s.port.SetWriteDeadline(time.Time{}))
}
