package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Open opens a stream of the session, which leads to the guest's HTTP server:
// what one who shares the session with others gives to NewStreams. While
// MaxStreams are open it waits for one to be closed. The stream ends with the
// session.
func (c *Client) Open(ctx context.Context) (net.Conn, error) {
	conn, err := c.open(ctx)
	if err != nil {
		return nil, fault.Errorf(classOf(err), "guest agent: opening a stream: %w", err)
	}
	return conn, nil
}

// open keeps to the number of streams that the guest takes: yamux ends the
// whole session, everybody's, when a stream is not taken in time.
func (c *Client) open(ctx context.Context) (net.Conn, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if c.session == nil {
		return nil, errors.New("the client has no session of its own")
	}
	select {
	case c.places <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%d streams are open: %w", MaxStreams, context.Cause(ctx))
	case <-c.session.CloseChan():
		return nil, net.ErrClosed
	}
	conn, err := c.session.Open()
	if err != nil {
		<-c.places
		return nil, err
	}
	return &limitedConn{Conn: conn, release: sync.OnceFunc(func() { <-c.places })}, nil
}
