package machine

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"

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
	s := &session{agent.NewStreams(func(context.Context) (net.Conn, error) { return host, nil }), func() {}}
	got := 0
	err := readLog(t.Context(), s, "postgresql", false, func(l LogLine) error {
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
