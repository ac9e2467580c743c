package agent

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sovereign-build/sovereign/internal/muxhttp"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// greeting is a host's, with a nonce of one digit.
func greeting(digit string) string {
	return hello{version: Version, host: strings.Repeat(digit, nonceLen)}.String()
}

// Data that holds hellos, of any version and also that of the session itself,
// goes through a session like any other.
func TestDataHoldsHellos(t *testing.T) {
	host := &recorder{Conn: line(t, &operatedGuest{programs: programs()})}
	c := dial(t, host)
	sent, _, _ := new(helloScanner).find(host.sent())
	if sent.host == "" {
		t.Fatalf("the host said no hello: %q", host.sent())
	}
	data := "INSERT INTO notes VALUES ('" + greeting("a") + "');\n" +
		hello{version: oldest, host: strings.Repeat("0", nonceLen)}.String() +
		hello{version: '9', host: newNonce(), guest: newNonce()}.String() + sent.String() +
		hello{version: Version, host: newNonce()}.String()
	data = strings.Repeat(data, 1000)
	var out bytes.Buffer
	code, err := c.Exec(t.Context(), ExecRequest{Argv: []string{"cat"}}, ExecIO{Stdin: strings.NewReader(data), Stdout: &out})
	if err != nil || code != 7 || out.String() != data {
		t.Errorf("got %d, %v, %d of %d bytes", code, err, out.Len(), len(data))
	}
	checkStatus(t, c)
	if n := bytes.Count(host.sent(), []byte(helloPrefix)); n > 3*2 {
		t.Errorf("%d hellos are on the line", n)
	}
}

// recorder keeps what the host sends.
type recorder struct {
	net.Conn
	buf locked
}

func (r *recorder) Write(b []byte) (int, error) {
	r.buf.Write(b)
	return r.Conn.Write(b)
}

func (r *recorder) sent() []byte { return r.buf.bytes() }

// A host of the protocol before this one gets an answer that it understands,
// and at its first request the words that say what to do.
func TestOlderHost(t *testing.T) {
	host := line(t, &fakeGuest{})
	greet := hello{version: oldest, host: newNonce()}.String()
	if _, err := io.WriteString(host, "rubbish"+greet+greet); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(host)
	if got, err := r.ReadString('\n'); got != greet || err != nil {
		t.Fatalf("answer %q, %v", got, err)
	}
	session, err := muxhttp.NewSession(&sessionStream{Reader: r, Writer: host, Closer: host}, sessionOptions())
	if err != nil {
		t.Fatal(err)
	}
	c := NewStreams(session.Open)
	for range 2 {
		if _, err := c.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "426") || !strings.Contains(err.Error(), "speaks version 2") {
			t.Errorf("got %v", err)
		}
	}
}

// A guest of the protocol before this one answers only its own greeting.
func TestOlderGuest(t *testing.T) {
	host, guest := net.Pipe()
	defer guest.Close()
	go func() {
		r := bufio.NewReader(guest)
		for {
			l, err := r.ReadString('\n')
			if err != nil {
				return
			}
			if strings.HasPrefix(l, "SOVEREIGN-AGENT 1 ") {
				if _, err := io.WriteString(guest, l); err != nil {
					return
				}
			}
		}
	}()
	_, err := Dial(t.Context(), host)
	if !errors.Is(err, ErrVersion) || fault.ClassOf(err) != fault.Device || !strings.Contains(fault.HintOf(err), "build the image") {
		t.Errorf("got %v, hint %q", err, fault.HintOf(err))
	}
}

// What a guest answers to greetings of any version, and in which order.
func TestAnswers(t *testing.T) {
	a, b := strings.Repeat("a", nonceLen), strings.Repeat("b", nonceLen)
	for _, c := range []struct {
		name    string
		greets  []hello
		answers []hello // without the guest's nonce
	}{
		{"once to each", []hello{{Version, a, ""}, {Version, a, ""}, {oldest, a, ""}, {Version, b, ""}, {Version, a, ""}}, []hello{{Version, a, ""}, {Version, b, ""}, {Version, a, ""}}},
		{"its own version to a newer host", []hello{{'3', a, ""}}, []hello{{Version, a, ""}}},
		{"a host of two versions whose first line was lost", []hello{{oldest, a, ""}, {Version, a, ""}, {oldest, a, ""}}, []hello{{oldest, a, ""}, {Version, a, ""}}},
		{"nothing to answers", []hello{{Version, a, b}, {oldest, a, b}}, nil},
	} {
		port := &sink{}
		d := newDemux(port)
		for _, g := range c.greets {
			if err := d.feed([]byte(g.String())); err != nil {
				t.Fatal(err)
			}
		}
		got := port.hellos()
		for i := range got {
			if (got[i].guest == "") != (got[i].version == oldest) {
				t.Errorf("%s: answer %v", c.name, got[i])
			}
			got[i].guest = ""
		}
		if !slices.Equal(got, c.answers) {
			t.Errorf("%s: got %v", c.name, got)
		}
		d.drop()
	}
}

// A connection's peer that says nothing, or no hello, does not keep it.
func TestConnectionWithoutHello(t *testing.T) {
	for _, text := range []string{"", "SOVEREIGN-AGENT 2 ", greeting("a"), greeting("a") + greeting("b")} {
		synctest.Test(t, func(t *testing.T) {
			host, guest := net.Pipe()
			defer host.Close()
			go io.WriteString(host, text) //nolint:errcheck // the guest closes it
			go io.Copy(io.Discard, host)  //nolint:errcheck // as above
			if err := ServePort(t.Context(), guest, false, NewHandler(&fakeGuest{})); !errors.Is(err, errNoHello) {
				t.Errorf("%q: got %v", text, err)
			}
		})
	}
}

// Its time is up to the beginning of the session.
func TestConnectionBegins(t *testing.T) {
	begun := 0
	port := &sink{}
	d := newDemux(port)
	d.persistent, d.begun = false, func() { begun++ }
	defer d.drop()
	feed(t, d, []byte("rubbish"+greeting("a")+greeting("a")), 10)
	answer := port.hellos()[0]
	if begun != 0 {
		t.Error("a session began without its host's word")
	}
	feed(t, d, []byte(answer.String()), 10)
	if begun != 1 {
		t.Errorf("%d sessions began", begun)
	}
	was := d.current
	feed(t, d, []byte(greeting("b")), 100) // what one session carries
	if d.current != was || begun != 1 {
		t.Error("a connection was searched for another hello")
	}
}

// sink is a port that takes all and is never read.
type sink struct{ bytes.Buffer }

func (s *sink) Read([]byte) (int, error)         { return 0, io.EOF }
func (s *sink) Close() error                     { return nil }
func (s *sink) SetWriteDeadline(time.Time) error { return nil }

// hellos are those in what was written before a session.
func (s *sink) hellos() (all []hello) {
	var scan helloScanner
	for b := s.Bytes(); len(b) > 0; {
		h, n, ok := scan.find(b)
		if ok {
			all = append(all, h)
		}
		b = b[n:]
	}
	return all
}

func newDemux(port Port) *demux {
	return &demux{port: port, persistent: true, begun: func() {}, handler: NewHandler(&fakeGuest{})}
}

// FuzzFeed gives the guest any bytes, in chunks of any size: it must survive
// them, and a host that comes after them must get its session.
func FuzzFeed(f *testing.F) {
	f.Add([]byte(greeting("0")), 7)
	f.Add([]byte("\x00\xffSOVE"+greeting("0")[:20]+greeting("0")+"\x00\x01\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00"), 1)
	f.Add([]byte(hello{oldest, strings.Repeat("0", nonceLen), ""}.String()+"\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x05GET /"), 1000)
	f.Add([]byte(hello{Version, strings.Repeat("0", nonceLen), strings.Repeat("1", nonceLen)}.String()), 50)
	f.Add([]byte(strings.TrimSuffix(greeting("0"), "\n")), 106)
	f.Fuzz(func(t *testing.T, data []byte, chunk int) {
		if len(data) > 1<<16 {
			return
		}
		port := &sink{}
		d := newDemux(port)
		defer d.drop()
		feed(t, d, data, chunk)
		d.drop() // nothing of an older session writes meanwhile
		port.Reset()
		feed(t, d, []byte("\n"+greeting("f")), chunk)
		answers := port.hellos()
		// The line feed may end a greeting in the garbage.
		if len(answers) == 0 || answers[len(answers)-1].host != strings.Repeat("f", nonceLen) {
			t.Fatalf("answers to a greeting after garbage: %v", answers)
		}
		last := answers[len(answers)-1]
		feed(t, d, []byte(last.String()), chunk)
		if d.current == nil || d.answer != last || last.guest == "" {
			t.Fatal("a host that came after garbage got no session")
		}
	})
}

func feed(t *testing.T, d *demux, data []byte, chunk int) {
	t.Helper()
	data = bytes.Clone(data)
	for len(data) > 0 {
		n := min(max(1, chunk), len(data))
		if err := d.feed(data[:n]); err != nil {
			t.Fatal(err)
		}
		data = data[n:]
	}
}

// FuzzSession sends any bytes through a session, masked and in chunks of any
// size: the guest's end has them as they were, and no other session began.
func FuzzSession(f *testing.F) {
	f.Add([]byte(greeting("0")), 7, true)
	f.Add([]byte("\x00\x00"+greeting("0")+hello{Version, strings.Repeat("0", nonceLen), strings.Repeat("1", nonceLen)}.String()), 1000, false)
	f.Fuzz(func(t *testing.T, data []byte, chunk int, persistent bool) {
		if len(data) > 1<<16 {
			return
		}
		d := newDemux(&sink{})
		d.persistent = persistent
		d.answer = hello{Version, newNonce(), newNonce()}
		var sent bytes.Buffer
		w := &maskedWriter{Writer: &sent, mask: newMask(d.answer)}
		for b := data; len(b) > 0; {
			n := min(max(1, chunk/2), len(b))
			if _, err := w.Write(b[:n]); err != nil {
				t.Fatal(err)
			}
			b = b[n:]
		}
		s := newStream(d.port)
		d.current, d.unmask = s, newMask(d.answer)
		feed(t, d, sent.Bytes(), chunk)
		if d.current != s || !bytes.Equal(s.pending, data) {
			t.Fatalf("got %d bytes of %d, the same session: %v", len(s.pending), len(data), d.current == s)
		}
	})
}

// FuzzAnswer has the host look for an answer behind any bytes.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte("SOVEREIGN-AGENT 2 "))
	f.Add([]byte(greeting("a") + "SOVEREIGN-AGENT 1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		want := hello{Version, newNonce(), newNonce()}
		r := bufio.NewReader(io.MultiReader(bytes.NewReader(data), strings.NewReader(want.String()+"rest")))
		got, err := readAnswer(r, want.host)
		if err != nil || got != want {
			t.Fatalf("got %v, %v", got, err)
		}
		if rest, err := io.ReadAll(r); err != nil || string(rest) != "rest" {
			t.Fatalf("behind it: %q, %v", rest, err)
		}
	})
}
