// Package qmp speaks QEMU's machine protocol, JSON lines over a socket:
// https://www.qemu.org/docs/master/interop/qmp-spec.html
//
// A connection comes in and a Client goes out that runs one command at a time.
// Events are skipped. The package opens no connection and starts no QEMU.
package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// maxLine bounds one message. query-qmp-schema is the longest answer, some
// 200 KiB.
const maxLine = 4 << 20

// Client is a QMP session. It is for one goroutine at a time.
type Client struct {
	conn net.Conn
	r    *bufio.Reader
	id   int
	// Version is QEMU's, from its greeting: "7.2.22".
	Version string
}

// CommandError is QEMU's own answer to a command that failed.
type CommandError struct {
	Command string
	Class   string `json:"class"`
	Desc    string `json:"desc"`
}

// Error names the command and gives QEMU's words.
func (e *CommandError) Error() string { return fmt.Sprintf("qmp %s: %s", e.Command, e.Desc) }

// message is any line that QEMU sends.
type message struct {
	Greeting *greeting       `json:"QMP"`
	Return   json.RawMessage `json:"return"`
	Error    *CommandError   `json:"error"`
	Event    string          `json:"event"`
	ID       int             `json:"id"`
}

type greeting struct {
	Version struct {
		QEMU struct {
			Major int `json:"major"`
			Minor int `json:"minor"`
			Micro int `json:"micro"`
		} `json:"qemu"`
	} `json:"version"`
}

// New waits for QEMU's greeting on conn and leaves negotiation mode. From then
// on conn belongs to the client; New closes it when it fails. Errors are of
// class fault.Device, or those of ctx.
func New(ctx context.Context, conn net.Conn) (*Client, error) {
	c := &Client{conn: conn, r: bufio.NewReader(conn)}
	if err := c.greet(ctx); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return c, nil
}

func (c *Client) greet(ctx context.Context) error {
	stop := c.bind(ctx)
	m, err := c.read()
	stop()
	if err != nil {
		return classify(ctx, fmt.Errorf("qmp greeting: %w", err))
	}
	if m.Greeting == nil {
		return fault.Errorf(fault.Device, "qmp: the other end does not greet like QEMU")
	}
	v := m.Greeting.Version.QEMU
	c.Version = fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro)
	return c.Execute(ctx, "qmp_capabilities", nil, nil)
}

// Execute runs a command. args, when not nil, becomes its arguments; out, when
// not nil, takes what it returns. A command that QEMU refuses is a
// *CommandError of class fault.Device.
func (c *Client) Execute(ctx context.Context, command string, args, out any) error {
	defer c.bind(ctx)()
	c.id++
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        int    `json:"id"`
	}{command, args, c.id})
	if err != nil {
		return fmt.Errorf("qmp %s: %w", command, err)
	}
	if _, err := c.conn.Write(append(line, '\n')); err != nil {
		return classify(ctx, fmt.Errorf("qmp %s: %w", command, err))
	}
	for {
		m, err := c.read()
		if err != nil {
			return classify(ctx, fmt.Errorf("qmp %s: %w", command, err))
		}
		switch {
		case m.Event != "" || m.ID != c.id:
			continue
		case m.Error != nil:
			m.Error.Command = command
			return fault.Wrap(fault.Device, m.Error)
		case out == nil:
			return nil
		}
		if err := json.Unmarshal(m.Return, out); err != nil {
			return fault.Errorf(fault.Device, "qmp %s: %w", command, err)
		}
		return nil
	}
}

// Close ends the session; the machine goes on.
func (c *Client) Close() error { return c.conn.Close() }

// bind makes the connection fail when ctx ends.
func (c *Client) bind(ctx context.Context) (release func()) {
	stop := context.AfterFunc(ctx, func() {
		// A connection that cannot take a deadline is closed already.
		if err := c.conn.SetDeadline(time.Unix(1, 0)); err != nil {
			c.conn.Close()
		}
	})
	return func() { stop() }
}

func (c *Client) read() (message, error) {
	var line []byte
	for {
		part, err := c.r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxLine {
			return message{}, fmt.Errorf("a message is longer than %d bytes", maxLine)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if errors.Is(err, io.EOF) {
			return message{}, errors.New("QEMU closed the connection")
		}
		if err != nil {
			return message{}, err
		}
		return parse(line)
	}
}

func parse(line []byte) (message, error) {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return message{}, fmt.Errorf("message %.80q: %w", line, err)
	}
	return m, nil
}

// classify prefers the caller's reason for the end over that of the
// connection.
func classify(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w (%w)", context.Cause(ctx), err)
	}
	return fault.Wrap(fault.Device, err)
}
