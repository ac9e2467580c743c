package agent

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"

	"github.com/sovereign-build/sovereign/internal/muxhttp"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// LogProtocol is the name in the Upgrade header of a stream that leads to where
// a service gives its log of changes away. It carries what that speaks.
const LogProtocol = "sovereign-log/1"

// A Replicator is a Backend with services that give their logs of changes away.
// The endpoint for it is absent (404) where a Backend is none.
type Replicator interface {
	// DialLog connects to where a service gives its log away. A service without
	// one is an fs.ErrNotExist.
	DialLog(ctx context.Context, service string) (net.Conn, error)
}

// replicate makes the request's stream one to the service, until either end is
// closed.
func (h *handler) replicate(w http.ResponseWriter, r *http.Request, p Replicator) {
	if !muxhttp.Wants(w, r, LogProtocol) {
		return
	}
	release := h.replicas.Take(w)
	if release == nil {
		return
	}
	defer release()
	ctx, cancel := context.WithTimeout(r.Context(), quickLimit)
	service, err := p.DialLog(ctx, r.PathValue("service"))
	cancel()
	if err != nil {
		fail(w, err)
		return
	}
	defer service.Close()
	conn, in, err := muxhttp.Upgrade(w, LogProtocol)
	if err != nil {
		return // the host is gone
	}
	defer conn.Close()
	var sending sync.WaitGroup
	sending.Go(func() {
		// An error is that of an end, whose other half ends with it.
		_, _ = io.Copy(service, in)
		service.Close()
	})
	_, _ = io.Copy(conn, service)
	conn.Close()
	sending.Wait()
}

// DialLog opens a stream to where a service gives its log of changes away. A
// guest whose image is too old for it answers 404, as one without such a service
// does. The stream is the caller's; it ends with the session.
func (c *Client) DialLog(ctx context.Context, service string) (io.ReadWriteCloser, error) {
	// The stream outlives ctx, which is for opening it.
	held, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	req, err := http.NewRequestWithContext(held, http.MethodPost, "http://guest/v1/services/"+url.PathEscape(service)+"/log", nil)
	if err != nil {
		cancel()
		return nil, fault.Errorf(fault.Internal, "guest agent: log: %w", err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", LogProtocol)
	resp, err := c.send(req)
	if err != nil {
		cancel()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, err
	}
	stream, ok := resp.Body.(io.ReadWriteCloser)
	if resp.StatusCode != http.StatusSwitchingProtocols || !ok || !stop() {
		cancel()
		resp.Body.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fault.Errorf(fault.Device, "guest agent: log: answer %s: want 101", resp.Status)
	}
	return &logStream{stream, cancel}, nil
}

type logStream struct {
	io.ReadWriteCloser
	cancel context.CancelFunc
}

func (s *logStream) Close() error {
	defer s.cancel()
	return s.ReadWriteCloser.Close()
}
