package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// stalled takes nothing until go on is closed.
type stalled struct {
	bytes.Buffer
	goOn <-chan struct{}
}

func (s *stalled) Write(b []byte) (int, error) {
	<-s.goOn
	return s.Buffer.Write(b)
}

// A host that takes nothing until the program has long ended gets all the same,
// and then the exit code.
func TestExecIntoAReaderThatStalls(t *testing.T) {
	g, c := operated(t)
	data := make([]byte, 300<<10) // more than a window, which the host has already
	rand.NewChaCha8([32]byte{1}).Read(data)
	ended := make(chan struct{})
	first := data[:200<<10]
	g.programs["dump"] = func(_ context.Context, _ ExecRequest, std ExecIO) (int, error) {
		_, err := std.Stdout.Write(first)
		close(ended)
		if err == nil {
			_, err = std.Stdout.Write(data[len(first):])
		}
		return 3, err
	}
	out := &stalled{goOn: ended}
	code, err := c.Exec(t.Context(), ExecRequest{Argv: []string{"dump"}}, ExecIO{Stdout: out})
	if err != nil || code != 3 || !bytes.Equal(out.Bytes(), data) {
		t.Errorf("got %d, %v, %d of %d bytes", code, err, out.Len(), len(data))
	}
}

// The guest's half of the stream stays open until the host has closed its own:
// yamux throws away what is unread half a minute after an end.
func TestExecWaitsForTheHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &operatedGuest{programs: map[string]func(context.Context, ExecRequest, ExecIO) (int, error){
			"true": func(context.Context, ExecRequest, ExecIO) (int, error) { return 0, nil },
		}}
		in, host := io.Pipe()
		var sent bytes.Buffer
		closed, returned := false, false
		go func() {
			serveExec(t.Context(), in, &sent, func() error { closed = true; return nil }, ExecRequest{Argv: []string{"true"}}, g)
			returned = true
		}()
		synctest.Wait()
		if sent.String() != "x\x00\x01\x00" || closed || returned {
			t.Errorf("sent %q, closed %v, returned %v", sent.String(), closed, returned)
		}
		host.Close()
		synctest.Wait()
		if !closed || !returned {
			t.Errorf("closed %v, returned %v", closed, returned)
		}
	})
}

// A standard input that fails is no shorter input: neither the caller nor the
// program takes it for one.
func TestExecStdinFails(t *testing.T) {
	g, c := operated(t)
	read := make(chan error, 1)
	g.programs["sql"] = func(ctx context.Context, _ ExecRequest, std ExecIO) (int, error) {
		_, err := io.Copy(io.Discard, std.Stdin)
		read <- err
		<-ctx.Done() // it is killed
		return 0, ctx.Err()
	}
	wrong := errors.New("input/output error")
	in := io.MultiReader(strings.NewReader("DELETE FROM orders "), iotest.ErrReader(wrong))
	_, err := c.Exec(t.Context(), ExecRequest{Argv: []string{"sql"}}, ExecIO{Stdin: in})
	if !errors.Is(err, wrong) || fault.ClassOf(err) != fault.Environment || !strings.Contains(err.Error(), "standard input") || fault.HintOf(err) == "" {
		t.Errorf("the caller got %v", err)
	}
	if err := <-read; err == nil {
		t.Error("the program read an end")
	}
	checkStatus(t, c)
}

// Nor is the end of a connection the end of an input.
func TestExecStdinIsLost(t *testing.T) {
	g, c := operated(t)
	read, started := make(chan error, 1), make(chan struct{})
	g.programs["sql"] = func(_ context.Context, _ ExecRequest, std ExecIO) (int, error) {
		close(started)
		_, err := io.Copy(io.Discard, std.Stdin)
		read <- err
		return 0, nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	in, _ := io.Pipe()
	go func() {
		_, err := c.Exec(ctx, ExecRequest{Argv: []string{"sql"}}, ExecIO{Stdin: in})
		ended <- err
	}()
	<-started
	cancel()
	if err := <-ended; err == nil {
		t.Error("no error")
	}
	if err := <-read; !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the program read %v", err)
	}
}

// An output that takes no more ends exec with an error, and the program.
func TestExecOutputFails(t *testing.T) {
	g, c := operated(t)
	g.programs["yes"] = func(ctx context.Context, _ ExecRequest, std ExecIO) (int, error) {
		for {
			if _, err := std.Stdout.Write(make([]byte, 4096)); err != nil {
				g.note("yes ended")
				return 0, err
			}
		}
	}
	full := errors.New("no space left on device")
	_, err := c.Exec(t.Context(), ExecRequest{Argv: []string{"yes"}}, ExecIO{Stdout: failing{full}})
	if !errors.Is(err, full) || fault.ClassOf(err) != fault.Environment || !strings.Contains(err.Error(), "standard output") {
		t.Errorf("got %v", err)
	}
	g.waitFor(t, "yes ended")
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// A log that breaks off does not end as a whole one does.
func TestLogsBreakOff(t *testing.T) {
	c := dial(t, line(t, brokenLog{&fakeGuest{}}))
	log, err := c.Logs(t.Context(), "postgresql", false)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if b, err := io.ReadAll(log); err == nil {
		t.Errorf("%q was all, without an error", b)
	}
}

type brokenLog struct{ *fakeGuest }

func (brokenLog) Logs(context.Context, string, bool) (io.ReadCloser, error) {
	return io.NopCloser(io.MultiReader(strings.NewReader("a line\n"), iotest.ErrReader(errors.New("gone")))), nil
}
