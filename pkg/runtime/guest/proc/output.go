package proc

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"time"
)

const (
	// maxOutput is how much of a command's output Output keeps, in bytes.
	maxOutput = 4 << 10
	// termGrace is how long a command that ctx ends may take to end in order:
	// e2fsck leaves off a repair where it does no harm.
	termGrace = 5 * time.Second
)

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

// Output runs a command to its end, however much it prints. When ctx ends, the
// command's process group gets TERM, and KILL 5 s later; in any case what is
// left of the group at the command's end is killed. The error is for a command
// that could not be started, or that ctx ended; Status and what was printed are
// there in that case too, Status only if the command did end.
func (t *Table) Output(ctx context.Context, a Attr) (Result, error) {
	return t.output(ctx, a, termGrace)
}

func (t *Table) output(ctx context.Context, a Attr, grace time.Duration) (Result, error) {
	var stdout, stderr capture
	err := errors.Join(stdout.open(&a.Stdout), stderr.open(&a.Stderr))
	var p *Process
	if err == nil {
		p, err = t.Start(a)
	}
	if err != nil {
		_, outErr := stdout.finish()
		_, errErr := stderr.finish()
		return Result{}, errors.Join(err, outErr, errErr)
	}
	// The command's own ends keep the pipes open from here on.
	stdout.begin()
	stderr.begin()
	var res Result
	res.Status, err = p.end(ctx, grace)
	err = errors.Join(err, p.KillSession())
	var outErr, errErr error
	res.Stdout, outErr = stdout.finish()
	res.Stderr, errErr = stderr.finish()
	return res, errors.Join(err, outErr, errErr)
}

// end waits for the end of the process; when ctx ends first, it asks the
// process's group to end, and has grace for that.
func (p *Process) end(ctx context.Context, grace time.Duration) (syscall.WaitStatus, error) {
	select {
	case <-p.done:
		return p.status, nil
	case <-ctx.Done():
	}
	err := errors.Join(context.Cause(ctx), p.SignalGroup(syscall.SIGTERM))
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
		return p.status, err
	case <-timer.C:
	}
	status, waitErr := p.Wait(ctx) // which has ended: KILL
	if waitErr != nil {
		err = waitErr
	}
	return status, err
}

// A capture keeps the end of what a command prints to a pipe, which is read
// while the command runs.
type capture struct {
	r, w   *os.File
	text   tailBuffer
	copied chan error
}

// open makes the pipe, whose other end is the command's.
func (c *capture) open(theirs **os.File) (err error) {
	c.r, c.w, err = os.Pipe()
	*theirs = c.w
	return err
}

// begin reads the pipe, which the command has.
func (c *capture) begin() {
	c.w.Close()
	c.copied = make(chan error, 1)
	go func() {
		_, err := io.Copy(&c.text, PipeReader{c.r})
		c.copied <- err
	}()
}

// finish returns the end of what was printed; nobody is waited for who
// inherited the pipe.
func (c *capture) finish() (string, error) {
	if c.r == nil {
		return "", nil
	}
	defer c.r.Close()
	if c.copied == nil { // it was not begun
		return "", c.w.Close()
	}
	if err := c.r.SetReadDeadline(time.Unix(1, 0)); err != nil {
		return "", err
	}
	if err := <-c.copied; err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return "", err
	}
	return string(c.text), nil
}

// tailBuffer keeps the last maxOutput bytes that are written.
type tailBuffer []byte

func (b *tailBuffer) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	if len(*b) > maxOutput {
		*b = append((*b)[:0], (*b)[len(*b)-maxOutput:]...)
	}
	return len(p), nil
}
