package proc

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"
)

// maxOutput is how much of a command's output Output keeps, in bytes. A pipe
// holds 64 KiB: a command that prints more than that blocks until its
// deadline.
const maxOutput = 4 << 10

// Output runs a command to its end and returns its status and the end of what
// it printed on both streams, at most 4 KiB. What is left of its process group
// is killed. The error is for a command that could not be started, or that ctx
// ended.
func (t *Table) Output(ctx context.Context, a Attr) (syscall.WaitStatus, string, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, "", err
	}
	defer r.Close()
	a.Stdout, a.Stderr = w, w
	p, err := t.Start(a)
	w.Close()
	if err != nil {
		return 0, "", err
	}
	status, err := p.Wait(ctx)
	err = errors.Join(err, p.KillSession())
	// All that was printed is in the pipe; nobody is waited for who inherited
	// its other end.
	text, readErr := io.ReadAll(whatIsThere{r})
	if len(text) > maxOutput {
		text = text[len(text)-maxOutput:]
	}
	return status, string(text), errors.Join(err, readErr)
}

// whatIsThere reads a pipe, which Go has made non-blocking, without waiting for
// more to come.
type whatIsThere struct{ pipe *os.File }

func (w whatIsThere) Read(b []byte) (int, error) {
	raw, err := w.pipe.SyscallConn()
	if err != nil {
		return 0, err
	}
	n := 0
	var readErr error
	if err := raw.Control(func(fd uintptr) { n, readErr = syscall.Read(int(fd), b) }); err != nil {
		return 0, err
	}
	if n <= 0 && (readErr == nil || errors.Is(readErr, syscall.EAGAIN)) {
		return 0, io.EOF
	}
	return max(n, 0), readErr
}
