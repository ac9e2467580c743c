package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/internal/muxhttp"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// operatedGuest is an Operator whose programs are functions of Go.
type operatedGuest struct {
	fakeGuest
	programs map[string]func(ctx context.Context, r ExecRequest, io ExecIO) (int, error)
}

func (g *operatedGuest) Exec(ctx context.Context, r ExecRequest, std ExecIO) (int, error) {
	p, ok := g.programs[r.Argv[0]]
	if !ok {
		return 0, fmt.Errorf("%s: no such program", r.Argv[0])
	}
	return p(ctx, r, std)
}
func (g *operatedGuest) SetSecret(_ context.Context, service, name, value string) error {
	return g.note("set " + service + "/" + name + "=" + value)
}
func (g *operatedGuest) RotateSecret(_ context.Context, service, name string) error {
	return g.note("rotate " + service + "/" + name)
}
func (g *operatedGuest) RestartService(_ context.Context, service string) error {
	return g.note("restart " + service)
}
func (g *operatedGuest) Boot() Boot {
	return Boot{Phases: []Phase{{Name: "kernel", EndMS: 12.5}, {Name: "mounts", StartMS: 12.5, EndMS: 13}}}
}
func (g *operatedGuest) Metrics(w io.Writer) error {
	_, err := io.WriteString(w, "up 1\n")
	return err
}
func (g *operatedGuest) Grow(context.Context) error { return errors.New("grow: no") }

func programs() map[string]func(context.Context, ExecRequest, ExecIO) (int, error) {
	return map[string]func(context.Context, ExecRequest, ExecIO) (int, error){
		"cat": func(_ context.Context, _ ExecRequest, std ExecIO) (int, error) {
			n, err := io.Copy(std.Stdout, std.Stdin)
			fmt.Fprintf(std.Stderr, "%d bytes", n)
			return 7, err
		},
		"env": func(_ context.Context, r ExecRequest, std ExecIO) (int, error) {
			for _, k := range slices.Sorted(maps.Keys(r.Env)) {
				fmt.Fprintf(std.Stdout, "%s=%s\n", k, r.Env[k])
			}
			fmt.Fprintf(std.Stdout, "%s %s %v %d %d", r.User, r.Dir, r.TTY, r.Rows, r.Cols)
			return 0, nil
		},
		"stty": func(_ context.Context, _ ExecRequest, std ExecIO) (int, error) {
			s := <-std.Resize
			fmt.Fprintf(std.Stdout, "%d %d %s", s.Rows, s.Cols, <-std.Signals)
			return 130, nil
		},
	}
}

func operated(t *testing.T) (*operatedGuest, *Client) {
	t.Helper()
	g := &operatedGuest{programs: programs()}
	return g, dial(t, line(t, g))
}

func TestExec(t *testing.T) {
	_, c := operated(t)
	in := strings.Repeat("0123456789abcdef", 40<<10) // many windows
	var out, stderr bytes.Buffer
	code, err := c.Exec(t.Context(), ExecRequest{Argv: []string{"cat"}}, ExecIO{Stdin: strings.NewReader(in), Stdout: &out, Stderr: &stderr})
	if err != nil || code != 7 || out.String() != in || stderr.String() != fmt.Sprintf("%d bytes", len(in)) {
		t.Errorf("cat: got %d, %v, %d bytes, %q", code, err, out.Len(), stderr.String())
	}
	out.Reset()
	code, err = c.Exec(t.Context(), ExecRequest{Argv: []string{"env"}, User: "postgres", Dir: "/tmp", Env: map[string]string{"A": "b c", "D": ""}, TTY: true, Rows: 3, Cols: 4},
		ExecIO{Stdout: &out})
	if err != nil || code != 0 || out.String() != "A=b c\nD=\npostgres /tmp true 3 4" {
		t.Errorf("env: got %d, %v, %q", code, err, out.String())
	}
	out.Reset()
	sizes, sigs := make(chan Size, 1), make(chan string, 1)
	sizes <- Size{50, 132}
	sigs <- "INT"
	code, err = c.Exec(t.Context(), ExecRequest{Argv: []string{"stty"}}, ExecIO{Stdout: &out, Resize: sizes, Signals: sigs})
	if err != nil || code != 130 || out.String() != "50 132 INT" {
		t.Errorf("stty: got %d, %v, %q", code, err, out.String())
	}
	_, err = c.Exec(t.Context(), ExecRequest{Argv: []string{"nope"}}, ExecIO{})
	if err == nil || fault.ClassOf(err) != fault.Device || !strings.Contains(err.Error(), "no such program") {
		t.Errorf("nope: got %v", err)
	}
	for _, r := range []ExecRequest{{}, {Argv: []string{"cat"}, Dir: "tmp"}, {Argv: []string{"a\x00"}}, {Argv: []string{"cat"}, Env: map[string]string{"A=": ""}},
		{Argv: make([]string, maxArgs+1)}, {Argv: []string{strings.Repeat("x", maxExecRequest)}}} {
		if _, err := c.Exec(t.Context(), r, ExecIO{}); err == nil {
			t.Errorf("%.80v: no error", r)
		}
	}
	checkStatus(t, c)
}

// A program is told when its host goes, also while neither reads.
func TestExecEndsWithTheCaller(t *testing.T) {
	g, c := operated(t)
	started := make(chan struct{})
	g.programs["yes"] = func(ctx context.Context, _ ExecRequest, std ExecIO) (int, error) {
		close(started)
		for ctx.Err() == nil {
			if _, err := std.Stdout.Write(make([]byte, 4096)); err != nil {
				break
			}
		}
		<-ctx.Done()
		g.note("yes ended")
		return 0, ctx.Err()
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := c.Exec(ctx, ExecRequest{Argv: []string{"yes"}}, ExecIO{Stdin: endless{}, Stdout: onlyFirst{ctx}})
		ended <- err
	}()
	<-started
	cancel()
	if err := <-ended; fault.ClassOf(err) != fault.Cancelled {
		t.Errorf("got %v", err)
	}
	g.waitFor(t, "yes ended")
	checkStatus(t, c)
}

// endless is a standard input without an end.
type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

// onlyFirst takes no more until ctx ends.
type onlyFirst struct{ ctx context.Context }

func (o onlyFirst) Write(b []byte) (int, error) {
	<-o.ctx.Done()
	return 0, o.ctx.Err()
}

func TestExecsAreLimited(t *testing.T) {
	g, c := operated(t)
	running := make(chan struct{}, maxExecs)
	g.programs["wait"] = func(ctx context.Context, _ ExecRequest, std ExecIO) (int, error) {
		running <- struct{}{}
		io.Copy(io.Discard, std.Stdin)
		return 0, nil
	}
	end, results := make([]*io.PipeWriter, maxExecs), make(chan error, maxExecs)
	for i := range maxExecs {
		var in *io.PipeReader
		in, end[i] = io.Pipe()
		go func() {
			_, err := c.Exec(t.Context(), ExecRequest{Argv: []string{"wait"}}, ExecIO{Stdin: in})
			results <- err
		}()
	}
	for range maxExecs {
		<-running
	}
	if _, err := c.Exec(t.Context(), ExecRequest{Argv: []string{"wait"}}, ExecIO{}); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("one too many: got %v", err)
	}
	checkStatus(t, c) // others have slots of their own
	for i := range maxExecs {
		end[i].Close()
	}
	for range maxExecs {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

func TestOperator(t *testing.T) {
	g, c := operated(t)
	ctx := t.Context()
	if err := c.SetSecret(ctx, "tailscale", "auth key", "tskey-1"); err != nil {
		t.Error(err)
	}
	g.waitFor(t, "set tailscale/auth key=tskey-1")
	for _, v := range []string{"", strings.Repeat("x", MaxSecret+1)} {
		if err := c.SetSecret(ctx, "a", "b", v); err == nil {
			t.Errorf("a secret of %d bytes was sent", len(v))
		}
	}
	if err := c.RotateSecret(ctx, "postgresql", "password"); err != nil {
		t.Error(err)
	}
	g.waitFor(t, "rotate postgresql/password")
	if err := c.RestartService(ctx, "postgresql"); err != nil {
		t.Error(err)
	}
	g.waitFor(t, "restart postgresql")
	if b, err := c.Boot(ctx); err != nil || len(b.Phases) != 2 || b.Phases[0].EndMS != 12.5 {
		t.Errorf("boot: %+v, %v", b, err)
	}
	if m, err := c.Metrics(ctx); err != nil || string(m) != "up 1\n" {
		t.Errorf("metrics: %q, %v", m, err)
	}
	if err := c.Grow(ctx); err == nil || !strings.Contains(err.Error(), "grow: no") {
		t.Errorf("grow: %v", err)
	}
	plain := dial(t, line(t, &fakeGuest{}))
	if _, err := plain.Boot(ctx); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("boot of a guest that is no Operator: %v", err)
	}
}

func TestNewStreams(t *testing.T) {
	g := &operatedGuest{programs: programs()}
	under := dial(t, line(t, g))
	c := NewStreams(under.session.Open)
	defer c.Close()
	for range 3 * MaxStreams { // each is given back
		checkStatus(t, c)
	}
	var out bytes.Buffer
	if code, err := c.Exec(t.Context(), ExecRequest{Argv: []string{"cat"}}, ExecIO{Stdin: strings.NewReader("x"), Stdout: &out}); err != nil || code != 7 || out.String() != "x" {
		t.Errorf("exec: %d, %v, %q", code, err, out.String())
	}
}

// FuzzExecFrames gives the guest's side of an exec any bytes from the host, and
// the host's side any bytes from the guest.
func FuzzExecFrames(f *testing.F) {
	frames := func(kinds string, data ...string) []byte {
		var b bytes.Buffer
		for i, k := range []byte(kinds) {
			muxhttp.WriteFrame(&b, k, []byte(data[i]))
		}
		return b.Bytes()
	}
	f.Add(frames("iiws", "hello", "", "\x00\x18\x00\x50", "TERM"))
	f.Add(frames("oetx", "out", "err", "\x00\x00\x00\x05", "\x07"))
	f.Add(frames("!", "no such program"))
	f.Add([]byte("i\xff\xffabc"))
	g := &operatedGuest{programs: map[string]func(context.Context, ExecRequest, ExecIO) (int, error){
		"fuzz": func(ctx context.Context, _ ExecRequest, std ExecIO) (int, error) {
			n, err := io.Copy(std.Stdout, std.Stdin)
			if n > 1<<20 {
				return 1, err
			}
			<-ctx.Done()
			return 0, err
		}}}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<20 {
			return
		}
		serveExec(t.Context(), bytes.NewReader(data), io.Discard, func() error { return nil }, ExecRequest{Argv: []string{"fuzz"}}, g)
		var out limitedBuffer
		_, _ = execHost(struct {
			io.Reader
			io.Writer
			io.Closer
		}{bytes.NewReader(data), io.Discard, io.NopCloser(nil)}, ExecIO{Stdin: strings.NewReader("some"), Stdout: &out, Stderr: &out})
		if out.n > len(data) {
			t.Errorf("%d bytes of output from %d", out.n, len(data))
		}
	})
}

type limitedBuffer struct{ n int }

func (l *limitedBuffer) Write(b []byte) (int, error) { l.n += len(b); return len(b), nil }

// More streams than the guest takes wait for their turn, where yamux would end
// the session, and everybody's streams with it.
func TestOpenWaitsForItsTurn(t *testing.T) {
	_, c := operated(t)
	open := make([]net.Conn, MaxStreams)
	for i := range open {
		var err error
		if open[i], err = c.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		_, err := c.Open(ctx)
		failed <- err
	}()
	asked := make(chan error)
	go func() {
		_, err := c.Status(t.Context())
		asked <- err
	}()
	cancel()
	if err := <-failed; fault.ClassOf(err) != fault.Cancelled || !strings.Contains(err.Error(), "32 streams are open") && !strings.Contains(err.Error(), "canceled") {
		t.Errorf("got %v", err)
	}
	for _, s := range open {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := <-asked; err != nil {
		t.Error(err)
	}
	checkStatus(t, c)
}
