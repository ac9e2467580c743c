package agent

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strings"
	"testing"
)

// replicator is a guest with a service that gives its log away: it says in
// capitals what it hears.
type replicator struct {
	fakeGuest
	ended chan struct{} // closed when the service's end of the stream is
}

func (g *replicator) DialLog(_ context.Context, service string) (net.Conn, error) {
	if service != "postgresql" {
		return nil, fmt.Errorf("service %q has no log of changes: %w", service, fs.ErrNotExist)
	}
	ours, theirs := net.Pipe()
	go func() {
		defer close(g.ended)
		buf := make([]byte, 100)
		for {
			n, err := ours.Read(buf)
			if err != nil {
				return
			}
			if _, err := io.WriteString(ours, strings.ToUpper(string(buf[:n]))); err != nil {
				return
			}
		}
	}()
	return theirs, nil
}

func TestDialLog(t *testing.T) {
	g := &replicator{ended: make(chan struct{})}
	c := dial(t, line(t, g))
	ctx, cancel := context.WithCancel(t.Context())
	s, err := c.DialLog(ctx, "postgresql")
	if err != nil {
		t.Fatal(err)
	}
	cancel() // it was for opening it
	for _, text := range []string{"begin", "more"} {
		if _, err := io.WriteString(s, text); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, len(text))
		if _, err := io.ReadFull(s, buf); err != nil || string(buf) != strings.ToUpper(text) {
			t.Fatalf("%q, %v", buf, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	<-g.ended
	if _, err := c.DialLog(t.Context(), "tailscale"); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("a service without one: %v", err)
	}
	if _, err := dial(t, line(t, &fakeGuest{})).DialLog(t.Context(), "postgresql"); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("a guest that knows none: %v", err)
	}
}
