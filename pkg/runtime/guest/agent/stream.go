package agent

import (
	"errors"
	"io"
	"sync"
	"time"
)

// maxPending bounds what a session may leave unread, in bytes: more than all
// windows of the streams a session may have open at a time is a host that
// does not keep to yamux.
const maxPending = (MaxStreams + 1) * 256 << 10

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
