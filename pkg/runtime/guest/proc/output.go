package proc

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
)

// maxOutput is how much of a command's output Output keeps, in bytes. A pipe
// holds 64 KiB: a command that prints more than that blocks until its
// deadline.
const maxOutput = 4 << 10

// Result is the outcome of a command.
type Result struct {
	Status         syscall.WaitStatus
	Stdout, Stderr string // the end of each, at most 4 KiB
}

// Text is all that was printed, or how the command ended where that is
// nothing.
func (r Result) Text() string {
	if text := strings.TrimSpace(r.Stdout + r.Stderr); text != "" {
		return text
	}
	return Describe(r.Status)
}

// Output runs a command to its end. What is left of its process group is
// killed. The error is for a command that could not be started, or that ctx
// ended.
func (t *Table) Output(ctx context.Context, a Attr) (Result, error) {
	var pipes [2]*os.File
	for i, to := range []**os.File{&a.Stdout, &a.Stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			return Result{}, err
		}
		defer r.Close()
		defer w.Close()
		pipes[i], *to = r, w
	}
	p, err := t.Start(a)
	if err != nil {
		return Result{}, err
	}
	var res Result
	res.Status, err = p.Wait(ctx)
	err = errors.Join(err, p.KillSession())
	for i, to := range []*string{&res.Stdout, &res.Stderr} {
		// All that was printed is in the pipe; nobody is waited for who
		// inherited its other end.
		text, readErr := io.ReadAll(whatIsThere{pipes[i]})
		if len(text) > maxOutput {
			text = text[len(text)-maxOutput:]
		}
		*to, err = string(text), errors.Join(err, readErr)
	}
	return res, err
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
