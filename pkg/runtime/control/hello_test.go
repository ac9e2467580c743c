package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func line(h Hello) string {
	var b strings.Builder
	if err := h.send(&b); err != nil {
		panic(err)
	}
	return b.String()
}

func TestReadHello(t *testing.T) {
	good := Hello{Min: 1, Max: 3, Version: "v0.9", Can: []string{"blobs"}}
	for name, c := range map[string]struct {
		text    string
		rubbish int
		want    string // in the error; "" for none
	}{
		"plain":                    {line(good), 0, ""},
		"after a shell's greeting": {"Welcome to nas\n\nlast login: today\n" + line(good), maxRubbish, ""},
		"behind a prompt":          {"nas$ " + line(good), maxRubbish, ""},
		"unknown keys":             {helloPrefix + `{"min":1,"max":3,"version":"v0.9","can":["blobs"],"new":{"a":1}}` + "\n", 0, ""},
		"a shell where none is":    {"Welcome to nas\n" + line(good), 0, `something else: "Welcome to nas`},
		"too much of it":           {strings.Repeat("x\n", maxRubbish), maxRubbish, "something else"},
		"nothing":                  {"", maxRubbish, "EOF"},
		"cut short":                {line(good)[:30], maxRubbish, "EOF"},
		"another protocol":         {"SSH-2.0-OpenSSH_9.2\r\n", maxRubbish, `EOF: "SSH-2.0-OpenSSH_9.2`},
		"drives the terminal":      {"\x1b]0;owned\x07\n", 0, "owned"},
		"no JSON":                  {helloPrefix + "{]\n", 0, "its greeting"},
		"no version":               {helloPrefix + "{}\n", 0, "versions 0 to 0"},
		"backwards":                {helloPrefix + `{"min":3,"max":2}` + "\n", 0, "versions 3 to 2"},
		"beyond all":               {helloPrefix + `{"min":1,"max":99999999999}` + "\n", 0, "greeting"},
		"a long line":              {helloPrefix + `{"min":1,"max":1,"version":"` + strings.Repeat("v", maxHello) + "\"}\n", 0, "longer than"},
		"many abilities":           {helloPrefix + `{"min":1,"max":1,"can":["a"` + strings.Repeat(`,"a"`, maxCan) + "]}\n", 0, "abilities"},
	} {
		r := bufio.NewReader(strings.NewReader(c.text + "rest"[:0]))
		got, err := readHello(r, c.rubbish)
		if c.want == "" {
			if err != nil || got.Max != 3 || got.Version != "v0.9" || !got.Has("blobs") || got.Has("more") {
				t.Errorf("%s: %+v, %v", name, got, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		} else if strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%s: a terminal obeys %q", name, err)
		}
	}
}

// What is behind the line stays for the session.
func TestReadHelloLeavesTheRest(t *testing.T) {
	r := bufio.NewReader(strings.NewReader(line(NewHello("")) + "rest"))
	if _, err := readHello(r, 0); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(r); string(rest) != "rest" || err != nil {
		t.Errorf("left: %q, %v", rest, err)
	}
}

// Both sides come to the same version, or to the same reason why there is none.
func TestAgree(t *testing.T) {
	for _, c := range []struct {
		program, daemon [2]int
		want            int
		old             string // who is too old
	}{
		{[2]int{1, 1}, [2]int{1, 1}, 1, ""},
		{[2]int{1, 3}, [2]int{1, 2}, 2, ""},
		{[2]int{2, 3}, [2]int{1, 5}, 3, ""},
		{[2]int{2, 3}, [2]int{1, 1}, 0, "the sovereignd there is too old"},
		{[2]int{1, 1}, [2]int{2, 9}, 0, "this program is too old"},
	} {
		program := Hello{Min: c.program[0], Max: c.program[1], Version: "v-program"}
		daemon := Hello{Min: c.daemon[0], Max: c.daemon[1], Version: "v-daemon"}
		asked, askErr := agree(program, daemon, true)
		told, tellErr := agree(daemon, program, false)
		if asked != c.want || told != c.want {
			t.Errorf("%v and %v: got %d and %d, want %d", c.program, c.daemon, asked, told, c.want)
		}
		for _, err := range []error{askErr, tellErr} {
			switch {
			case c.old == "" && err != nil:
				t.Errorf("%v and %v: %v", c.program, c.daemon, err)
			case c.old == "":
			case !errors.Is(err, ErrVersion) || fault.ClassOf(err) != fault.Environment || !strings.HasPrefix(fault.HintOf(err), c.old):
				t.Errorf("%v and %v: %v, hint %q", c.program, c.daemon, err, fault.HintOf(err))
			case !strings.Contains(err.Error(), "this program speaks v-program"):
				t.Errorf("%v and %v: who is who? %v", c.program, c.daemon, err)
			}
		}
	}
}

// pair connects a session to a handler.
func pair(t testing.TB, own, peer Hello, h http.Handler) (*Session, error) {
	t.Helper()
	client, server := net.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan struct{})
	go func() {
		defer close(served)
		// Its end is the session's, which the test ends.
		_ = Serve(ctx, server, peer, h)
	}()
	t.Cleanup(func() {
		cancel()
		<-served
	})
	s, err := Dial(t.Context(), client, own)
	if err == nil {
		t.Cleanup(func() { s.Close() })
	}
	return s, err
}

func TestSession(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { Answer(w, map[string]string{"path": r.URL.Path}) })
	s, err := pair(t, Hello{Min: 1, Max: 7, Version: "new"}, NewHello("old", "blobs"), h)
	if err != nil {
		t.Fatal(err)
	}
	if s.Version != MaxVersion || s.Peer.Version != "old" || !s.Peer.Has("blobs") {
		t.Errorf("got version %d, peer %+v", s.Version, s.Peer)
	}
	var got map[string]string
	if err := s.Call(t.Context(), http.MethodGet, "/v1/machines", nil, &got); err != nil || got["path"] != "/v1/machines" {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := pair(t, Hello{Min: 9, Max: 9}, NewHello("old"), h); !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), "old, protocol 1") {
		t.Errorf("a daemon that is too old: %v", err)
	}
}

// A peer that talks of something else, or ends, or sends half of a greeting,
// on either side.
func TestHostileGreetings(t *testing.T) {
	for name, says := range map[string]string{
		"silence":       "",
		"rubbish":       "bash: sovereignd: command not found\n",
		"binary":        "\x00\x01\x02\xff\xfe\n",
		"half":          helloPrefix + `{"min":`,
		"endless":       strings.Repeat("y\n", 1<<20),
		"endless line":  helloPrefix + strings.Repeat("y", 1<<20),
		"a wrong frame": line(NewHello("")) + strings.Repeat("\xff", 1<<10),
	} {
		// It says that and ends; who reads that must not wait for ever, and
		// who is not read must not either.
		hostile := func() net.Conn {
			good, bad := net.Pipe()
			go func() {
				defer bad.Close()
				go io.Copy(io.Discard, bad) //nolint:errcheck // until it is closed
				_, _ = io.WriteString(bad, says)
			}()
			return good
		}
		s, err := Dial(t.Context(), hostile(), NewHello(""))
		switch {
		case err == nil: // a session of its own that breaks at once
			if err := s.Call(t.Context(), http.MethodGet, "/", nil, nil); !errors.Is(err, ErrLost) {
				t.Errorf("%s: got %v", name, err)
			}
		case fault.ClassOf(err) != fault.Device || !strings.Contains(err.Error(), "does not greet"):
			t.Errorf("%s: got %v", name, err)
		case name == "rubbish" && !strings.Contains(err.Error(), "command not found"):
			t.Errorf("%s: it does not say what came: %v", name, err)
		}
		err = Serve(t.Context(), hostile(), NewHello(""), http.NotFoundHandler())
		// With a session it ends at the frame, or at its own greeting that is not
		// taken any more.
		if err == nil && name != "a wrong frame" || errors.Is(err, ErrNoHello) != (name == "silence" || name == "half") {
			t.Errorf("%s to a server: %v", name, err)
		}
	}
}

// Whoever says nothing is not waited for for ever; the context of the one who
// asks ends it before.
func TestSilentPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer server.Close()
		go io.Copy(io.Discard, server) //nolint:errcheck // until it is closed
		begin := time.Now()
		if _, err := Dial(t.Context(), client, NewHello("")); err == nil || time.Since(begin) != answeredLimit || !strings.Contains(err.Error(), "no greeting within 2m0s") {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
		client, server = net.Pipe()
		defer client.Close()
		begin = time.Now()
		// It neither sends nor takes anything.
		if err := Serve(t.Context(), server, NewHello(""), http.NotFoundHandler()); err == nil || time.Since(begin) != askedLimit {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
		why := errors.New("no patience")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(why) })
		client, server = net.Pipe()
		defer server.Close()
		if _, err := Dial(ctx, client, NewHello("")); !errors.Is(err, why) {
			t.Errorf("cancelled: %v", err)
		}
	})
}

// A greeting that comes a byte at a time, over a stream without a buffer.
func TestSlowGreeting(t *testing.T) {
	client, server := net.Pipe()
	slow := func(c net.Conn) io.ReadWriteCloser {
		return struct {
			io.Reader
			io.WriteCloser
		}{c, dripping{c}}
	}
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { Answer(w, 1) })
	go Serve(t.Context(), slow(server), NewHello(""), h) //nolint:errcheck // ends with the test
	s, err := Dial(t.Context(), slow(client), NewHello(""))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var n int
	if err := s.Call(t.Context(), http.MethodGet, "/", nil, &n); n != 1 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
}

type dripping struct{ net.Conn }

func (d dripping) Write(b []byte) (int, error) {
	for i := range b {
		if n, err := d.Conn.Write(b[i : i+1]); err != nil {
			return i + n, err
		}
	}
	return len(b), nil
}

// The program's clock says 2000, sovereignd's the present: no limit minds.
func TestClocksApart(t *testing.T) {
	now := time.Now()
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	blobs := newBlobs(t)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go Serve(t.Context(), c, NewHello(""), blobHandler(blobs)) //nolint:errcheck // ends with its peer
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		if apart := now.Sub(time.Now()); apart < 365*24*time.Hour {
			t.Fatalf("the clocks are %v apart", apart)
		}
		conn, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		s, err := Dial(t.Context(), conn, NewHello(""))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := s.PutBlob(t.Context(), digestOf("abc"), 3, 0, strings.NewReader("abc")); err != nil {
			t.Fatal(err)
		}
		if whole, _, err := s.HasBlob(t.Context(), digestOf("abc")); !whole || err != nil {
			t.Errorf("got %v, %v", whole, err)
		}
	})
}

func FuzzHello(f *testing.F) {
	f.Add([]byte(line(NewHello("v1", "a"))), 0)
	f.Add([]byte("Welcome\n$ "+line(NewHello("v1"))), maxRubbish)
	f.Add([]byte(helloPrefix+"{\"min\":1}\n"+helloPrefix), 10)
	f.Fuzz(func(t *testing.T, data []byte, rubbish int) {
		r := bufio.NewReader(strings.NewReader(string(data)))
		h, err := readHello(r, min(max(rubbish, 0), maxRubbish))
		if err != nil {
			if len(err.Error()) > maxHello {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		if h.Min < 1 || h.Max < h.Min || len(h.Can) > maxCan {
			t.Errorf("got %+v", h)
		}
		// Both sides decide the same of it.
		own := NewHello("x")
		a, errA := agree(own, h, true)
		b, errB := agree(h, own, false)
		if a != b || (errA == nil) != (errB == nil) || fmt.Sprint(errA) != fmt.Sprint(errB) {
			t.Errorf("%d, %v and %d, %v", a, errA, b, errB)
		}
	})
}
