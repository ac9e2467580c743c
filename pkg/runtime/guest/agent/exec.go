package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/sovereign-build/sovereign/internal/muxhttp"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// ExecRequest is a program to run in the guest, beside its services.
type ExecRequest struct {
	// Argv is the program, looked up in PATH where it has no slash, and its
	// arguments.
	Argv []string `json:"argv"`
	// User is a name from the image's /etc/passwd; empty is root.
	User string `json:"user,omitempty"`
	// Env is added to the guest's own few variables.
	Env map[string]string `json:"env,omitempty"`
	// Dir is an absolute path; empty is the user's home, or / without one.
	Dir string `json:"dir,omitempty"`
	// TTY gives the program a terminal of Rows and Cols (0: 24 and 80). Its
	// standard error is then its standard output.
	TTY  bool   `json:"tty,omitempty"`
	Rows uint16 `json:"rows,omitempty"`
	Cols uint16 `json:"cols,omitempty"`
}

// ExecIO is what a program reads and writes. A nil Stdin is empty; nil outputs
// are thrown away.
type ExecIO struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Resize has the terminal's size, whenever it has changed.
	Resize <-chan Size
	// Signals has names of signals for the program's process group: HUP, INT,
	// QUIT, KILL, USR1, USR2, TERM.
	Signals <-chan string
}

// Size of a terminal, in characters.
type Size struct{ Rows, Cols uint16 }

// maxExecRequest bounds the JSON text of an ExecRequest, in bytes.
const maxExecRequest = 64 << 10

// Exec runs a program in the guest and returns its exit code: 128 and the
// signal's number where a signal ended it. When ctx ends, or the connection
// does, the guest kills the program and all that it started. So it does when
// std.Stdin fails with another error than io.EOF, or an output takes no more;
// that error is of class fault.Environment. Without an error all that the
// program printed was written, however slowly the outputs take it.
//
// Exec does not wait for a Stdin that is still open when the program ends; one
// read of it may be under way then.
func (c *Client) Exec(ctx context.Context, r ExecRequest, std ExecIO) (int, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return 0, fault.Errorf(fault.Internal, "guest agent: exec: %w", err)
	}
	if len(text) > maxExecRequest {
		return 0, fault.Errorf(fault.Usage, "guest agent: exec: arguments and environment of %d bytes: want at most %d", len(text), maxExecRequest).
			Hintf("give the data by standard input")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://guest/v1/exec", bytes.NewReader(text))
	if err != nil {
		return 0, fault.Errorf(fault.Internal, "guest agent: exec: %w", err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", ExecProtocol)
	resp, err := c.send(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	stream, ok := resp.Body.(io.ReadWriteCloser)
	if resp.StatusCode != http.StatusSwitchingProtocols || !ok {
		return 0, fault.Errorf(fault.Device, "guest agent: exec: answer %s: want 101", resp.Status)
	}
	stop := context.AfterFunc(ctx, func() { stream.Close() })
	defer stop()
	code, err := execHost(stream, std)
	var local *fault.Error
	switch {
	case err == nil || ctx.Err() == nil && errors.As(err, &local):
		return code, err
	case ctx.Err() != nil:
		return 0, fault.Errorf(classOf(ctx.Err()), "guest agent: exec %q: %w", r.Argv, context.Cause(ctx))
	}
	return 0, fault.Errorf(fault.Device, "guest agent: exec %q: %w", r.Argv, err)
}

// execHost is the host's side of an exec's stream. An error of this side's own
// streams is of class fault.Environment.
func execHost(stream io.ReadWriteCloser, std ExecIO) (int, error) {
	done := make(chan struct{})
	defer close(done)
	out := &lockedWriter{w: stream}
	if std.Stdin == nil {
		std.Stdin = bytes.NewReader(nil)
	}
	credit := newCredit()
	unread := make(chan error, 1) // why standard input could not be read
	go func() {
		if err := sendStdin(out, std.Stdin, credit, done); err != nil {
			unread <- fault.Errorf(fault.Environment, "standard input: %w", err).
				Hintf("the program in the guest was ended, so that it does not take a part for the whole")
			stream.Close() // ends the program, and the loop below
		}
	}()
	go sendControl(out, std, done)
	buf := make([]byte, muxhttp.MaxFrame)
	for {
		kind, b, err := muxhttp.ReadFrame(stream, buf)
		if err != nil {
			select {
			case err := <-unread:
				return 0, err
			default:
				return 0, fmt.Errorf("the connection ended before the program: %w", muxhttp.NoEOF(err))
			}
		}
		switch {
		case kind == frameStdout:
			err = writeTo("standard output", std.Stdout, b)
		case kind == frameStderr:
			err = writeTo("standard error", std.Stderr, b)
		case kind == frameTaken && len(b) == 4:
			err = credit.add(int(binary.BigEndian.Uint32(b)))
		case kind == frameExit && len(b) == 1:
			return int(b[0]), nil
		case kind == frameError:
			return 0, errors.New(string(b))
		default:
			err = fmt.Errorf("frame %q of %d bytes: not of this protocol", kind, len(b))
		}
		if err != nil {
			return 0, err
		}
	}
}

func writeTo(name string, w io.Writer, b []byte) error {
	if w == nil {
		return nil
	}
	if _, err := w.Write(b); err != nil {
		return fault.Errorf(fault.Environment, "%s: %w", name, err)
	}
	return nil
}

// credit is how much of standard input may be sent, in bytes.
type credit struct {
	mu   sync.Mutex
	n    int
	more chan struct{} // holds one when n may have grown
}

func newCredit() *credit { return &credit{n: stdinWindow, more: make(chan struct{}, 1)} }

// take waits until something may be sent, and takes at most most of it; it
// returns 0 when done is closed first.
func (c *credit) take(most int, done <-chan struct{}) int {
	for {
		c.mu.Lock()
		n := min(c.n, most)
		c.n -= n
		c.mu.Unlock()
		if n > 0 {
			return n
		}
		select {
		case <-c.more:
		case <-done:
			return 0
		}
	}
}

func (c *credit) add(n int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n > stdinWindow-c.n {
		return errors.New("more of standard input was taken than sent")
	}
	c.n += n
	select {
	case c.more <- struct{}{}:
	default:
	}
	return nil
}

// sendStdin ends with its reader, or when done is closed; what cannot be sent
// any more has nobody to read it, and the stream's reader sees the end. Its
// error is the reader's: what was read is not all, and the program must not
// take it for that.
func sendStdin(out io.Writer, in io.Reader, credit *credit, done <-chan struct{}) error {
	buf := make([]byte, muxhttp.MaxFrame)
	for {
		n, err := in.Read(buf)
		for b := buf[:n]; len(b) > 0; {
			part := credit.take(len(b), done)
			if part == 0 || muxhttp.WriteFrame(out, frameStdin, b[:part]) != nil {
				return nil
			}
			b = b[part:]
		}
		if errors.Is(err, io.EOF) {
			muxhttp.WriteFrame(out, frameStdin, nil) //nolint:errcheck // as above
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// sendControl sends sizes and signals until done, as sendStdin does.
func sendControl(out io.Writer, std ExecIO, done <-chan struct{}) {
	for {
		var err error
		select {
		case <-done:
			return
		case s, ok := <-std.Resize:
			if !ok {
				std.Resize = nil
				continue
			}
			err = muxhttp.WriteFrame(out, frameResize, binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, s.Rows), s.Cols))
		case s, ok := <-std.Signals:
			if !ok {
				std.Signals = nil
				continue
			}
			err = muxhttp.WriteFrame(out, frameSignal, []byte(s))
		}
		if err != nil {
			return
		}
	}
}

// lockedWriter lets several goroutines write whole frames.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}
