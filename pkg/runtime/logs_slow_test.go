package runtime

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// The guest is done with a log before its first line is given: who takes his
// time over the lines does not meet its patience.
func TestLogsAreReadFirst(t *testing.T) {
	sent := make(chan struct{})
	const lines = 5000
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if _, err := w.Write([]byte(strings.Repeat("0123456789abcdef\n", lines))); err != nil {
			t.Error(err)
		}
		close(sent)
	})}
	host, guest := net.Pipe()
	l := &oneConn{conn: guest, closed: make(chan struct{})}
	go server.Serve(l) //nolint:errcheck // ends with Close
	defer server.Close()
	c := agent.NewStreams(func(context.Context) (net.Conn, error) { return host, nil })
	got := 0
	err := readLog(t.Context(), c, "postgresql", false, func(l LogLine) error {
		<-sent
		got++
		return nil
	})
	if err != nil || got != lines {
		t.Errorf("got %d lines, %v", got, err)
	}
}

// oneConn listens for one connection, which is there already.
type oneConn struct {
	conn   net.Conn
	closed chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}
func (l *oneConn) Close() error   { close(l.closed); return nil }
func (l *oneConn) Addr() net.Addr { return &net.UnixAddr{} }

func TestTooOld(t *testing.T) {
	m := (&Host{}).Machine("sql")
	for text, old := range map[string]bool{
		"guest agent: POST /v1/exec: 404 Not Found: 404 page not found":                true,
		"guest agent: PUT /v1/secrets/a/b: 405 Method Not Allowed: Method Not Allowed": true,
		"guest agent: GET /v1/secrets/a/b: 404 Not Found: a has no secret b":           false,
	} {
		err := m.tooOld(fault.Errorf(fault.Device, "%s", text))
		if got := strings.Contains(err.Error(), "too old"); got != old || got != (fault.HintOf(err) != "") {
			t.Errorf("%s: %v", text, err)
		}
	}
	if err := m.tooOld(nil); err != nil {
		t.Error(err)
	}
}
