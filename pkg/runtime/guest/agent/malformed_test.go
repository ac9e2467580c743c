package agent

import (
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// malformed are requests that a host which keeps to the protocol never makes.
func malformed() []string {
	return []string{
		"", "\x00", "\r\n\r\n", "GET", "GET / HTTP/9.9\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00",
		"GET /v1/status HTTP/1.1\r\n\r\n", // no Host
		"GET /v1/status HTTP/1.1\r\nHost: guest\r\nContent-Length: -1\r\n\r\n",
		"GET /v1/status HTTP/1.1\r\nHost: guest\r\nContent-Length: 99999999999\r\n\r\nx",
		"GET /v1/status HTTP/1.1\r\nHost: guest\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"GET /v1/" + strings.Repeat("a", 20<<10) + " HTTP/1.1\r\nHost: guest\r\n\r\n",
		"GET /v1/status HTTP/1.1\r\nHost: guest\r\nX: " + strings.Repeat("b", 20<<10) + "\r\n\r\n",
		"GET /v1/status HTTP/1.1\r\nHost: guest\r\n" + strings.Repeat("X: y\r\n", 4000) + "\r\n",
		"GET /v1/secrets/..%2f..%2fetc/passwd HTTP/1.1\r\nHost: guest\r\n\r\n",
		"GET /v1/logs/%00?follow=perhaps HTTP/1.1\r\nHost: guest\r\n\r\n",
		"POST /v1/freeze?seconds=99999999999999999999 HTTP/1.1\r\nHost: guest\r\n\r\n",
		"POST /v1/exec HTTP/1.1\r\nHost: guest\r\nContent-Length: 3\r\n\r\n{}}",
		"POST /v1/exec HTTP/1.1\r\nHost: guest\r\nConnection: Upgrade\r\nUpgrade: " + ExecProtocol + "\r\nContent-Length: 2\r\n\r\n[]",
		"POST /v1/exec HTTP/1.1\r\nHost: guest\r\nConnection: Upgrade\r\nUpgrade: " + ExecProtocol + "\r\nContent-Length: 16\r\n\r\n{\"argv\":[\"cat\"]}\xff\xff\xff\xff\xff",
		"PUT /v1/secrets/a/b HTTP/1.1\r\nHost: guest\r\nContent-Length: 5000\r\n\r\n" + strings.Repeat("s", 5000),
		"DELETE /v1/status HTTP/1.1\r\nHost: guest\r\n\r\n",
		"CONNECT guest:80 HTTP/1.1\r\nHost: guest\r\n\r\n",
	}
}

// A thousand malformed requests, each over a stream of its own, and then a
// thousand hosts that send garbage for frames: the guest still answers.
func TestMalformedRequests(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	g := &operatedGuest{programs: programs()}
	host := line(t, g)
	c := dial(t, serial{host})
	all := malformed()
	for i := range 1000 {
		s, err := c.session.Open(t.Context())
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		text := []byte(all[i%len(all)])
		if i >= len(all) && len(text) > 0 { // and again, with a byte changed
			text[rnd.IntN(len(text))] = byte(rnd.Uint32())
		}
		// The guest may have closed it already, with an answer or without.
		_ = s.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = s.Write(text)
		s.Close() // the guest sees the end of what it is sent
		if i%7 == 0 {
			_, _ = io.Copy(io.Discard, s)
		}
	}
	checkStatus(t, c)
	c.Close()
	for i := range 1000 {
		garbage := make([]byte, 1+rnd.IntN(200))
		for j := range garbage {
			garbage[j] = byte(rnd.Uint32())
		}
		garbage[0] = 0 // yamux's version: the first frame
		if err := host.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		// What the guest says is read up to its answer, and does not fill the pipe.
		s, err := Connect(t.Context(), serial{host})
		if err != nil {
			t.Fatalf("garbage %d: %v", i, err)
		}
		if _, err := s.Write(garbage); err != nil {
			t.Fatalf("garbage %d: %v", i, err)
		}
	}
	if err := host.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	checkStatus(t, dial(t, serial{host}))
}

// FuzzServePort gives a served port any bytes; a host that comes after them is
// answered.
func FuzzServePort(f *testing.F) {
	hello := greeting("0")
	f.Add([]byte(hello + "\x00\x01\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00"))
	f.Add([]byte(hello + "\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x05GET /" + hello))
	for _, m := range malformed()[:6] {
		f.Add([]byte(hello + "\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00" + string(rune(len(m))) + m))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			return
		}
		host := line(t, &operatedGuest{programs: programs()})
		if _, err := host.Write(data); err != nil {
			t.Fatal(err)
		}
		checkStatus(t, dial(t, serial{host}))
	})
}
