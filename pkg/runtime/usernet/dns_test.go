package usernet

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
	"gvisor.dev/gvisor/pkg/tcpip"
)

// fakeResolver knows what it is given.
type fakeResolver struct {
	mu        sync.Mutex
	addresses map[string][]string
	texts     map[string][]string
	asked     []string
	fails     bool
}

func (r *fakeResolver) set(name string, addresses ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.addresses[name] = addresses
}

func (r *fakeResolver) find(name string) error {
	r.asked = append(r.asked, name)
	if r.fails {
		return errors.New("no network")
	}
	if r.addresses[strings.ToLower(name)] == nil && r.texts[strings.ToLower(name)] == nil {
		return &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	return nil
}

func (r *fakeResolver) LookupNetIP(_ context.Context, _, name string) (list []netip.Addr, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.addresses[strings.ToLower(name)] {
		list = append(list, netip.MustParseAddr(a)) // of both families: the server chooses
	}
	return list, r.find(name)
}

func (r *fakeResolver) LookupTXT(_ context.Context, name string) ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.texts[name], r.find(name)
}

func (r *fakeResolver) LookupCNAME(context.Context, string) (string, error) {
	return "target.example", nil
}
func (r *fakeResolver) LookupMX(context.Context, string) ([]*net.MX, error) {
	return []*net.MX{{Host: "mail.example", Pref: 10}}, nil
}
func (r *fakeResolver) LookupNS(context.Context, string) ([]*net.NS, error) {
	return []*net.NS{{Host: "ns.example."}}, nil
}
func (r *fakeResolver) LookupSRV(context.Context, string, string, string) (string, []*net.SRV, error) {
	return "", []*net.SRV{{Target: "srv.example.", Port: 5432, Priority: 1, Weight: 2}}, nil
}
func (r *fakeResolver) LookupAddr(context.Context, string) ([]string, error) {
	return []string{"back.example."}, nil
}

// resolver asks the gateway, from the guest.
func (g *guest) resolver() *net.Resolver {
	gateway, _ := g.link.network.Gateway()
	return &net.Resolver{PreferGo: true, Dial: func(_ context.Context, network, _ string) (net.Conn, error) {
		return g.dial(network, netip.AddrPortFrom(gateway, dnsPort).String())
	}}
}

// TestNames has a guest find other members and the world, over UDP and TCP.
func TestNames(t *testing.T) {
	needNamespace(t)
	long := strings.Repeat("0123456789", 400)
	r := &fakeResolver{
		addresses: map[string][]string{"www.example.": {"192.0.2.7", "2001:db8:7::7", "::ffff:192.0.2.8"}},
		texts:     map[string][]string{"long.example.": {long}},
	}
	n := newNetwork(t, Config{Resolver: r})
	g := newGuest(t, join(t, n, Member{Name: "a", Outbound: true}))
	db := join(t, n, Member{Name: "db"})
	lookup := g.resolver()
	for _, c := range []struct{ network, name, want string }{
		{"ip4", "db.internal.", "10.0.2.3"}, {"ip4", "db.", "10.0.2.3"}, {"ip4", "DB.Internal.", "10.0.2.3"},
		{"ip6", "db.internal.", "fd53:6f76:6572::3"},
		{"ip4", "www.example.", "192.0.2.7 192.0.2.8"}, {"ip6", "www.example.", "2001:db8:7::7"},
		{"ip4", "WWW.Example.", "192.0.2.7 192.0.2.8"},
		{"ip4", "nobody.internal.", "no such host"}, {"ip4", "nobody.", "no such host"}, {"ip4", "nobody.example.", "no such host"},
	} {
		list, err := lookup.LookupNetIP(t.Context(), c.network, c.name)
		var got []string
		for _, a := range list {
			got = append(got, a.String())
		}
		slices.Sort(got)
		text := strings.Join(got, " ")
		var nerr *net.DNSError
		if errors.As(err, &nerr) && nerr.IsNotFound {
			text = "no such host"
		} else if err != nil {
			text = err.Error()
		}
		if text != c.want {
			t.Errorf("%s of %s: %q, want %q", c.network, c.name, text, c.want)
		}
	}
	if texts, err := lookup.LookupTXT(t.Context(), "long.example."); err != nil || strings.Join(texts, "") != long {
		t.Errorf("a text that only TCP carries: %d bytes, %v", len(strings.Join(texts, "")), err)
	}
	if names, err := lookup.LookupAddr(t.Context(), db.member.Addr6.String()); err != nil || !slices.Equal(names, []string{"db.internal."}) {
		t.Errorf("the name of a member's address: %v, %v", names, err)
	}
	if names, err := lookup.LookupAddr(t.Context(), "192.0.2.7"); err != nil || !slices.Equal(names, []string{"back.example."}) {
		t.Errorf("the name of an address: %v, %v", names, err)
	}
	if mx, err := lookup.LookupMX(t.Context(), "www.example."); err != nil || len(mx) != 1 || mx[0].Host != "mail.example." {
		t.Errorf("MX: %v, %v", mx, err)
	}
	if ns, err := lookup.LookupNS(t.Context(), "www.example."); err != nil || len(ns) != 1 || ns[0].Host != "ns.example." {
		t.Errorf("NS: %v, %v", ns, err)
	}
	if _, srv, err := lookup.LookupSRV(t.Context(), "", "", "www.example."); err != nil || len(srv) != 1 || *srv[0] != (net.SRV{Target: "srv.example.", Port: 5432, Priority: 1, Weight: 2}) {
		t.Errorf("SRV: %v, %v", srv, err)
	}
	for _, name := range r.asked {
		if !strings.HasSuffix(strings.ToLower(name), "example.") {
			t.Errorf("the resolver was asked for %s", name)
		}
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	if list, err := g.resolver().LookupNetIP(t.Context(), "ip4", "db.internal."); err == nil {
		t.Errorf("a member that has left has %v", list)
	}
}

// ask asks a link's server directly.
func ask(t *testing.T, l *Link, name string, kind dnsmessage.Type, change func(*dnsmessage.Message)) (m dnsmessage.Message) {
	t.Helper()
	q := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}},
	}
	if change != nil {
		change(&q)
	}
	b, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	answer := l.answerQuery(b, false)
	if err := m.Unpack(answer); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if m.ID != 7 || !m.Response || !m.RecursionAvailable || !m.RecursionDesired || len(m.Questions) != 1 || m.Questions[0] != q.Questions[0] {
		t.Errorf("%s: the answer is %+v", name, m)
	}
	return m
}

func TestAnswers(t *testing.T) {
	var many []string
	for i := range 200 {
		many = append(many, fmt.Sprintf("192.0.2.%d", i))
	}
	r := &fakeResolver{addresses: map[string][]string{"www.example.": {"192.0.2.7"}, "many.example.": many, "x.y.internal.": {"192.0.2.9"}}}
	n := newNetwork(t, Config{Resolver: r})
	open, closed := join(t, n, Member{Name: "open", Outbound: true}), join(t, n, Member{Name: "closed"})

	if m := ask(t, closed, "www.example.", dnsmessage.TypeA, nil); m.RCode != dnsmessage.RCodeNameError || len(m.Answers) != 0 {
		t.Errorf("without outbound: %v", m)
	}
	if len(r.asked) != 0 {
		t.Errorf("without outbound the resolver was asked for %v", r.asked)
	}
	if m := ask(t, closed, "open.internal.", dnsmessage.TypeA, nil); len(m.Answers) != 1 {
		t.Errorf("a member without outbound: %v", m)
	}
	if m := ask(t, open, "closed.internal.", dnsmessage.TypeTXT, nil); m.RCode != dnsmessage.RCodeSuccess || len(m.Answers) != 0 {
		t.Errorf("another type of a member: %v", m)
	}
	if m := ask(t, open, "x.y.internal.", dnsmessage.TypeA, nil); len(m.Answers) != 1 {
		t.Errorf("a deeper name below internal: %v", m)
	}
	if m := ask(t, open, "www.example.", dnsmessage.TypeHTTPS, nil); m.RCode != dnsmessage.RCodeSuccess || len(m.Answers) != 0 {
		t.Errorf("a type that the resolver does not know: %v", m)
	}
	if m := ask(t, open, "www.example.", dnsmessage.TypeCNAME, nil); len(m.Answers) != 1 {
		t.Errorf("CNAME: %v", m)
	}
	if m := ask(t, open, "www.example.", dnsmessage.TypeA, func(q *dnsmessage.Message) { q.Questions[0].Class = dnsmessage.ClassCHAOS }); m.RCode != dnsmessage.RCodeNotImplemented {
		t.Errorf("another class: %v", m)
	}
	edns := func(size int) func(*dnsmessage.Message) {
		return func(q *dnsmessage.Message) {
			var h dnsmessage.ResourceHeader
			if err := h.SetEDNS0(size, 0, false); err != nil {
				t.Fatal(err)
			}
			q.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{}}}
		}
	}
	for size, want := range map[int]struct {
		records   int
		truncated bool
	}{0: {16, true}, 100: {16, true}, 4096: {maxRecords, false}} {
		change := edns(size)
		if size == 0 {
			change = nil
		}
		m := ask(t, open, "many.example.", dnsmessage.TypeA, change)
		if len(m.Answers) != want.records || m.Truncated != want.truncated || (size > 0) != (len(m.Additionals) == 1) {
			t.Errorf("%d bytes: %d records, truncated %v, want %+v", size, len(m.Answers), m.Truncated, want)
		}
	}
	r.fails = true
	if m := ask(t, open, "www.example.", dnsmessage.TypeA, nil); m.RCode != dnsmessage.RCodeServerFailure {
		t.Errorf("without a network: %v", m)
	}
	for _, b := range [][]byte{nil, make([]byte, 12), make([]byte, maxQuery+1), []byte("hello, I am no query at all")} {
		if answer := open.answerQuery(b, false); answer != nil {
			t.Errorf("%q has the answer %q", b, answer)
		}
	}
}

// TestPace has a guest ask more than it may.
func TestPace(t *testing.T) {
	block := make(chan struct{})
	r := &blockingResolver{fakeResolver{addresses: map[string][]string{"www.example.": {"192.0.2.7"}}}, block}
	n := newNetwork(t, Config{Resolver: r})
	l := join(t, n, Member{Name: "a", Outbound: true})
	g := newRawGuest(t, l)
	q := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("www.example."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	b, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	gateway, _ := n.Gateway()
	to := netip.AddrPortFrom(gateway, dnsPort)
	for i := range 10 * maxQueries {
		g.packet(udpPacket(netip.AddrPortFrom(l.member.Addr, uint16(1000+i)), to, string(b)))
	}
	// All have been read when the gateway answers what comes after them.
	g.packet(echoRequest(l.member.Addr, gateway, "done"))
	g.want(gateway, "echo", func(p tcpip.TransportProtocolNumber, _ []byte) bool { return p == 1 })
	if dropped := l.Stats().Dropped; dropped != 9*maxQueries {
		t.Errorf("%d queries were dropped, want %d", dropped, 9*maxQueries)
	}
	close(block)
	for range maxQueries {
		g.want(gateway, "answer", func(p tcpip.TransportProtocolNumber, b []byte) bool {
			return p == 17 && binary.BigEndian.Uint16(b) == dnsPort
		})
	}
}

type blockingResolver struct {
	fakeResolver
	block chan struct{}
}

func (r *blockingResolver) LookupNetIP(ctx context.Context, network, name string) ([]netip.Addr, error) {
	select {
	case <-r.block:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return r.fakeResolver.LookupNetIP(ctx, network, name)
}

func FuzzQuery(f *testing.F) {
	r := &fakeResolver{addresses: map[string][]string{"www.example.": {"192.0.2.7"}}, texts: map[string][]string{"t.example.": {strings.Repeat("x", 1000)}}}
	n := newNetwork(f, Config{Resolver: r})
	l := join(f, n, Member{Name: "a", Outbound: true})
	for name, kind := range map[string]dnsmessage.Type{
		"www.example.": dnsmessage.TypeA, "a.internal.": dnsmessage.TypeAAAA, "t.example.": dnsmessage.TypeTXT,
		"2.2.0.10.in-addr.arpa.": dnsmessage.TypePTR, "x.": dnsmessage.TypeSRV,
	} {
		q := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}}}
		b, err := q.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, false)
	}
	f.Fuzz(func(t *testing.T, b []byte, tcp bool) {
		answer := l.answerQuery(b, tcp)
		if answer == nil {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(answer); err != nil || !m.Response || len(m.Questions) != 1 {
			t.Errorf("the answer is none: %v, %+v", err, m)
		}
		if !tcp && len(answer) > maxAnswerUDP {
			t.Errorf("the answer has %d bytes", len(answer))
		}
	})
}
