package agent

import (
	"context"
	"net"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Open opens a stream of the session, which leads to the guest's HTTP server:
// what one who shares the session with others gives to NewStreams. The stream
// ends with the session.
func (c *Client) Open(ctx context.Context) (net.Conn, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, fault.Errorf(classOf(err), "guest agent: %w", err)
	}
	if c.session == nil {
		return nil, fault.Errorf(fault.Internal, "guest agent: the client has no session of its own")
	}
	conn, err := c.session.Open()
	if err != nil {
		return nil, fault.Errorf(fault.Device, "guest agent: opening a stream: %w", err)
	}
	return conn, nil
}
