package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/internal/muxhttp"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// maxAnswer bounds every answer but logs, in bytes.
const maxAnswer = 1 << 20

// Client speaks to one guest. Its methods may be called from several
// goroutines. Errors are of class fault.Device, or Cancelled.
type Client struct {
	session *muxhttp.Session // nil over streams of somebody else's
	http    *http.Client
}

// Dial connects as Connect does and returns a client, to which conn belongs.
func Dial(ctx context.Context, conn io.ReadWriteCloser) (*Client, error) {
	stream, err := Connect(ctx, conn)
	if err != nil {
		return nil, err
	}
	session, err := muxhttp.NewSession(stream, sessionOptions())
	if err != nil {
		conn.Close()
		return nil, fault.Errorf(fault.Internal, "guest agent: yamux: %w", err)
	}
	return &Client{session, muxhttp.Client(session.Open, MaxStreams)}, nil
}

// NewStreams returns a client whose every request is made over a stream of its
// own, which dial opens and which leads to the guest's HTTP server. Close does
// nothing for it, and Done is never closed.
func NewStreams(dial func(context.Context) (net.Conn, error)) *Client {
	return &Client{http: muxhttp.Client(dial, MaxStreams)}
}

// Close ends the session and closes the connection under it.
func (c *Client) Close() error {
	if c.session == nil {
		return nil
	}
	return c.session.Close()
}

// Done is closed when the session has ended, whoever ended it.
func (c *Client) Done() <-chan struct{} {
	if c.session == nil {
		return nil
	}
	return c.session.Done()
}

// Status asks for the state of the guest and its services.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	body, err := c.call(ctx, http.MethodGet, "/v1/status")
	if err != nil {
		return nil, err
	}
	var s Status
	if err := json.Unmarshal(body, &s); err != nil {
		return nil, fault.Errorf(fault.Device, "guest agent: status: %w", err).
			Hintf("rebuild the image: its sovereign-init does not fit this program")
	}
	return &s, nil
}

// Secret asks for the value of a service's secret. A secret that the recipe
// does not declare, or that is not generated yet, is an error that says so.
func (c *Client) Secret(ctx context.Context, service, name string) (string, error) {
	body, err := c.call(ctx, http.MethodGet, secretPath(service, name))
	return string(body), err
}

// Shutdown asks for an orderly shutdown and returns when the guest has begun
// it; the end shows by the virtual machine's.
func (c *Client) Shutdown(ctx context.Context) error {
	_, err := c.call(ctx, http.MethodPost, "/v1/shutdown")
	return err
}

// Freeze freezes the data file system for a backup. The guest thaws it by
// itself after limit (1 s to 10 min) in case the host goes away.
func (c *Client) Freeze(ctx context.Context, limit time.Duration) error {
	_, err := c.call(ctx, http.MethodPost,
		"/v1/freeze?seconds="+strconv.Itoa(int(limit/time.Second)))
	return err
}

// Thaw ends a freeze.
func (c *Client) Thaw(ctx context.Context) error {
	_, err := c.call(ctx, http.MethodPost, "/v1/thaw")
	return err
}

// Logs returns the kept tail of a service's output ("init": sovereign-init's
// own), and with follow what comes after it until ctx ends or the reader is
// closed.
func (c *Client) Logs(ctx context.Context, service string, follow bool) (io.ReadCloser, error) {
	resp, err := c.do(ctx, http.MethodGet,
		"/v1/logs/"+url.PathEscape(service)+"?follow="+strconv.FormatBool(follow), nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// call makes a request without a body and returns the whole answer.
func (c *Client) call(ctx context.Context, method, path string) ([]byte, error) {
	return c.callWith(ctx, method, path, nil)
}

func (c *Client) callWith(ctx context.Context, method, path string, send io.Reader) ([]byte, error) {
	resp, err := c.do(ctx, method, path, send)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, fault.Errorf(classOf(err), "guest agent: %s %s: %w", method, path, err).
			Hintf("see whether the guest still runs")
	}
	if len(body) > maxAnswer {
		return nil, fault.Errorf(fault.Device, "guest agent: %s %s: answer over %d bytes", method, path, maxAnswer)
	}
	return body, nil
}

func (c *Client) do(ctx context.Context, method, path string, send io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://guest"+path, send)
	if err != nil {
		return nil, fault.Errorf(fault.Internal, "guest agent: %w", err)
	}
	return c.send(req)
}

// send makes a request; a status of failure becomes an error with the guest's
// own words.
func (c *Client) send(req *http.Request) (*http.Response, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fault.Errorf(classOf(err), "guest agent: %w", err).
			Hintf("see whether the guest still runs")
	}
	if resp.StatusCode/100 == 2 || resp.StatusCode == http.StatusSwitchingProtocols {
		return resp, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		text = fmt.Appendf(text, " (%v)", err)
	}
	return nil, fault.Errorf(fault.Device, "guest agent: %s %s: %s: %s",
		req.Method, req.URL.Path, resp.Status, strings.TrimSpace(string(text)))
}

// classOf tells a cancelled call from a guest that does not answer.
func classOf(err error) fault.Class {
	if errors.Is(err, context.Canceled) {
		return fault.Cancelled
	}
	return fault.Device
}
