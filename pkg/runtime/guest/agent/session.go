package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/sovereign-build/sovereign/internal/muxhttp"
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

// errNoHello ends a connection whose peer says nothing that helps.
var errNoHello = fmt.Errorf("the peer said no hello within %v", helloLimit)

// ServePort answers the sessions on a port, one after another, until ctx ends
// or the port fails; then it closes the port and returns the reason (nil for
// an ended ctx). With persistent, the end of the stream is not that of
// the port, and of a session only when it lasts. Without, the port is a
// connection, which has 30 s to begin its one session.
func ServePort(ctx context.Context, port Port, persistent bool, h http.Handler) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	stop := context.AfterFunc(ctx, func() { port.Close() })
	defer stop()
	defer port.Close()
	d := &demux{port: port, handler: h, persistent: persistent, begun: func() {}}
	if !persistent {
		late := time.AfterFunc(helloLimit, func() { end(errNoHello) })
		defer late.Stop()
		d.begun = func() { late.Stop() }
	}
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
		case errors.Is(context.Cause(ctx), errNoHello):
			return errNoHello
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
	port       Port
	handler    http.Handler
	persistent bool
	begun      func() // called when a session begins

	scan    helloScanner
	answer  hello   // the last one; zero without a host
	current *stream // nil until the host has begun the session
	unmask  *mask   // of what the host sends
}

// feed takes what the host sent, which it may change. It returns an error only
// when the port does not take the answer to a hello.
func (d *demux) feed(b []byte) error {
	for len(b) > 0 {
		if d.current != nil && !d.persistent {
			d.push(b) // a connection has one session: there is nothing to look for
			return nil
		}
		part := b
		if d.current == nil && d.answer.version == oldest {
			// A host of the protocol before this one sends no hello twice to
			// begin: its frames start with yamux's version, 0, which no hello
			// holds.
			switch i := bytes.IndexByte(b, 0); {
			case i == 0:
				if err := d.begin(); err != nil {
					return err
				}
				continue
			case i > 0:
				part = b[:i]
			}
		}
		h, n, ok := d.scan.find(part)
		if d.current != nil {
			d.push(b[:n]) // what ends with a hello is nobody's any more
		}
		if ok {
			if err := d.hear(h); err != nil {
				return err
			}
		}
		b = b[n:]
	}
	return nil
}

// hear takes a hello.
func (d *demux) hear(h hello) error {
	switch {
	case h.guest != "": // the host has had the answer
		if d.current != nil || h != d.answer {
			return nil // an older answer
		}
		return d.begin()
	case h.host == d.answer.host && (d.answer.version == Version || h.version == oldest):
		return nil // it has been answered
	}
	d.drop() // the host of that session is gone
	return d.reply(h)
}

// reply answers a greeting, in the version of this package. To a host of the
// one before, which would wait for ever, it says its own version, so that it
// comes in and is told.
func (d *demux) reply(h hello) error {
	answer := hello{version: Version, host: h.host, guest: newNonce()}
	if h.version == oldest {
		answer = hello{version: oldest, host: h.host}
	}
	// A host that goes away before it read the answer must not hold the port.
	if err := d.port.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(d.port, answer.String()); err != nil {
		if isTimeout(err) {
			return nil // the next greeting is answered anew
		}
		return err
	}
	if err := d.port.SetWriteDeadline(time.Time{}); err != nil {
		return err
	}
	d.answer = answer
	return nil
}

// begin starts the session that was agreed on.
func (d *demux) begin() error {
	s := newStream(d.port)
	handler := d.handler
	if d.answer.version == oldest {
		handler = http.HandlerFunc(refuse)
	}
	server, err := muxhttp.NewServer(s, sessionOptions(), handler)
	if err != nil {
		return err
	}
	s.done.Go(server.Serve)
	d.current, d.unmask = s, newMask(d.answer)
	d.begun()
	return nil
}

// refuse answers a host that is too old.
func refuse(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, fmt.Sprintf("the guest speaks version %c of the agent's protocol, this host version %c: use the sovereign-build (and sovereignd) that built the image, or a newer one",
		Version, oldest), http.StatusUpgradeRequired)
}

// push gives the session what the host sent it.
func (d *demux) push(b []byte) {
	d.unmask.apply(b)
	d.current.push(b)
}

// drop ends the session, if there is one, and waits until it no longer uses
// the port.
func (d *demux) drop() {
	if d.current != nil {
		d.current.Close()
		d.current.done.Wait()
	}
	d.answer, d.current, d.unmask = hello{}, nil, nil
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}
