package machine

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// secureURL is what recipes/sql has.
const secureURL = "postgres://owner:${secret:owner}@${address}/app?sslmode=verify-full&sslrootcert=${certificate:server}"

func TestEncode(t *testing.T) {
	if got, want := encode("plain-._~ä%&/", unreserved), "plain-._~%C3%A4%25%26%2F"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := encode("/my files/a", unreserved+"/"), "/my%20files/a"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// secure starts a machine whose URL names its certificate.
func secure(t *testing.T) *Instance {
	t.Helper()
	f := setup(t, "good")
	i := f.start(t, StartOptions{})
	if err := i.WaitReady(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	i.manifest.Ports[0].URL = secureURL
	return i
}

// serve has the guest show the certificate from now on.
func serve(t *testing.T, i *Instance, text []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(i.Dir(), "server.crt"), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCertificateOfURL(t *testing.T) {
	i := secure(t)
	if _, err := i.URL(t.Context(), 0); fault.ClassOf(err) != fault.Device || !strings.Contains(err.Error(), "certificate server of postgresql") {
		t.Errorf("without a certificate: %v", err)
	}
	first, _ := newCertificate(t)
	serve(t, i, first)
	text, err := i.URL(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(i.Dir(), "certificates", "postgresql", "server.crt")
	if q := u.Query(); q.Get("sslmode") != "verify-full" || q.Get("sslrootcert") != path {
		t.Errorf("url %s", text)
	}
	kept := func() string {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if got := kept(); !strings.HasSuffix(got, string(first)) || !strings.Contains(got, "sovereign-build dsn sql") {
		t.Errorf("kept %q", got)
	}
	for p, mode := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700 | os.ModeDir} {
		if info, err := os.Stat(p); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", p, info, err)
		}
	}
	// The file is left alone as long as nothing has changed.
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := i.URL(t.Context(), 0); err != nil || again != text {
		t.Errorf("again: %s, %v", again, err)
	}
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
		t.Errorf("written anew: %v", err)
	}
	// The guest made a new one: so does the file, under the same URL.
	second, _ := newCertificate(t)
	serve(t, i, second)
	if again, err := i.URL(t.Context(), 0); err != nil || again != text || !strings.HasSuffix(kept(), string(second)) {
		t.Errorf("after a new certificate: %s, %v, %q", again, err, kept())
	}
	// What is no certificate is not kept.
	for _, rubbish := range []string{"rubbish", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", strings.Repeat(string(second), maxCertificates+1)} {
		serve(t, i, []byte(rubbish))
		if _, err := i.URL(t.Context(), 0); fault.ClassOf(err) != fault.Device || !strings.HasSuffix(kept(), string(second)) {
			t.Errorf("%.40q: %v", rubbish, err)
		}
	}
	if got := i.Secrets(); len(got) != 1 || got[0].Name != "owner" {
		t.Errorf("secrets %v", got)
	}
}

// Whoever has the port while the machine is down, and asks for the password,
// does not get it.
func TestImpostor(t *testing.T) {
	i := secure(t)
	text, pair := newCertificate(t)
	serve(t, i, text)
	dsn, err := i.URL(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	port, _ := i.HostPort(5432)
	if _, err := i.Stop(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	_, other := newCertificate(t)
	clients := map[string]func() error{"pgx": func() error {
		conn, err := pgx.Connect(t.Context(), dsn)
		if err == nil {
			err = conn.Close(t.Context())
		}
		return err
	}}
	if psql, err := exec.LookPath("psql"); err == nil {
		clients["psql"] = func() error {
			cmd := exec.CommandContext(t.Context(), psql, "--no-psqlrc", "--command=SELECT 1", dsn)
			cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}
			out, err := cmd.CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
			return err
		}
	}
	for name, connect := range clients {
		for _, tt := range []struct {
			server string
			cert   *tls.Certificate
			says   string // in the client's error
		}{
			{"an impostor with TLS", &other, "certificate"},
			{"an impostor without TLS", nil, "TLS"},
			{"the machine", &pair, "no password is right"},
		} {
			t.Run(name+" and "+tt.server, func(t *testing.T) {
				s := startThief(t, port, tt.cert)
				err := connect()
				if err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), "SSL", "TLS"), tt.says) {
					t.Errorf("got %v, want %q", err, tt.says)
				}
				said := s.end()
				if got, want := strings.Contains(said, "p@ss/w:rd %"), tt.cert == &pair; got != want {
					t.Errorf("saw the password: %v, of %q", got, said)
				}
			})
		}
	}
}

// newCertificate makes one as guests do.
func newCertificate(t testing.TB) (text []byte, pair tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "sql"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0), BasicConstraintsValid: true,
		DNSNames: []string{"localhost", "sql"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// thief speaks as much of PostgreSQL's protocol as it takes to ask a client for
// its password in clear.
type thief struct {
	listener net.Listener
	cert     *tls.Certificate // nil: no TLS
	talks    sync.WaitGroup

	mu   sync.Mutex
	said strings.Builder // by the clients, once TLS is off it
}

func startThief(t *testing.T, port int, cert *tls.Certificate) *thief {
	t.Helper()
	l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	s := &thief{listener: l, cert: cert}
	s.talks.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.talks.Go(func() {
				defer c.Close()
				// The client may break off anywhere: that is its right.
				_ = s.talk(c)
			})
		}
	})
	t.Cleanup(func() { l.Close() })
	return s
}

// end returns everything that clients have said.
func (s *thief) end() string {
	s.listener.Close()
	s.talks.Wait()
	return s.said.String()
}

func (s *thief) talk(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	const sslRequest, gssRequest = 80877103, 80877104
	for {
		m, err := s.read(c)
		if err != nil {
			return err
		}
		switch code := binary.BigEndian.Uint32(m); {
		case code == gssRequest || code == sslRequest && s.cert == nil:
			if _, err := c.Write([]byte{'N'}); err != nil {
				return err
			}
		case code == sslRequest:
			if _, err := c.Write([]byte{'S'}); err != nil {
				return err
			}
			c = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{*s.cert}})
		default: // the start of a session: AuthenticationCleartextPassword
			if _, err := c.Write([]byte{'R', 0, 0, 0, 8, 0, 0, 0, 3}); err != nil {
				return err
			}
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				return err
			}
			if _, err := s.read(c); err != nil {
				return err
			}
			const text = "SFATAL\x00C28P01\x00Mno password is right\x00\x00"
			_, err := c.Write(append([]byte{'E', 0, 0, 0, byte(4 + len(text))}, text...))
			return err
		}
	}
}

// read reads a message, and keeps it.
func (s *thief) read(c net.Conn) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 8 || n > 1<<16 {
		return nil, errors.New("not a message")
	}
	m := make([]byte, n-4)
	_, err := io.ReadFull(c, m)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said.Write(m)
	return m, err
}

// FuzzOnlyCertificates checks that what is kept of a guest's answer reads as
// the same certificates, and is nothing else.
func FuzzOnlyCertificates(f *testing.F) {
	f.Add("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
	f.Add("# a remark\n-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n")
	good, _ := newCertificate(f)
	f.Add(string(good) + "rest")
	f.Fuzz(func(t *testing.T, text string) {
		out, err := onlyCertificates(text)
		if err != nil {
			return
		}
		if !x509.NewCertPool().AppendCertsFromPEM([]byte(out)) {
			t.Errorf("kept %q", out)
		}
		if again, err := onlyCertificates(out); err != nil || again != out {
			t.Errorf("%v, %q is not %q", err, again, out)
		}
	})
}
