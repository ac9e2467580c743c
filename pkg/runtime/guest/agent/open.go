package agent

import (
	"context"
	"errors"
	"net"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Open opens a stream of the session, which leads to the guest's HTTP server:
// what one who shares the session with others gives to NewStreams. While
// MaxStreams are open it waits for one to be closed. The stream ends with the
// session.
func (c *Client) Open(ctx context.Context) (net.Conn, error) {
	err := errors.New("the client has no session of its own")
	if c.session != nil {
		var conn net.Conn
		if conn, err = c.session.Open(ctx); err == nil {
			return conn, nil
		}
	}
	return nil, fault.Errorf(classOf(err), "guest agent: opening a stream: %w", err)
}
