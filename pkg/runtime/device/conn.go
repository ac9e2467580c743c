package device

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sovereign-build/sovereign/internal/printable"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

const (
	// maxSaid is how much of the end of a program's standard error is kept,
	// bytes.
	maxSaid = 4 << 10
	// endLimit is how long a program may take to end by itself once its
	// streams have ended.
	endLimit = 2 * time.Second
	// heldLimit is how long its standard error may be held open by others, such
	// as a master connection of ssh, after its own end.
	heldLimit = 500 * time.Millisecond
)

// A Conn is a running program, here or on a phone, whose standard input and
// output are the stream. Both directions end one at a time: the end of the output is io.EOF where the
// program ended in order, and otherwise the error that Err returns.
type Conn struct {
	device Device
	end    func(os.Signal) error
	in     *os.File // what the program reads
	out    *os.File // what it writes
	said   tail

	closing atomic.Bool
	close   sync.Once
	done    chan struct{} // it was waited for
	status  error         // of Wait
}

// start runs a program here.
func start(ctx context.Context, d Device, cmd *exec.Cmd) (*Conn, error) {
	return begin(ctx, d, func(c *Conn, in, out *os.File) (wait func() error, end func(os.Signal) error, err error) {
		defer in.Close()
		defer out.Close()
		cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, &c.said
		cmd.WaitDelay = heldLimit
		if err := cmd.Start(); err != nil {
			return nil, nil, fault.Wrap(fault.Environment, err)
		}
		return cmd.Wait, cmd.Process.Signal, nil
	})
}

// begin makes a Conn of what run starts, which gets the program's ends of both
// streams and closes them; c takes its standard error.
func begin(ctx context.Context, d Device, run func(c *Conn, in, out *os.File) (wait func() error, end func(os.Signal) error, err error)) (*Conn, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	theirIn, in, err := os.Pipe()
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	out, theirOut, err := os.Pipe()
	if err != nil {
		in.Close()
		theirIn.Close()
		return nil, fault.Wrap(fault.Environment, err)
	}
	c := &Conn{device: d, in: in, out: out, done: make(chan struct{})}
	wait, end, err := run(c, theirIn, theirOut)
	if err != nil {
		in.Close()
		out.Close()
		return nil, err
	}
	c.end = end
	go func() {
		c.status = wait()
		if errors.Is(c.status, exec.ErrWaitDelay) {
			c.status = nil
		}
		close(c.done)
	}()
	return c, nil
}

// Read reads what the device says.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.out.Read(b)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		err = c.ended(err)
	}
	return n, err
}

// Write writes to the device.
func (c *Conn) Write(b []byte) (int, error) {
	n, err := c.in.Write(b)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		err = c.ended(err)
	}
	return n, err
}

// ended is the reason for the end of a stream, where the program's end is it.
func (c *Conn) ended(err error) error {
	if c.closing.Load() {
		return os.ErrClosed
	}
	limit := time.NewTimer(endLimit)
	defer limit.Stop()
	select {
	case <-c.done:
	case <-limit.C:
	}
	if own := c.Err(); own != nil {
		return own
	}
	return err
}

// CloseWrite ends what the device reads.
func (c *Conn) CloseWrite() error { return c.in.Close() }

// Close ends the stream and the program, and waits for it. Closing again does
// nothing.
func (c *Conn) Close() error {
	c.close.Do(func() {
		select {
		case <-c.done: // Err is about an end before this
		default:
			c.closing.Store(true)
		}
		c.in.Close()
		c.out.Close()
		for _, signal := range []os.Signal{syscall.SIGTERM, syscall.SIGKILL} {
			limit := time.NewTimer(endLimit)
			select {
			case <-c.done:
				limit.Stop()
				return
			case <-limit.C:
				c.end(signal) //nolint:errcheck // it has ended
			}
		}
		<-c.done
	})
	return nil
}

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline is that of net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.out.SetReadDeadline(t) }

// SetWriteDeadline is that of net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.in.SetWriteDeadline(t) }

// Err says why the program has ended, in its own words: nil while it runs, and
// where it ended in order or by Close. Its class is fault.Device for a link or
// a device that failed, fault.Environment where there is no sovereignd, and
// that of sovereignd's own error.
func (c *Conn) Err() error {
	select {
	case <-c.done:
	default:
		return nil
	}
	if c.closing.Load() || c.status == nil {
		return nil
	}
	return c.device.failed(c.status, c.said.String())
}

// failed is the error for a program that ended with status, after it has said
// something.
func (d Device) failed(status error, said string) error {
	said = strings.TrimSpace(printable.Text(said))
	why := said
	if why == "" {
		why = status.Error()
	}
	code := -1
	var exit interface{ ExitCode() int }
	if errors.As(status, &exit) {
		code = exit.ExitCode()
	}
	var own *fault.Error
	switch {
	case errors.As(status, &own): // of the way there
		return status
	case code == 126 || code == 127:
		e := fault.Errorf(fault.Environment, "there is no sovereignd: %s", why)
		if d.kind == bySSH || d.kind == byADB {
			return e.Hintf("put it there: sovereign-build device install %s", d)
		}
		return e.Hintf("the command must lead to: sovereignd connect")
	case d.kind == bySSH && code == 255:
		return fault.Errorf(fault.Device, "ssh: %s", why).Hintf("see whether this works: ssh %s true", d.to)
	case strings.HasPrefix(why, "sovereignd: ") && fault.Class(code) >= fault.Internal && fault.Class(code) <= fault.Device:
		// Its codes are the classes of its errors.
		text, hint, _ := strings.Cut(why, "\nhint: ")
		return fault.Errorf(fault.Class(code), "%s", text).Hintf("%s", hint)
	}
	if said == "" {
		return fault.Wrap(fault.Device, status)
	}
	return fault.Errorf(fault.Device, "%s: %s", status, why)
}

// tail keeps the end of what is written.
type tail struct {
	mu   sync.Mutex
	text []byte
	cut  bool
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	if over := len(t.text) - maxSaid; over > 0 {
		t.text, t.cut = append(t.text[:0], t.text[over:]...), true
	}
	return len(b), nil
}

// String is the text, from the begin of a line.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := string(t.text)
	if t.cut {
		_, text, _ = strings.Cut(text, "\n")
	}
	return text
}

// Why is Err, for which it waits at most so long.
func (c *Conn) Why(limit time.Duration) error {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-c.done:
	case <-t.C:
	}
	return c.Err()
}

// LocalAddr and RemoteAddr are for net.Conn.
func (c *Conn) LocalAddr() net.Addr { return addr("local") }

// RemoteAddr is the device.
func (c *Conn) RemoteAddr() net.Addr { return addr(c.device.Short()) }

type addr string

func (addr) Network() string  { return "stdio" }
func (a addr) String() string { return string(a) }

var _ net.Conn = (*Conn)(nil)
