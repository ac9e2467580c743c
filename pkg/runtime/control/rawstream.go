package control

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/sovereign-build/sovereign/internal/muxhttp"
)

// StreamProtocol is the name in the Upgrade header of raw streams.
const StreamProtocol = "sovereign-stream/1"

// Kinds of frames of a raw stream.
const (
	frameData = 'd'
	frameEnd  = 'e' // of what its sender has to say; no more frames follow
)

// A Stream is a raw stream of bytes over a session. Each direction ends by
// itself, with CloseWrite, and for as long as the other takes. The end of what
// the peer says is io.EOF only where it said so: a connection that broke is
// io.ErrUnexpectedEOF, so that a part is never taken for the whole.
type Stream struct {
	conn net.Conn

	reading sync.Mutex
	r       *bufio.Reader
	left    int // of the frame that is being read
	over    bool

	writing sync.Mutex
	ended   bool
}

var _ net.Conn = (*Stream)(nil)

func newStream(conn net.Conn, r *bufio.Reader) *Stream { return &Stream{conn: conn, r: r} }

// Accept makes a raw stream of a request that asks for one. It has answered
// where there is an error.
func Accept(w http.ResponseWriter, r *http.Request) (*Stream, error) {
	if !muxhttp.Wants(w, r, StreamProtocol) {
		return nil, errors.New("no upgrade is asked for")
	}
	conn, in, err := muxhttp.Upgrade(w, StreamProtocol)
	if err != nil {
		return nil, err
	}
	return newStream(conn, in), nil
}

// Read implements io.Reader.
func (s *Stream) Read(b []byte) (int, error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	for s.left == 0 && !s.over && len(b) > 0 {
		if err := s.next(); err != nil {
			return 0, err
		}
	}
	if s.over {
		return 0, io.EOF
	}
	n, err := s.r.Read(b[:min(len(b), s.left)])
	s.left -= n
	return n, muxhttp.NoEOF(err)
}

// next reads the head of a frame.
func (s *Stream) next() error {
	head, err := s.r.Peek(3)
	if err != nil {
		return muxhttp.NoEOF(err) // with a deadline, it is tried again
	}
	n := int(binary.BigEndian.Uint16(head[1:]))
	switch kind := head[0]; {
	case kind == frameEnd && n == 0:
		s.over = true
	case kind == frameData && n > 0 && n <= muxhttp.MaxFrame:
		s.left = n
	default:
		return fmt.Errorf("frame %q of %d bytes: not of this protocol", kind, n)
	}
	_, err = s.r.Discard(3)
	return err
}

// waitClosed returns when either side has closed the stream, whose end was read.
func (s *Stream) waitClosed() {
	s.reading.Lock()
	defer s.reading.Unlock()
	_, _ = s.r.Peek(1) // nothing comes any more, but its end
}

// Write implements io.Writer.
func (s *Stream) Write(b []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.ended {
		return 0, net.ErrClosed
	}
	n := 0
	for len(b) > 0 {
		part := b[:min(len(b), muxhttp.MaxFrame)]
		if err := muxhttp.WriteFrame(s.conn, frameData, part); err != nil {
			s.ended = true // half of it may be on its way
			return n, err
		}
		n, b = n+len(part), b[len(part):]
	}
	return n, nil
}

// CloseWrite says that no more is written. What the peer says can still be
// read.
func (s *Stream) CloseWrite() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.ended {
		return nil
	}
	s.ended = true
	return muxhttp.WriteFrame(s.conn, frameEnd, nil)
}

// Close ends the stream, both ways. A peer that was not told the end by
// CloseWrite sees a connection that broke.
func (s *Stream) Close() error { return s.conn.Close() }

// LocalAddr implements net.Conn.
func (s *Stream) LocalAddr() net.Addr { return s.conn.LocalAddr() }

// RemoteAddr implements net.Conn.
func (s *Stream) RemoteAddr() net.Addr { return s.conn.RemoteAddr() }

// SetDeadline implements net.Conn. A write that a deadline ends leaves a stream
// that nothing more can be written to.
func (s *Stream) SetDeadline(t time.Time) error { return s.conn.SetDeadline(t) }

// SetReadDeadline implements net.Conn.
func (s *Stream) SetReadDeadline(t time.Time) error { return s.conn.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (s *Stream) SetWriteDeadline(t time.Time) error { return s.conn.SetWriteDeadline(t) }

// A HalfCloser is a connection whose directions end one at a time.
type HalfCloser interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// Join copies both ways between two connections until both directions have
// ended, each where its reader says io.EOF, or one of the connections fails;
// then both are closed. A failure of one is seen at the other as a broken
// connection.
func Join(a, b HalfCloser) {
	var both sync.WaitGroup
	end := sync.OnceFunc(func() {
		a.Close()
		b.Close()
	})
	copyOne := func(to, from HalfCloser) {
		_, err := io.Copy(onlyWriter{to}, onlyReader{from})
		if err == nil {
			err = to.CloseWrite()
		}
		if err != nil {
			end()
			return
		}
		if s, ok := from.(*Stream); ok {
			// Whoever has said all may go away without hearing the rest.
			go func() {
				s.waitClosed()
				end()
			}()
		}
	}
	both.Go(func() { copyOne(a, b) })
	copyOne(b, a)
	both.Wait()
	end()
}

// onlyWriter and onlyReader keep io.Copy from methods that copy by themselves
// and do not come back when the other direction has failed.
type (
	onlyWriter struct{ io.Writer }
	onlyReader struct{ io.Reader }
)
