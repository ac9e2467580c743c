package control

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// streamSession has a handler that takes each raw stream.
func streamSession(t *testing.T, take func(*Stream)) *Session {
	t.Helper()
	s, err := pair(t, NewHello(""), NewHello(""), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, err := Accept(w, r); err == nil {
			defer c.Close()
			take(c)
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Each direction ends by itself: all that was sent comes back after the end.
func TestStreamHalfClose(t *testing.T) {
	s := streamSession(t, func(c *Stream) {
		all, err := io.ReadAll(c)
		if err != nil {
			t.Errorf("the server reads: %v", err)
		}
		if _, err := c.Write(bytes.ToUpper(all)); err != nil {
			t.Error(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Error(err)
		}
	})
	c, err := s.Upgrade(t.Context(), "/")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	text := strings.Repeat("abc", 100_000)
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Write([]byte("more")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after its end: %v", err)
	}
	got, err := io.ReadAll(c)
	if string(got) != strings.ToUpper(text) || err != nil {
		t.Errorf("got %d bytes of %d, %v", len(got), len(text), err)
	}
}

// A stream that is closed without its end is no end: a part is not the whole.
func TestStreamBreaks(t *testing.T) {
	s := streamSession(t, func(c *Stream) {
		_, _ = io.WriteString(c, "half of it") // the client may be gone
	})
	c, err := s.Upgrade(t.Context(), "/")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := io.ReadAll(c); string(got) != "half of it" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %q, %v", got, err)
	}
}

// Joined connections: the end of one direction is passed on alone, a break
// breaks both.
func TestJoin(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	joined := make(chan struct{}, 3)
	s := streamSession(t, func(c *Stream) {
		out, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		Join(c, out.(*net.TCPConn))
		joined <- struct{}{}
	})
	open := func() (*Stream, *net.TCPConn) {
		t.Helper()
		c, err := s.Upgrade(t.Context(), "/")
		if err != nil {
			t.Fatal(err)
		}
		service, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close(); service.Close() })
		return c, service.(*net.TCPConn)
	}

	c, service := open()
	if _, err := io.WriteString(c, "query"); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(service); string(got) != "query" || err != nil {
		t.Errorf("the service got %q, %v", got, err)
	}
	if _, err := io.WriteString(service, "result"); err != nil {
		t.Fatal(err)
	}
	service.Close()
	if got, err := io.ReadAll(c); string(got) != "result" || err != nil {
		t.Errorf("the client got %q, %v", got, err)
	}
	<-joined

	// The service is reset.
	c, service = open()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(service, make([]byte, 1)); err != nil { // it is joined
		t.Fatal(err)
	}
	if err := service.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	service.Close()
	if _, err := io.ReadAll(c); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a reset: %v", err)
	}
	<-joined

	// The client has said all, and goes away while the service still talks.
	c, service = open()
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	c.Close()
	<-joined
	if _, err := io.ReadAll(service); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Error(err)
	}
}

// A stream that is not asked for by an upgrade, or that the handler refuses.
func TestUpgradeRefused(t *testing.T) {
	s, err := pair(t, NewHello(""), NewHello(""), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/absent" {
			http.NotFound(w, r)
			return
		}
		if c, err := Accept(w, r); err == nil {
			c.Close()
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Upgrade(t.Context(), "/absent"); !errors.Is(err, ErrAbsent) {
		t.Errorf("got %v", err)
	}
	if err := s.Call(t.Context(), http.MethodPost, "/", nil, nil); err == nil || !strings.Contains(err.Error(), "want Upgrade: "+StreamProtocol) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Upgrade(ctx, "/"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// A deadline ends a read, and the stream goes on after it.
func TestStreamDeadline(t *testing.T) {
	say := make(chan string)
	s := streamSession(t, func(c *Stream) {
		for text := range say {
			if _, err := io.WriteString(c, text); err != nil {
				t.Error(err)
			}
		}
	})
	defer close(say)
	c, err := s.Upgrade(t.Context(), "/")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	var timeout net.Error
	if _, err := c.Read(b); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("got %v", err)
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	say <- "hello"
	if n, err := c.Read(b); string(b[:n]) != "hello" || err != nil {
		t.Errorf("got %q, %v", b[:n], err)
	}
}

// FuzzStream reads any bytes for frames. What it gives is within the frames of
// data, and its end is only where one says so.
func FuzzStream(f *testing.F) {
	f.Add([]byte("d\x00\x03abce\x00\x00"))
	f.Add([]byte("d\x00\x03ab"))
	f.Add([]byte("d\x00\x00e\x00\x01x"))
	f.Add([]byte("d\xff\xff" + strings.Repeat("x", 100)))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := newStream(nil, bufio.NewReader(bytes.NewReader(data)))
		got, err := io.ReadAll(s)
		if len(got) > len(data) {
			t.Errorf("%d bytes of %d", len(got), len(data))
		}
		if err == nil && !bytes.Contains(data, []byte("e\x00\x00")) {
			t.Errorf("an end that nobody said: %q", data)
		}
	})
}
