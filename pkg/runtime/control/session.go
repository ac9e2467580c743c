package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/muxhttp"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// MaxStreams is how many requests and raw streams a session has at a time;
// further ones wait.
const MaxStreams = 64

const (
	// askedLimit is how long the one who asks may take to greet, answeredLimit
	// how long it waits for the other's greeting: somebody may have to type a
	// password first.
	askedLimit    = 30 * time.Second
	answeredLimit = 2 * time.Minute
)

// sessionOptions are those of both ends. With a window of 1 MiB a stream can
// bring 10 MB/s over a link with 100 ms there and back; and what can be on its
// way at once passes a link of 1 Mbit/s well within the patience.
func sessionOptions() muxhttp.Options {
	return muxhttp.Options{MaxStreams: MaxStreams, Window: 1 << 20, KeepAlive: 20 * time.Second, Patience: 45 * time.Second}
}

// greet exchanges greetings within a limit, and returns the stream that is
// behind the peer's. It closes conn when it fails.
func greet(ctx context.Context, conn io.ReadWriteCloser, own Hello, asks bool, limit time.Duration) (io.ReadWriteCloser, Hello, int, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no greeting within %v", limit))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	rubbish := 0
	if asks {
		rubbish = maxRubbish
	}
	// Neither waits for the other, over a stream without any buffer either.
	sent := make(chan error, 1)
	go func() { sent <- own.send(conn) }()
	r := bufio.NewReaderSize(conn, 64<<10)
	peer, err := readHello(r, rubbish)
	if err != nil {
		conn.Close() // who does not read must not hold the sender
	}
	if sendErr := <-sent; err == nil {
		err = sendErr
	}
	if !stop() && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	version := 0
	if err == nil {
		version, err = agree(own, peer, asks)
	}
	if err != nil {
		conn.Close()
		return nil, peer, 0, err
	}
	return &begun{Reader: r, Writer: conn, Closer: conn}, peer, version, nil
}

// begun is a connection of which a part was read.
type begun struct {
	io.Reader
	io.Writer
	io.Closer
}

// ErrNoHello is in the error for a connection that ended before its greeting: an
// older program's way to wake an older sovereignd, and that one's answer.
var ErrNoHello = errors.New("it ended without a greeting")

// Serve greets the peer and answers its requests until the connection or ctx
// ends; then conn is closed. The error says why there was no session, or is nil.
func Serve(ctx context.Context, conn io.ReadWriteCloser, own Hello, h http.Handler) error {
	s, _, _, err := greet(ctx, conn, own, false, askedLimit)
	if ended(err) {
		return fmt.Errorf("%w: %w", ErrNoHello, err)
	}
	if err != nil {
		return err
	}
	server, err := muxhttp.NewServer(s, sessionOptions(), h)
	if err != nil {
		conn.Close()
		return err
	}
	defer context.AfterFunc(ctx, server.Close)()
	server.Serve()
	return nil
}

func ended(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, net.ErrClosed) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET)
}

// A Session is the side that asks. Its methods may be called from several
// goroutines.
type Session struct {
	// Peer is what the other side said of itself, Version the protocol's.
	Peer    Hello
	Version int

	mux  *muxhttp.Session
	http *http.Client
}

// Dial greets the peer over conn, which belongs to the session from then on,
// and is closed when it fails. Errors are of class fault.Device, or
// fault.Environment for a peer of another version.
func Dial(ctx context.Context, conn io.ReadWriteCloser, own Hello) (*Session, error) {
	s, peer, version, err := greet(ctx, conn, own, true, answeredLimit)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, ErrVersion):
		return nil, err
	default:
		if ended(err) {
			err = fmt.Errorf("%w: %w", ErrNoHello, err)
		}
		return nil, fault.Errorf(fault.Device, "sovereignd does not greet: %w", err).
			Hintf("see whether it is a sovereignd of this protocol that answers there, and not an older one")
	}
	mux, err := muxhttp.NewSession(s, sessionOptions())
	if err != nil {
		conn.Close()
		return nil, fault.Wrap(fault.Internal, err)
	}
	return &Session{Peer: peer, Version: version, mux: mux, http: muxhttp.Client(mux.Open, MaxStreams)}, nil
}

// Close ends the session and closes the connection.
func (s *Session) Close() error { return s.mux.Close() }

// Done is closed when the session has ended, whoever ended it.
func (s *Session) Done() <-chan struct{} { return s.mux.Done() }
