package usernet

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	dnsPort = 53
	// maxQuery is the bytes of a query: a name has 255, and there may be an
	// OPT record with a cookie or padding.
	maxQuery = 1024
	// minAnswer is what a client takes over UDP that says nothing (RFC 1035),
	// and maxAnswerUDP what one gets that says more: what fits into any
	// packet without fragments (DNS flag day 2020).
	minAnswer    = 512
	maxAnswerUDP = 1232
	maxAnswerTCP = 65535
	// maxRecords is what is taken of one answer of the resolver.
	maxRecords = 64
	// maxTCPQueries is what one connection may ask.
	maxTCPQueries = 64
)

// queryUDP answers a query when the resolver has. Too many are dropped: their
// sender asks again.
func (l *Link) queryUDP(from, to netip.AddrPort, query []byte) {
	if !l.pace.Allow() || !l.queries.take() {
		l.stats.dropped.Add(1)
		return
	}
	if !l.start(func() {
		defer l.queries.give()
		if answer := l.answerQuery(query, false); answer != nil {
			_ = l.network.sendUDP(to, from, answer) // lost as any datagram
		}
	}) {
		l.queries.give()
	}
}

// serveDNS answers the queries of a connection, one after the other.
func (l *Link) serveDNS(conn net.Conn) {
	for range maxTCPQueries {
		if conn.SetDeadline(time.Now().Add(dnsIdle)) != nil {
			return
		}
		var size [2]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(size[:]))
		if n > maxQuery {
			return
		}
		query := make([]byte, n)
		if _, err := io.ReadFull(conn, query); err != nil {
			return
		}
		if l.pace.Wait(l.ctx) != nil || !l.queries.take() {
			return
		}
		answer := l.answerQuery(query, true)
		l.queries.give()
		if answer == nil || conn.SetDeadline(time.Now().Add(dnsIdle)) != nil {
			return
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}

// answerQuery returns the answer to a query, or nil for what is none.
func (l *Link) answerQuery(query []byte, tcp bool) []byte {
	q, ok := parseQuery(query)
	if !ok {
		return nil
	}
	limit := maxAnswerTCP
	if !tcp {
		limit = min(max(q.size, minAnswer), maxAnswerUDP)
	}
	records, code := []dnsmessage.ResourceBody(nil), dnsmessage.RCodeNotImplemented
	if q.header.OpCode == 0 && q.question.Class == dnsmessage.ClassINET {
		ctx, cancel := context.WithTimeout(l.ctx, queryPatience)
		defer cancel()
		records, code = l.lookup(ctx, q.question.Name.String(), q.question.Type)
	}
	return q.answer(records, code, limit)
}

// query is what is read of one. size is what its sender takes over UDP, in
// bytes, and 0 where it has not said.
type query struct {
	header   dnsmessage.Header
	question dnsmessage.Question
	edns     bool
	size     int
}

// parseQuery reads a query with one question; other resolvers know no others
// either (RFC 9619).
func parseQuery(b []byte) (q query, ok bool) {
	if len(b) > maxQuery {
		return q, false
	}
	var p dnsmessage.Parser
	var err error
	if q.header, err = p.Start(b); err != nil || q.header.Response {
		return q, false
	}
	if q.question, err = p.Question(); err != nil {
		return q, false
	}
	if _, err = p.Question(); !errors.Is(err, dnsmessage.ErrSectionDone) {
		return q, false
	}
	if p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return q, false
	}
	for {
		h, err := p.AdditionalHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return q, true
		}
		if err != nil {
			return q, false
		}
		if h.Type == dnsmessage.TypeOPT {
			q.edns, q.size = true, int(h.Class) // RFC 6891, 6.1.2
		}
		if p.SkipAdditional() != nil {
			return q, false
		}
	}
}

// answer writes the answer, with as many records as fit; TC says that there
// are more.
func (q query) answer(records []dnsmessage.ResourceBody, code dnsmessage.RCode, limit int) []byte {
	for {
		h := dnsmessage.Header{
			ID: q.header.ID, Response: true, OpCode: q.header.OpCode, RecursionDesired: q.header.RecursionDesired,
			RecursionAvailable: true, RCode: code,
		}
		m := dnsmessage.Message{Header: h, Questions: []dnsmessage.Question{q.question}}
		for _, r := range records {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				// No time to live: what the resolver knows of that, it
				// keeps for itself.
				Header: dnsmessage.ResourceHeader{Name: q.question.Name, Class: dnsmessage.ClassINET},
				Body:   r,
			})
		}
		if q.edns {
			var opt dnsmessage.ResourceHeader
			if opt.SetEDNS0(maxAnswerUDP, dnsmessage.RCodeSuccess, false) != nil {
				return nil
			}
			m.Additionals = []dnsmessage.Resource{{Header: opt, Body: &dnsmessage.OPTResource{}}}
		}
		m.Truncated = q.header.Truncated // set below, for the second round
		b, err := m.Pack()
		if err != nil {
			if code == dnsmessage.RCodeServerFailure {
				return nil
			}
			records, code = nil, dnsmessage.RCodeServerFailure
			continue
		}
		if len(b) <= limit || len(records) == 0 {
			return b
		}
		records = records[:len(records)/2]
		q.header.Truncated = true
	}
}

// lookup answers one question: for members here, for the world by the resolver.
//
// A name without a dot is a member's or nobody's: the guests' search domain may
// be none, and such names are not the world's (RFC 7085). So is NAME.internal;
// deeper names below internal are asked of the resolver, for a network that the
// host is in may have some.
func (l *Link) lookup(ctx context.Context, name string, t dnsmessage.Type) ([]dnsmessage.ResourceBody, dnsmessage.RCode) {
	labels := strings.Split(strings.TrimSuffix(strings.ToLower(name), "."), ".")
	if len(labels) == 1 || len(labels) == 2 && labels[1] == domain {
		return l.lookupMember(labels, t)
	}
	if a, ok := reverseName(labels); ok {
		if l.network.config.Prefix.Contains(a) || l.network.config.Prefix6.Contains(a) {
			if other := l.network.linkOf(a); other != nil && t == dnsmessage.TypePTR {
				return pointers([]string{other.member.Name + "." + domain + "."})
			}
			return nil, dnsmessage.RCodeNameError
		}
	}
	if !l.member.Outbound {
		// musl waits for 5 seconds where it is refused (RCodeRefused), as
		// for no answer at all, but believes that there is no such name.
		return nil, dnsmessage.RCodeNameError
	}
	records, err := lookupWorld(ctx, l.network.config.Resolver, name, labels, t)
	var nerr *net.DNSError
	switch {
	case err == nil:
		return records[:min(len(records), maxRecords)], dnsmessage.RCodeSuccess
	case errors.As(err, &nerr) && nerr.IsNotFound:
		return nil, dnsmessage.RCodeNameError
	}
	return nil, dnsmessage.RCodeServerFailure
}

func (l *Link) lookupMember(labels []string, t dnsmessage.Type) ([]dnsmessage.ResourceBody, dnsmessage.RCode) {
	other := l.network.linkNamed(labels[0])
	if other == nil {
		return nil, dnsmessage.RCodeNameError
	}
	switch {
	case t == dnsmessage.TypeA:
		return addresses([]netip.Addr{other.member.Addr}), dnsmessage.RCodeSuccess
	case t == dnsmessage.TypeAAAA && other.member.Addr6.IsValid():
		return addresses([]netip.Addr{other.member.Addr6}), dnsmessage.RCodeSuccess
	}
	return nil, dnsmessage.RCodeSuccess
}

func addresses(list []netip.Addr) (records []dnsmessage.ResourceBody) {
	for _, a := range list {
		if a = a.Unmap(); a.Is4() {
			records = append(records, &dnsmessage.AResource{A: a.As4()})
		} else {
			records = append(records, &dnsmessage.AAAAResource{AAAA: a.As16()})
		}
	}
	return records
}

func pointers(names []string) (records []dnsmessage.ResourceBody, code dnsmessage.RCode) {
	for _, n := range names {
		if name, err := dnsmessage.NewName(absolute(n)); err == nil {
			records = append(records, &dnsmessage.PTRResource{PTR: name})
		}
	}
	return records, dnsmessage.RCodeSuccess
}

func absolute(name string) string {
	if strings.HasSuffix(name, ".") {
		return name
	}
	return name + "."
}

// lookupWorld asks the resolver. Types that it does not know have no records.
func lookupWorld(ctx context.Context, r Resolver, name string, labels []string, t dnsmessage.Type) (records []dnsmessage.ResourceBody, err error) {
	add := func(target string, body func(dnsmessage.Name) dnsmessage.ResourceBody) {
		if n, err := dnsmessage.NewName(absolute(target)); err == nil {
			records = append(records, body(n))
		}
	}
	switch t {
	case dnsmessage.TypeA, dnsmessage.TypeAAAA:
		network, is4 := "ip4", true
		if t == dnsmessage.TypeAAAA {
			network, is4 = "ip6", false
		}
		list, err := r.LookupNetIP(ctx, network, name)
		for _, a := range list {
			if a = a.Unmap(); a.Is4() == is4 {
				records = append(records, addresses([]netip.Addr{a})...)
			}
		}
		return records, err
	case dnsmessage.TypePTR:
		a, ok := reverseName(labels)
		if !ok {
			return nil, nil
		}
		names, err := r.LookupAddr(ctx, a.String())
		records, _ = pointers(names)
		return records, err
	case dnsmessage.TypeCNAME:
		target, err := r.LookupCNAME(ctx, name)
		if err == nil && !strings.EqualFold(absolute(target), name) {
			add(target, func(n dnsmessage.Name) dnsmessage.ResourceBody { return &dnsmessage.CNAMEResource{CNAME: n} })
		}
		return records, err
	case dnsmessage.TypeMX:
		list, err := r.LookupMX(ctx, name)
		for _, m := range list {
			add(m.Host, func(n dnsmessage.Name) dnsmessage.ResourceBody {
				return &dnsmessage.MXResource{Pref: m.Pref, MX: n}
			})
		}
		return records, err
	case dnsmessage.TypeNS:
		list, err := r.LookupNS(ctx, name)
		for _, m := range list {
			add(m.Host, func(n dnsmessage.Name) dnsmessage.ResourceBody { return &dnsmessage.NSResource{NS: n} })
		}
		return records, err
	case dnsmessage.TypeSRV:
		_, list, err := r.LookupSRV(ctx, "", "", name)
		for _, s := range list {
			add(s.Target, func(n dnsmessage.Name) dnsmessage.ResourceBody {
				return &dnsmessage.SRVResource{Priority: s.Priority, Weight: s.Weight, Port: s.Port, Target: n}
			})
		}
		return records, err
	case dnsmessage.TypeTXT:
		list, err := r.LookupTXT(ctx, name)
		for _, text := range list {
			records = append(records, &dnsmessage.TXTResource{TXT: strings255(text)})
		}
		return records, err
	}
	return nil, nil
}

// strings255 cuts a text into the strings of at most 255 bytes that a TXT
// record has.
func strings255(text string) (list []string) {
	for len(text) > 255 {
		list, text = append(list, text[:255]), text[255:]
	}
	return append(list, text)
}

// reverseName returns the address that a name below in-addr.arpa or ip6.arpa
// asks for.
func reverseName(labels []string) (a netip.Addr, ok bool) {
	n := len(labels) - 2
	if n < 1 || labels[n+1] != "arpa" {
		return a, false
	}
	turned := make([]string, n)
	for i, l := range labels[:n] {
		turned[n-1-i] = l
	}
	var err error
	switch {
	case labels[n] == "in-addr" && n == 4:
		a, err = netip.ParseAddr(strings.Join(turned, "."))
		return a, err == nil && a.Is4()
	case labels[n] == "ip6" && n == 32:
		var b strings.Builder
		for i, l := range turned {
			if len(l) != 1 {
				return a, false
			}
			if i > 0 && i%4 == 0 {
				b.WriteByte(':')
			}
			b.WriteString(l)
		}
		a, err = netip.ParseAddr(b.String())
		return a, err == nil && a.Is6()
	}
	return a, false
}
