package engine

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// authority signs certificates for a test.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	a.cert, a.key = a.issue(t, name, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

// file is the path of NAME.crt or NAME.key.
func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// issue writes NAME.crt and NAME.key.
func (a *authority) issue(t *testing.T, name string, c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	c.SerialNumber, c.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: name}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := c, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	must(err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(err)
	must(os.WriteFile(a.file(name+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(os.WriteFile(a.file(name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	parsed, err := x509.ParseCertificate(der)
	must(err)
	return parsed, key
}

// server starts a BuildKit as somebody else runs one: on TCP, for clients with
// a certificate of the authority alone.
func server(t *testing.T, a *authority) (address string) {
	t.Helper()
	program := buildkitd(t)
	h := thisHost()
	runc, err := h.runtime()
	if err != nil {
		t.Skip(err)
	}
	a.issue(t, "server", &x509.Certificate{
		DNSNames: []string{"builder.example"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	a.issue(t, "client", &x509.Certificate{KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = "tcp://" + l.Addr().String()
	if err := l.Close(); err != nil { // the daemon takes the port over
		t.Fatal(err)
	}
	state := t.TempDir()
	for _, dir := range []string{"root", temporary} {
		if err := os.MkdirAll(filepath.Join(state, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	c := daemonConfig{root: filepath.Join(state, "root"), socket: filepath.Join(state, "unused.sock"), runc: runc, rootless: h.uid != 0, cacheLimit: MinCacheLimit}
	unix := fmt.Sprintf("address = [%q]", "unix://"+c.socket)
	config := strings.Replace(c.toml(), unix, fmt.Sprintf("address = [%q]\n[grpc.tls]\nca = %q\ncert = %q\nkey = %q", address, a.file("authority.crt"), a.file("server.crt"), a.file("server.key")), 1)
	path := filepath.Join(state, "buildkitd.toml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd, err := h.command(program, path, state, state)
	if err != nil {
		t.Skip(err)
	}
	said, err := os.Create(filepath.Join(state, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The first process of its pid namespace: all of it ends with it.
		if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // killed
		if text, err := os.ReadFile(said.Name()); t.Failed() && err == nil {
			t.Logf("the server said:\n%s", text)
		}
	})
	eventually(t, "the server at "+address, func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(address, "tcp://"))
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return address
}

// TestRemoteTLS builds on a server that knows its clients by certificate.
func TestRemoteTLS(t *testing.T) {
	base := busyboxImage(t)
	a := newAuthority(t, "authority")
	address := server(t, a)
	with := TLS{CA: a.file("authority.crt"), Cert: a.file("client.crt"), Key: a.file("client.key")}
	hello := Step{Name: "hello", Base: base, Script: "cat /src/x > /out/x", Inputs: []Input{input(t, "/src/x", "from here")}}

	e, err := Start(t.Context(), WithAddress(address), WithTLS(with), WithStateDir(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	if files, err := run(t.Context(), e, hello); err != nil || files["x"] != "from here" {
		t.Errorf("%v, %v", files, err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}

	other := newAuthority(t, "other")
	other.issue(t, "client", &x509.Certificate{KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	for _, c := range []struct {
		name string
		tls  TLS
		want fault.Class
	}{
		{"no certificate of its own", TLS{CA: with.CA}, fault.Environment},
		{"a client nobody knows", TLS{CA: with.CA, Cert: other.file("client.crt"), Key: other.file("client.key")}, fault.Environment},
		{"a server nobody knows", TLS{CA: other.file("other.crt"), Cert: with.Cert, Key: with.Key}, fault.Environment},
		{"another name", TLS{CA: with.CA, Cert: with.Cert, Key: with.Key, ServerName: "elsewhere.example"}, fault.Environment},
		{"a file that is not there", TLS{CA: with.CA, Cert: with.Cert, Key: a.file("nobody.key")}, fault.Usage},
	} {
		e, err := Start(t.Context(), WithAddress(address), WithTLS(c.tls), WithStateDir(t.TempDir()))
		if err == nil {
			_, err = run(t.Context(), e, hello)
			if closed := e.Close(); closed != nil {
				t.Error(closed)
			}
		}
		if fault.ClassOf(err) != c.want {
			t.Errorf("%s: %v (%v)", c.name, err, fault.ClassOf(err))
		}
	}
	named := with
	named.ServerName = "builder.example"
	e, err = Start(t.Context(), WithAddress(address), WithTLS(named), WithStateDir(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := run(t.Context(), e, hello); err != nil {
		t.Errorf("by its name: %v", err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

// TestSharedCache: what one engine has built, another takes from the registry
// between them.
func TestSharedCache(t *testing.T) {
	registry := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	defer registry.Close()
	spec := "type=registry,registry.insecure=true,ref=" + strings.TrimPrefix(registry.URL, "http://") + "/cache:steps"
	base := busyboxImage(t)
	step := Step{Name: "once", Base: base, Script: "cat /proc/sys/kernel/random/uuid > /out/uuid", Inputs: []Input{input(t, "/src/x", "x")}}

	first := start(t, "", WithCacheExport(spec+",mode=max"))
	made, err := run(t.Context(), first, step)
	if err != nil {
		t.Fatal(err)
	}
	second := start(t, "", WithCacheImport(spec))
	taken, err := run(t.Context(), second, step)
	if err != nil {
		t.Fatal(err)
	}
	if made["uuid"] == "" || made["uuid"] != taken["uuid"] {
		t.Errorf("the second engine made %q, the first %q", taken["uuid"], made["uuid"])
	}
	if got := second.Stats(); got != (Stats{Cached: 1}) {
		t.Errorf("the second engine's stats: %+v", got)
	}
}
