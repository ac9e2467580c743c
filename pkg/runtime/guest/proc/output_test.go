package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A pipe holds 64 KiB; e2fsck prints a line for each of a thousand files.
func TestOutputIsDrained(t *testing.T) {
	tab := table(t)
	const lines = 20000 // of more than 64 KiB in all, to each pipe
	script := fmt.Sprintf(`i=0; while [ $i -lt %d ]; do echo "Clearing orphaned inode $i"; echo "inode $i" >&2; i=$((i+1)); done; exit 1`, lines)
	r, err := tab.Output(t.Context(), sh(script))
	if err != nil || r.Status.ExitStatus() != 1 || len(r.Stdout) != maxOutput || len(r.Stderr) != maxOutput ||
		!strings.HasSuffix(r.Stdout, fmt.Sprintf("\nClearing orphaned inode %d\n", lines-1)) ||
		!strings.HasSuffix(r.Stderr, fmt.Sprintf("\ninode %d\n", lines-1)) {
		t.Errorf("got %d, %d and %d bytes, %v", r.Status.ExitStatus(), len(r.Stdout), len(r.Stderr), err)
	}
}

// A command that ctx ends may end in order, and is killed where it does not.
func TestOutputIsCancelled(t *testing.T) {
	tab := table(t)
	for _, c := range []struct {
		name, script string
		grace        time.Duration
		status       string
	}{
		{"in order", "trap 'echo half way; exit 32' TERM; echo up >&3; while :; do sleep 0.01; done", time.Minute, "exit status 32"},
		{"TERM is ignored", "trap '' TERM; echo half way; echo up >&3; while :; do sleep 1000; done", time.Millisecond, "killed (signal 9)"},
		{"TERM is ignored, and both pipes are full", "trap '' TERM; head -c 200000 /dev/zero >&2; echo half way; echo up >&3; while :; do sleep 1000; done", time.Millisecond, "killed (signal 9)"},
	} {
		up, theirs, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		reason := errors.New("the machine goes off")
		go func() {
			io.ReadFull(up, make([]byte, 1)) //nolint:errcheck // it says up, or ended early
			cancel(reason)
		}()
		a := sh(strings.ReplaceAll(c.script, ">&3", fmt.Sprintf(">/proc/%d/fd/%d", os.Getpid(), theirs.Fd())))
		a.Capabilities = AllCapabilities // it opens a file of this process
		r, err := tab.output(ctx, a, c.grace)
		if !errors.Is(err, reason) || Describe(r.Status) != c.status || r.Stdout != "half way\n" {
			t.Errorf("%s: got %s, %q, %v", c.name, Describe(r.Status), r.Stdout, err)
		}
		theirs.Close()
		up.Close()
	}
}

// What is in a pipe is read also when its deadline is long over; an end that
// somebody holds open is told from one that nobody does.
func TestPipeReader(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data := bytes.Repeat([]byte("0123456789abcdef"), 4000)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := r.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(PipeReader{r}); !errors.Is(err, os.ErrDeadlineExceeded) || !bytes.Equal(got, data) {
		t.Errorf("held open: %d bytes, %v", len(got), err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if got, err := io.ReadAll(PipeReader{r}); err != nil || !bytes.Equal(got, data) {
		t.Errorf("closed: %d bytes, %v", len(got), err)
	}
	r.Close()
	if _, err := (PipeReader{r}).Read(make([]byte, 1)); !errors.Is(err, os.ErrClosed) && !errors.Is(err, syscall.EBADF) {
		t.Errorf("its own file closed: %v", err)
	}
}
