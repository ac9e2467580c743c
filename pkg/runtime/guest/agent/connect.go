package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// greetEvery is the pause between two greetings of one Connect.
const greetEvery = 200 * time.Millisecond

// ErrVersion is in the error of Connect and Dial when the guest answers, but
// speaks another version of the protocol.
var ErrVersion = errors.New("the guest's agent speaks another version of the protocol")

// Connect greets the guest over conn until it answers or ctx ends, and returns
// the stream of the session that begins, on which yamux is spoken. From then on
// conn belongs to that; Connect closes it when it fails. Give ctx a deadline: a
// guest that never boots never answers.
func Connect(ctx context.Context, conn io.ReadWriteCloser) (io.ReadWriteCloser, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	r, h, err := greet(conn)
	if err == nil {
		_, err = io.WriteString(conn, h.String()) // the session begins behind it
	}
	if !stop() || err != nil {
		conn.Close()
		if ctx.Err() != nil {
			return nil, fault.Errorf(classOf(ctx.Err()), "guest agent: no answer to hello: %w", context.Cause(ctx)).
				Hintf("look at the guest's console log, or give it more time")
		}
		hint := "see whether the guest still runs"
		if errors.Is(err, ErrVersion) {
			hint = "build the image with this version of sovereign-build, stop the machine and start it with that"
		}
		return nil, fault.Errorf(fault.Device, "guest agent: hello: %w", err).Hintf("%s", hint)
	}
	return &sessionStream{Reader: r, Writer: &maskedWriter{Writer: conn, mask: newMask(h)}, Closer: conn}, nil
}

// sessionStream is the host's end of a session.
type sessionStream struct {
	io.Reader
	io.Writer
	io.Closer
}

// greet sends greetings until the guest answers, and returns the answer and the
// reader behind it. It returns when conn fails or is closed.
func greet(conn io.ReadWriteCloser) (io.Reader, hello, error) {
	nonce := newNonce()
	// A guest of the protocol before this one answers only the second line. One
	// of this protocol has seen the first when it comes, and passes over it.
	lines := []byte(hello{version: Version, host: nonce}.String() + hello{version: oldest, host: nonce}.String())
	answered := make(chan struct{})
	var sender sync.WaitGroup
	var sendErr error
	sender.Go(func() {
		tick := time.NewTicker(greetEvery)
		defer tick.Stop()
		for {
			if _, sendErr = conn.Write(lines); sendErr != nil {
				conn.Close() // the reader must not wait for an answer
				return
			}
			select {
			case <-answered:
				return
			case <-tick.C:
			}
		}
	})
	r := bufio.NewReader(conn)
	h, err := readAnswer(r, nonce)
	close(answered)
	sender.Wait() // no greeting may come after the first frame
	if err == nil {
		err = sendErr
	} else if sendErr != nil {
		err = errors.Join(sendErr, err)
	}
	return r, h, err
}

// readAnswer reads up to and including the answer to the greeting with the
// nonce.
func readAnswer(r io.ByteReader, nonce string) (hello, error) {
	var s helloScanner
	for {
		b, err := r.ReadByte()
		if err != nil {
			return hello{}, err
		}
		h, _, ok := s.find([]byte{b})
		if !ok || h.host != nonce {
			continue
		}
		if h.version != Version || h.guest == "" {
			return h, fmt.Errorf("%w: %c, this program %c", ErrVersion, h.version, Version)
		}
		return h, nil
	}
}
