package tailnet

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"
	"tailscale.com/tailcfg"
)

// authority is Let's Encrypt's own test server: it signs certificates for those
// who can put a record into the tailnet's DNS, which is here too.
type authority struct {
	directory string // its URL
	own       tls.Certificate
	root      []byte // that of its own servers, PEM
	roots     *x509.CertPool

	mu      sync.Mutex
	records map[string]string // TXT by name
}

func serveAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{roots: x509.NewCertPool(), records: map[string]string{}}
	a.certify(t)
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	t.Setenv("PEBBLE_WFE_NONCEREJECT", "0")
	quiet := log.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	issuer := ca.New(quiet, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {}})
	front := wfe.New(quiet, store, va.New(quiet, 80, 443, false, a.serveDNS(t), store), issuer, []string{"test.invalid"}, false, false, 0, 0)
	handler := front.Handler()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Where the order is, which Let's Encrypt says here and this server does not.
		if order, ok := strings.CutPrefix(r.URL.Path, "/finalize-order/"); ok {
			w.Header().Set("Location", "https://"+r.Host+"/my-order/"+order)
		}
		handler.ServeHTTP(w, r)
	}))
	listenEverywhere(t, server)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{a.own}}
	server.StartTLS()
	t.Cleanup(server.Close)
	a.directory = fmt.Sprintf("https://%s:%d%s", host, server.Listener.Addr().(*net.TCPAddr).Port, wfe.DirectoryPath)
	if !a.roots.AppendCertsFromPEM(issuer.GetRootCert(0).PEM()) {
		t.Fatal("the authority has no root")
	}
	return a
}

// certify makes the certificate of this test's own servers.
func (a *authority) certify(t *testing.T) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.ParseIP(host)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	a.root = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	a.own = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}
}

// serveTLS serves at port 443 too: a node that calls its control server twice
// within two minutes takes that the second time.
func (a *authority) serveTLS(t *testing.T, h http.Handler) {
	t.Helper()
	l, err := net.Listen("tcp4", host+":443")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(h)
	if err := server.Listener.Close(); err != nil {
		t.Fatal(err)
	}
	server.Listener, server.TLS = l, &tls.Config{Certificates: []tls.Certificate{a.own}}
	server.Config.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){} // no HTTP/2
	server.StartTLS()
	t.Cleanup(server.Close)
}

// serveDNS answers what the authority asks, and returns where.
func (a *authority) serveDNS(t *testing.T) string {
	t.Helper()
	conn, err := net.Listen("tcp4", host+":0") // it asks by TCP
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{Listener: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		answer := new(dns.Msg)
		answer.SetReply(q)
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, question := range q.Question {
			name := strings.ToLower(strings.TrimSuffix(question.Name, "."))
			if text, ok := a.records[name]; ok && question.Qtype == dns.TypeTXT {
				answer.Answer = append(answer.Answer, &dns.TXT{
					Hdr: dns.RR_Header{Name: question.Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{text},
				})
			}
		}
		if err := w.WriteMsg(answer); err != nil {
			t.Logf("the authority's DNS: %v", err)
		}
	})}
	go server.ActivateAndServe() //nolint:errcheck // it ends with the test
	t.Cleanup(func() {
		if err := server.Shutdown(); err != nil {
			t.Error(err)
		}
	})
	return conn.Addr().String()
}

// set is what a control server does with a node's record.
func (a *authority) set(r *tailcfg.SetDNSRequest) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.records[strings.ToLower(r.Name)] = r.Value
	return nil
}
