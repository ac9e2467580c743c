package netd

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// fakeNetd answers each connection once.
func fakeNetd(t *testing.T, answer func(query []byte) []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dnsproxyd")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, maxCommand)
				n, err := c.Read(b)
				text, ok := strings.CutPrefix(strings.TrimSuffix(string(b[:n]), "\x00"), "resnsend 0 0 ")
				query, err64 := base64.StdEncoding.DecodeString(text)
				if err != nil || !ok || err64 != nil {
					t.Errorf("netd was asked %q: %v", b[:n], errors.Join(err, err64))
					return
				}
				c.Write(answer(query)) //nolint:errcheck // it is read or not
			}()
		}
	}()
	return path
}

func framed(code int32, answer []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(code))
	b = binary.BigEndian.AppendUint32(b, uint32(len(answer)))
	return append(b, answer...)
}

// host answers with an address of IPv4, and that there is no such name else.
func host(t *testing.T, name, address string) func([]byte) []byte {
	return func(query []byte) []byte {
		var m dnsmessage.Message
		if err := m.Unpack(query); err != nil {
			t.Error(err)
		}
		m.Response, m.RCode, m.Additionals = true, dnsmessage.RCodeNameError, nil
		if q := m.Questions[0]; q.Name.String() == name {
			m.RCode = dnsmessage.RCodeSuccess
			if q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
					Body:   &dnsmessage.AResource{A: netip.MustParseAddr(address).As4()},
				}}
			}
		}
		answer, err := m.Pack()
		if err != nil {
			t.Error(err)
		}
		return framed(int32(m.RCode), answer)
	}
}

func TestResolver(t *testing.T) {
	none := filepath.Join(t.TempDir(), "resolv.conf")
	r := resolver(fakeNetd(t, host(t, "site.example.", "203.0.113.7")), none)
	got, err := r.LookupNetIP(t.Context(), "ip4", "site.example.")
	if err != nil || len(got) != 1 || got[0].Unmap().String() != "203.0.113.7" {
		t.Errorf("%v, %v", got, err)
	}
	var dns *net.DNSError
	if got, err := r.LookupNetIP(t.Context(), "ip4", "none.example."); !errors.As(err, &dns) || !dns.IsNotFound {
		t.Errorf("a name that is not: %v, %v", got, err)
	}

	// netd's own refusals: no network, and a code without an answer.
	var asked atomic.Int32
	for _, answer := range [][]byte{
		binary.BigEndian.AppendUint32(nil, uint32(0x100000000-int64(syscall.ENETUNREACH))),
		binary.BigEndian.AppendUint32(nil, 2), framed(2, nil), nil,
	} {
		r := resolver(fakeNetd(t, func([]byte) []byte { asked.Add(1); return answer }), none)
		if got, err := r.LookupNetIP(t.Context(), "ip4", "site.example."); !errors.As(err, &dns) || dns.IsNotFound {
			t.Errorf("%x gave %v, %v", answer, got, err)
		}
	}
	if asked.Load() == 0 {
		t.Error("nobody was asked")
	}
}

// Where there is a resolv.conf, or no netd, the server that Go knows is asked.
func TestElsewhere(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket := fakeNetd(t, host(t, "site.example.", "203.0.113.7"))
	for _, paths := range [][2]string{{socket, "/etc/passwd"}, {filepath.Join(dir, "none"), filepath.Join(dir, "none")}} {
		c, err := resolver(paths[0], paths[1]).Dial(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if c.RemoteAddr().String() != l.Addr().String() {
			t.Errorf("%v: it leads to %s", paths, c.RemoteAddr())
		}
		c.Close()
	}
}

func TestLong(t *testing.T) {
	for _, n := range []int{0, header - 1, 758, 70000} {
		if _, err := command(make([]byte, n)); err == nil {
			t.Errorf("a query of %d bytes passes", n)
		}
	}
	if b, err := command(make([]byte, 756)); err != nil || len(b) > maxCommand {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

func FuzzAnswer(f *testing.F) {
	query := make([]byte, header+5)
	f.Add(framed(0, []byte("answer")))
	f.Add(framed(3, nil))
	f.Add(binary.BigEndian.AppendUint32(nil, 0xffffffff))
	f.Add([]byte{0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		answer, err := readAnswer(bytes.NewReader(b), query)
		if err == nil && (len(answer) == 0 || len(answer) > maxAnswer) {
			t.Errorf("an answer of %d bytes", len(answer))
		}
		if c := (&conn{Conn: pipe(b), query: query}); err == nil {
			got, err := io.ReadAll(c)
			if err != nil || len(got) != len(answer)+2 {
				t.Errorf("%d bytes of %d, %v", len(got), len(answer)+2, err)
			}
		}
	})
}

type fixed struct {
	net.Conn
	r *bytes.Reader
}

func pipe(b []byte) net.Conn { return fixed{r: bytes.NewReader(b)} }

func (f fixed) Read(b []byte) (int, error) { return f.r.Read(b) }
