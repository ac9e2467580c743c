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
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/sovereign-build/sovereign/internal/muxhttp"
)

// maxArgs bounds the arguments, and the variables, of an exec.
const maxArgs = 1024

// signals are the names a signal frame may have.
func signals() []string { return []string{"HUP", "INT", "QUIT", "KILL", "USR1", "USR2", "TERM"} }

// exec answers with a stream of frames in place of HTTP.
func (h *handler) exec(w http.ResponseWriter, r *http.Request, o Operator) {
	if !muxhttp.Wants(w, r, ExecProtocol) {
		return
	}
	release := h.execs.Take(w)
	if release == nil {
		return
	}
	defer release()
	text, ok := readBody(w, r, maxExecRequest)
	if !ok {
		return
	}
	req, err := parseExec(text)
	if err != nil {
		http.Error(w, "exec: "+err.Error(), http.StatusBadRequest)
		return
	}
	conn, in, err := muxhttp.Upgrade(w, ExecProtocol)
	if err != nil {
		return // the host is gone
	}
	defer conn.Close()
	// The host may be slow to read, as a pager is; its end shows on the
	// other half.
	serveExec(r.Context(), in, conn, conn.Close, req, o)
}

// parseExec reads and checks a request.
func parseExec(text []byte) (ExecRequest, error) {
	var r ExecRequest
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return r, err
	}
	if d.More() {
		return r, errors.New("more than one request")
	}
	if len(r.Argv) == 0 || r.Argv[0] == "" {
		return r, errors.New("argv is empty")
	}
	if len(r.Argv) > maxArgs || len(r.Env) > maxArgs {
		return r, fmt.Errorf("%d arguments, %d variables: want at most %d of each", len(r.Argv), len(r.Env), maxArgs)
	}
	texts := append(slices.Clone(r.Argv), r.User, r.Dir)
	for k, v := range r.Env {
		if k == "" || strings.Contains(k, "=") {
			return r, fmt.Errorf("env %q: not a variable's name", k)
		}
		texts = append(texts, k, v)
	}
	for _, s := range texts {
		if strings.Contains(s, "\x00") {
			return r, fmt.Errorf("%q: a zero byte", s)
		}
	}
	if r.Dir != "" && !path.IsAbs(r.Dir) {
		return r, fmt.Errorf("dir %q: want an absolute path", r.Dir)
	}
	return r, nil
}

// serveExec is the guest's side of an exec's stream: it runs the program until
// that ends, or until the host's half of the stream does. It returns when the
// host has closed the stream: what is still on its way to a host that takes its
// time would be lost with this half.
func serveExec(ctx context.Context, in io.Reader, conn io.Writer, hangUp func() error, req ExecRequest, o Operator) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out := &lockedWriter{w: conn}
	p := &execPeer{stdin: newInbox(func(n int) error {
		return muxhttp.WriteFrame(out, frameTaken, binary.BigEndian.AppendUint32(nil, uint32(n)))
	}),
		resize: make(chan Size, 1), signals: make(chan string, 8)}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		// Whatever ends the host's half ends the program. A write that hangs
		// because the host does not read is ended too.
		p.read(in)
		cancel()
		p.stdin.close()
		hangUp() //nolint:errcheck // the stream is done with
	}()
	code, err := o.Exec(ctx, req, ExecIO{Stdin: p.stdin, Resize: p.resize, Signals: p.signals,
		Stdout: frameWriter{out, frameStdout}, Stderr: frameWriter{out, frameStderr}})
	p.stdin.close()
	last, text := byte(frameExit), []byte{byte(code)}
	if err != nil {
		text = []byte(err.Error())
		last, text = frameError, text[:min(len(text), 4096)]
	}
	if muxhttp.WriteFrame(out, last, text) != nil {
		hangUp() //nolint:errcheck // the host is gone
	}
	<-gone
}

// execPeer takes the host's frames apart.
type execPeer struct {
	stdin   *inbox
	resize  chan Size
	signals chan string
}

// read returns at the end of the stream, or at a frame that is none.
func (p *execPeer) read(in io.Reader) {
	buf := make([]byte, muxhttp.MaxFrame)
	for {
		kind, b, err := muxhttp.ReadFrame(in, buf)
		if err != nil || !p.take(kind, b) {
			return
		}
	}
}

func (p *execPeer) take(kind byte, b []byte) bool {
	switch {
	case kind == frameStdin && len(b) == 0:
		p.stdin.end()
		return true
	case kind == frameStdin:
		return p.stdin.put(b)
	case kind == frameResize && len(b) == 4:
		size := Size{Rows: binary.BigEndian.Uint16(b), Cols: binary.BigEndian.Uint16(b[2:])}
		select { // only the last size counts
		case <-p.resize:
		default:
		}
		p.resize <- size
		return true
	case kind == frameSignal && slices.Contains(signals(), string(b)):
		select {
		case p.signals <- string(b):
		default: // eight wait already
		}
		return true
	}
	return false
}

// An inbox is a program's standard input on its way: what the host has sent
// and the program has not read yet, at most stdinWindow bytes. The host is
// told what was taken, and sends no more than fits: so that the stream is
// always read, and a signal, or the stream's end, is seen at once.
type inbox struct {
	taken func(n int) error

	mu     sync.Mutex
	cond   sync.Cond
	buf    []byte
	ended  bool // by the host: what is there may still be read
	closed bool // by the guest
}

func newInbox(taken func(int) error) *inbox {
	b := &inbox{taken: taken}
	b.cond.L = &b.mu
	return b
}

// put says whether there was room.
func (b *inbox) put(p []byte) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended || len(b.buf)+len(p) > stdinWindow {
		return false
	}
	b.buf = append(b.buf, p...)
	b.cond.Broadcast()
	return true
}

func (b *inbox) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	b.cond.Broadcast()
}

func (b *inbox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.cond.Broadcast()
}

// Read implements io.Reader. The end is io.EOF only where the host said so: a
// program that takes the end of a connection for that of its input does half of
// what it was to do, and says that it did all.
func (b *inbox) Read(p []byte) (int, error) {
	b.mu.Lock()
	for len(b.buf) == 0 && !b.ended && !b.closed {
		b.cond.Wait()
	}
	switch {
	case b.closed:
		b.mu.Unlock()
		return 0, io.ErrUnexpectedEOF
	case len(b.buf) == 0:
		b.mu.Unlock()
		return 0, io.EOF
	}
	n := copy(p, b.buf)
	b.buf = append(b.buf[:0], b.buf[n:]...)
	b.mu.Unlock()
	return n, b.taken(n)
}
