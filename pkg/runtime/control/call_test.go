package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// An error keeps its class, its words and its hint.
func TestErrors(t *testing.T) {
	var fail error
	s, err := pair(t, NewHello(""), NewHello(""), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/text":
			http.Error(w, "some words", http.StatusServiceUnavailable)
		case "/absent":
			http.NotFound(w, r)
		default:
			WriteError(w, fail)
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	call := func(path string) error { return s.Call(t.Context(), http.MethodGet, path, nil, nil) }
	for _, fail = range []error{
		fault.Errorf(fault.Usage, "no machine %q\nin <this> directory", "x").Hintf("name another"),
		fault.Errorf(fault.Environment, "full"),
		fault.Errorf(fault.Verification, "wrong"),
		fault.Errorf(fault.Device, "gone"),
		errors.New("a defect"),
	} {
		got := call("/")
		if fault.ClassOf(got) != fault.ClassOf(fail) || got.Error() != fail.Error() || fault.HintOf(got) != fault.HintOf(fail) {
			t.Errorf("%v: got %v, class %d, hint %q", fail, got, fault.ClassOf(got), fault.HintOf(got))
		}
	}
	fail = fault.Errorf(fault.Device, "%s", strings.Repeat("\x00", 1<<20)) // the longest when escaped
	if got := call("/"); fault.ClassOf(got) != fault.Device || len(got.Error()) < 1000 {
		t.Errorf("a long one: %.100v", got)
	}
	if got := call("/text"); fault.ClassOf(got) != fault.Device || !strings.Contains(got.Error(), "503 Service Unavailable: some words") {
		t.Errorf("words: %v", got)
	}
	if got := call("/absent"); !errors.Is(got, ErrAbsent) || fault.ClassOf(got) != fault.Environment || fault.HintOf(got) == "" {
		t.Errorf("an endpoint that it does not have: %v", got)
	}
}

func TestReadRequest(t *testing.T) {
	type request struct {
		Size int `json:"size"`
	}
	s, err := pair(t, NewHello(""), NewHello(""), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req := request{Size: 7}
		if ReadRequest(w, r, &req) {
			Answer(w, req)
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		in   any
		want int
		err  string
	}{
		{nil, 7, ""},
		{request{3}, 3, ""},
		{map[string]any{"size": 3, "force": true}, 0, `unknown field "force"`},
		{map[string]any{"size": "3"}, 0, "the request"},
		{[]int{1}, 0, "the request"},
		{json.RawMessage(`{}`), 7, ""},
		{strings.Repeat("x", MaxRequest), 0, "longer than"},
	} {
		var got request
		err := s.Call(t.Context(), http.MethodPost, "/", c.in, &got)
		switch {
		case c.err == "" && (err != nil || got.Size != c.want):
			t.Errorf("%v: got %v, %v", c.in, got, err)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || fault.ClassOf(err) != fault.Usage):
			t.Errorf("%.40v: got %v", c.in, err)
		}
	}
}

func TestEvents(t *testing.T) {
	s, err := pair(t, NewHello(""), NewHello(""), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e, err := NewEvents(w)
		if err != nil {
			return
		}
		if r.URL.Path == "/long" {
			_ = e.Send(strings.Repeat("x", maxEvent))
			return
		}
		for n := range 3 {
			if e.Send(map[string]int{"n": n}) != nil {
				return
			}
		}
		if r.URL.Path == "/breaks" {
			panic(http.ErrAbortHandler)
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	for path, end := range map[string]error{"/": io.EOF, "/breaks": ErrLost} {
		var got []string
		err := s.Events(t.Context(), path, func(text json.RawMessage) error { got = append(got, string(text)); return nil })
		if fmt.Sprint(got) != `[{"n":0} {"n":1} {"n":2}]` || !errors.Is(err, end) {
			t.Errorf("%s: got %v, %v", path, got, err)
		}
	}
	enough := errors.New("enough")
	if err := s.Events(t.Context(), "/", func(json.RawMessage) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
	if err := s.Events(t.Context(), "/long", func(json.RawMessage) error { return nil }); err == nil || !strings.Contains(err.Error(), "an event of more than") {
		t.Errorf("got %v", err)
	}
}

// A session that ends within a request.
func TestLost(t *testing.T) {
	var conn net.Conn
	conn, server := net.Pipe()
	go Serve(t.Context(), server, NewHello(""), http.HandlerFunc(func(http.ResponseWriter, *http.Request) { conn.Close() })) //nolint:errcheck // it is broken
	s, err := Dial(t.Context(), conn, NewHello(""))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // in it, and behind it
		if err := s.Call(t.Context(), http.MethodPost, "/", nil, nil); !errors.Is(err, ErrLost) || fault.ClassOf(err) != fault.Device {
			t.Errorf("got %v", err)
		}
		<-s.Done()
	}
}

// A thousand malformed requests over one session: it answers the next one.
func TestMalformedRequests(t *testing.T) {
	b := newBlobs(t)
	s := blobSession(t, b)
	digest := digestOf("abc")
	put := "PUT /v1/blobs/" + digest + " HTTP/1.1\r\nHost: x\r\n"
	all := []string{
		"", "\x00", "\r\n\r\n", "GET", "GET / HTTP/9.9\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00",
		put + "\r\n", put + "Content-Length: -1\r\n\r\n",
		put + "Content-Range: bytes 0-2/3\r\nContent-Length: 99999999999\r\n\r\nx",
		put + "Content-Range: bytes 0-2/3\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		put + "Content-Range: bytes 2-0/3\r\nContent-Length: 3\r\n\r\nabc",
		put + "Content-Range: " + strings.Repeat("9", 20<<10) + "\r\n\r\n",
		"PUT /v1/blobs/sha256:..%2f..%2fetc HTTP/1.1\r\nHost: x\r\nContent-Range: bytes 0-0/1\r\nContent-Length: 1\r\n\r\nx",
		"HEAD /v1/blobs/%00 HTTP/1.1\r\nHost: x\r\n\r\n",
		"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 1000 {
		c, err := s.mux.Open(t.Context())
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		text := []byte(all[i%len(all)])
		if i >= len(all) && len(text) > 0 { // and again, with a byte changed
			text[rnd.IntN(len(text))] = byte(rnd.Uint32())
		}
		// It may have been closed already, with an answer or without.
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = c.Write(text)
		c.Close()
	}
	if err := s.PutBlob(t.Context(), digest, 3, 0, strings.NewReader("abc")); err != nil {
		t.Fatal(err)
	}
}

// FuzzServe gives a server any bytes behind a greeting; it comes back, and the
// blobs are as they were.
func FuzzServe(f *testing.F) {
	f.Add([]byte("\x00\x01\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00"))
	f.Add([]byte("\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x05GET /"))
	f.Add([]byte("\x00\x00\x00\x01\x00\x00\x00\x01\xff\xff\xff\xffGET /"))
	f.Fuzz(func(t *testing.T, data []byte) {
		client, server := net.Pipe()
		served := make(chan struct{})
		go func() {
			defer close(served)
			_ = Serve(t.Context(), server, NewHello(""), blobHandler(newBlobs(t))) // any end
		}()
		go io.Copy(io.Discard, client) //nolint:errcheck // until it is closed
		_, _ = io.WriteString(client, line(NewHello(""))+string(data))
		client.Close()
		<-served
	})
}

// FuzzRequest reads any text as a request.
func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"size":1}`))
	f.Add([]byte(`{"size":1}{}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		v := struct {
			Size int               `json:"size"`
			Map  map[string]string `json:"map"`
		}{Size: 7}
		if err := parseRequest(text, &v); err != nil && fault.ClassOf(err) != fault.Usage {
			t.Errorf("%q: %v", text, err)
		}
	})
}

// FuzzError reads any answer as that of a failure, which it stays.
func FuzzError(f *testing.F) {
	f.Add(400, []byte(`{"class":2,"error":"x","hint":"y"}`))
	f.Add(500, []byte(`{"class":0,"error":"x"}`))
	f.Add(404, []byte("404 page not found"))
	f.Fuzz(func(t *testing.T, status int, text []byte) {
		err := parseError(status, text)
		if err == nil || !known(fault.ClassOf(err)) {
			t.Errorf("%q: %v", text, err)
		}
	})
}
