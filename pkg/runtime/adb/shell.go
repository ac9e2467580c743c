package adb

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Run runs a command in the phone's shell, until it ends: nil for exit code 0,
// an *ExitError for another one, ErrLost where the connection broke. The command
// is read by the phone's sh, as the user that adbd runs as. Its standard input
// ends with stdin's, which may be nil. When ctx ends, so does the connection; the
// command then gets SIGHUP.
//
// A writer that fails ends the connection with its error. Where stdin does not
// end by itself, Run does not wait for it: whoever has it closes it.
func (s *Server) Run(ctx context.Context, serial, command string, stdin io.Reader, stdout, stderr io.Writer) error {
	if strings.ContainsRune(command, 0) {
		return fault.Errorf(fault.Usage, "a command holds a zero byte")
	}
	conn, err := s.Open(ctx, serial, "shell,v2,raw:"+command)
	if err != nil {
		return s.oldPhone(ctx, serial, err)
	}
	defer conn.Close()
	defer bound(ctx, conn, 0)()
	if stdin == nil {
		stdin = strings.NewReader("")
	}
	if stdout == nil {
		stdout = io.Discard
	}
	if stderr == nil {
		stderr = io.Discard
	}
	var input feeding
	go input.feed(conn, stdin)
	code, err := demux(conn, stdout, stderr)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		if own := input.failure(); own != nil && errors.Is(err, net.ErrClosed) {
			return own
		}
		return fault.Wrap(fault.Device, lost(err))
	case code != 0:
		return &ExitError{code}
	}
	return nil
}

// oldPhone says so where a phone is too old for exit codes.
func (s *Server) oldPhone(ctx context.Context, serial string, err error) error {
	var r *Refusal
	if !errors.As(err, &r) || r.Kind != Other || ctx.Err() != nil {
		return err
	}
	features, askErr := s.Features(ctx, serial)
	if askErr == nil && !slices.Contains(features, "shell_v2") {
		return fault.Errorf(fault.Device, "its adbd has no shell_v2, without which no exit code is known").
			Hintf("Android 7 and later have it")
	}
	return err
}

// feeding sends standard input.
type feeding struct {
	mu  sync.Mutex
	err error
}

func (f *feeding) failure() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

func (f *feeding) feed(conn net.Conn, stdin io.Reader) {
	buf := make([]byte, chunk)
	for {
		n, err := stdin.Read(buf)
		if n > 0 && writePacket(conn, kindStdin, buf[:n]) != nil {
			return // its reader says that the connection has ended
		}
		if errors.Is(err, io.EOF) {
			_ = writePacket(conn, kindCloseStdin, nil) // as above
			return
		}
		if err != nil {
			// A part must not pass for the whole.
			f.mu.Lock()
			f.err = err
			f.mu.Unlock()
			conn.Close()
			return
		}
	}
}

// maxOutput bounds what Output keeps.
const maxOutput = 1 << 20

// Output runs a command without input and returns what it has printed, at most
// 1 MiB. An *ExitError comes with the end of its standard error.
func (s *Server) Output(ctx context.Context, serial, command string) (string, error) {
	out, errs := &limited{n: maxOutput}, &limited{n: maxOutput}
	err := s.Run(ctx, serial, command, nil, out, errs)
	if err != nil {
		if said := oneLine(strings.TrimSpace(errs.String())); said != "" {
			err = fault.Errorf(fault.ClassOf(err), "%w: %s", err, said).Hintf("%s", fault.HintOf(err))
		}
		return out.String(), err
	}
	return out.String(), nil
}

// limited keeps n bytes, and fails at more.
type limited struct {
	bytes.Buffer
	n int
}

func (l *limited) Write(b []byte) (int, error) {
	if l.Len()+len(b) > l.n {
		return 0, fault.Errorf(fault.Device, "the command prints more than %d bytes", l.n)
	}
	return l.Buffer.Write(b)
}

// Quote is a word as the phone's sh reads it.
func Quote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }
