package runtime_test

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
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

	"github.com/sovereign-build/sovereign/internal/machine/machinetest"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

// secureURL is what recipes/sql has.
const secureURL = "postgres://owner:${secret:owner}@${address}/app?sslmode=verify-full&sslrootcert=${certificate:server}"

// secure starts a machine whose URL names its certificate.
func secure(t *testing.T) (*fixture, *runtime.Machine) {
	t.Helper()
	f := setup(t)
	machinetest.WriteBundleWith(t, f.bundle, "one", "fake=quick", func(m *bundle.Manifest) { m.Ports[0].URL = secureURL })
	return f, f.up(t)
}

// serve has the guest show the certificate from now on.
func (f *fixture) serve(t *testing.T, text []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, "instances", "sql", "server.crt"), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCertificateOfURL(t *testing.T) {
	f, m := secure(t)
	ctx := deadline(t)
	url0 := func() (string, error) {
		c, err := m.Credentials(ctx, 0)
		return c.URL, err
	}
	if _, err := url0(); fault.ClassOf(err) != fault.Device || !strings.Contains(err.Error(), "certificate server of postgresql") {
		t.Errorf("without a certificate: %v", err)
	}
	first, _ := runtime.NewCertificate(t)
	f.serve(t, first)
	text, err := url0()
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(f.dir, "instances", "sql", "certificates", "postgresql", "server.crt")
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
	if again, err := url0(); err != nil || again != text {
		t.Errorf("again: %s, %v", again, err)
	}
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
		t.Errorf("written anew: %v", err)
	}
	// The guest made a new one: so does the file, under the same URL.
	second, _ := runtime.NewCertificate(t)
	f.serve(t, second)
	if again, err := url0(); err != nil || again != text || !strings.HasSuffix(kept(), string(second)) {
		t.Errorf("after a new certificate: %s, %v, %q", again, err, kept())
	}
	// What is no certificate is not kept.
	for _, rubbish := range []string{"rubbish", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", strings.Repeat(string(second), 9)} {
		f.serve(t, []byte(rubbish))
		if _, err := url0(); fault.ClassOf(err) != fault.Device || !strings.HasSuffix(kept(), string(second)) {
			t.Errorf("%.40q: %v", rubbish, err)
		}
	}
	if refs, err := m.Secrets(ctx); err != nil || len(refs) != 1 || refs[0].Name != "owner" {
		t.Errorf("secrets %v, %v", refs, err)
	}
}

// Whoever has the port while the machine is down, and asks for the password,
// does not get it.
func TestImpostor(t *testing.T) {
	f, m := secure(t)
	text, pair := runtime.NewCertificate(t)
	f.serve(t, text)
	c, err := m.Credentials(deadline(t), 0)
	if err != nil {
		t.Fatal(err)
	}
	dsn, port := c.URL, status(t, m).Ports[0].Host
	if _, err := m.Down(deadline(t), 0); err != nil {
		t.Fatal(err)
	}
	_, other := runtime.NewCertificate(t)
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
