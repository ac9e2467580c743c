package services

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

func TestCertificates(t *testing.T) {
	v := svc("db", forever, func(s *spec.Service) {
		s.Certificates = []spec.Certificate{{Name: "server", Hosts: []string{"localhost", "127.0.0.1", "::1"}}}
	})
	r := start(t, "", v)
	r.state(agent.StateReady)
	text, err := r.Secret(t.Context(), "db", "server.crt")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(r.data, "secrets/db/server")
	if _, err := tls.LoadX509KeyPair(path+".crt", path+".key"); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(text))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	for _, host := range []string{"localhost", "127.0.0.1", "::1", "test"} {
		if _, err := cert.Verify(x509.VerifyOptions{DNSName: host, Roots: roots, CurrentTime: time.Now().AddDate(9, 0, 0)}); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	if i, err := os.Stat(path + ".key"); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("key: %v, %v", i, err)
	}
	if _, err := r.Secret(t.Context(), "db", "server.key"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the key left the guest: %v", err)
	}
	// It stays; a lost certificate is made again for the same key.
	key, err := os.ReadFile(path + ".key")
	if err != nil {
		t.Fatal(err)
	}
	a := account{uid: os.Getuid(), gid: os.Getgid()}
	again := func() string {
		t.Helper()
		image := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
		if err := makeCertificate(filepath.Dir(path), v.Certificates[0], "test", image, time.Unix(9, 0), a); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path + ".crt")
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if again() != text {
		t.Error("a certificate that was there is another now")
	}
	if err := os.Remove(path + ".crt"); err != nil {
		t.Fatal(err)
	}
	block, _ = pem.Decode([]byte(again()))
	if cert, err = x509.ParseCertificate(block.Bytes); err != nil || cert.NotBefore.Year() != 1970 || cert.NotAfter.Year() != 2036 {
		t.Errorf("with a clock that is wrong: %v to %v, %v", cert.NotBefore, cert.NotAfter, err)
	}
	if b, err := os.ReadFile(path + ".key"); err != nil || string(b) != string(key) {
		t.Errorf("the key is another: %v", err)
	}
	if err := errors.Join(os.WriteFile(path+".key", []byte("rubbish"), 0o600), os.Remove(path+".crt")); err != nil {
		t.Fatal(err)
	}
	if err := makeCertificate(filepath.Dir(path), v.Certificates[0], "test", time.Time{}, time.Now(), a); err == nil || !strings.Contains(err.Error(), "no PEM") {
		t.Errorf("a broken key: %v", err)
	}
}

// made is a directory with a certificate as init makes it.
type made struct {
	t   *testing.T
	dir string
	spec.Certificate
}

func newMade(t *testing.T) made {
	t.Helper()
	m := made{t, t.TempDir(), spec.Certificate{Name: "server", Hosts: []string{"localhost", "127.0.0.1"}}}
	m.make()
	return m
}

func (m made) make() {
	m.t.Helper()
	now := time.Now()
	if err := makeCertificate(m.dir, m.Certificate, "sql", now, now, account{uid: os.Getuid(), gid: os.Getgid()}); err != nil {
		m.t.Fatal(err)
	}
}

func (m made) path() string { return filepath.Join(m.dir, "server.crt") }

func (m made) text() string {
	m.t.Helper()
	b, err := os.ReadFile(m.path())
	if err != nil {
		m.t.Fatal(err)
	}
	return string(b)
}

func (m made) parse() *x509.Certificate {
	m.t.Helper()
	block, _ := pem.Decode([]byte(m.text()))
	if block == nil {
		m.t.Fatalf("no certificate: %q", m.text())
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		m.t.Fatal(err)
	}
	return c
}

func (m made) key() *ecdsa.PrivateKey {
	m.t.Helper()
	key, err := readKey(filepath.Join(m.dir, "server.key"))
	if err != nil {
		m.t.Fatal(err)
	}
	return key
}

// sign makes a certificate for a public key with the key of this one.
func (m made) sign(template, parent *x509.Certificate, public *ecdsa.PublicKey) []byte {
	m.t.Helper()
	template.SerialNumber = big.NewInt(7)
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().AddDate(10, 0, 0)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, m.key())
	if err != nil {
		m.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// Who trusts the certificate trusts this server and nobody whom the key signs.
func TestCertificateIsNoCA(t *testing.T) {
	m := newMade(t)
	own := m.parse()
	if own.IsCA || !own.BasicConstraintsValid || own.KeyUsage&x509.KeyUsageCertSign != 0 {
		t.Errorf("CA %v, key usage %b", own.IsCA, own.KeyUsage)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	forged := filepath.Join(m.dir, "forged.crt")
	text := m.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "bank"}, DNSNames: []string{"bank.example"}}, own, &other.PublicKey)
	if err := os.WriteFile(forged, text, 0o600); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(own)
	if _, err := leaf.Verify(x509.VerifyOptions{DNSName: "bank.example", Roots: roots}); err == nil {
		t.Error("Go trusts what the server's key signed")
	}
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("no openssl here")
	}
	verify := func(file string, more ...string) (string, bool) {
		out, err := exec.Command(openssl, append(append([]string{"verify", "-CAfile", m.path(), "-purpose", "sslserver"}, more...), file)...).CombinedOutput()
		return string(out), err == nil
	}
	if out, ok := verify(m.path(), "-verify_ip", "127.0.0.1"); !ok {
		t.Errorf("OpenSSL does not take the certificate as its own root: %s", out)
	}
	if out, ok := verify(m.path(), "-verify_hostname", "bank.example"); ok {
		t.Errorf("OpenSSL takes it for another's: %s", out)
	}
	if out, ok := verify(forged); ok {
		t.Errorf("OpenSSL trusts what the server's key signed: %s", out)
	}
}

// Certificates on data disks outlive the program that made them.
func TestCertificateIsReplaced(t *testing.T) {
	names := func(c *x509.Certificate) {
		c.Subject, c.DNSNames, c.IPAddresses = pkix.Name{CommonName: "sql"}, []string{"localhost", "sql"}, []net.IP{net.IPv4(127, 0, 0, 1)}
		c.BasicConstraintsValid = true
	}
	tests := []struct {
		name   string
		change func(*x509.Certificate) // of a good one
		stays  bool
	}{
		{"as it is made now", func(*x509.Certificate) {}, true},
		{"a CA for any name", func(c *x509.Certificate) {
			c.KeyUsage, c.IsCA, c.MaxPathLenZero = x509.KeyUsageDigitalSignature|x509.KeyUsageCertSign, true, true
		}, false},
		{"for another address", func(c *x509.Certificate) { c.IPAddresses[0] = net.IPv4(127, 0, 0, 2) }, false},
		{"for fewer names", func(c *x509.Certificate) { c.DNSNames = c.DNSNames[:1] }, false},
		{"near its end", func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().AddDate(-9, -1, 0), time.Now().AddDate(0, 11, 0)
		}, false},
		{"the owner's", func(c *x509.Certificate) { c.Subject.CommonName, c.DNSNames = "mine", []string{"db.example"} }, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMade(t)
			key := m.key()
			c := new(x509.Certificate)
			names(c)
			tt.change(c)
			if err := os.WriteFile(m.path(), m.sign(c, c, &key.PublicKey), 0o644); err != nil {
				t.Fatal(err)
			}
			before := m.text()
			m.make()
			if stays := m.text() == before; stays != tt.stays {
				t.Errorf("stays: %v", stays)
			}
			if !m.key().Equal(key) {
				t.Error("the key is another")
			}
			if c := m.parse(); !tt.stays && (c.IsCA || !slices.Contains(c.DNSNames, "sql") || !c.IPAddresses[0].Equal(net.IPv4(127, 0, 0, 1))) {
				t.Errorf("the new one: CA %v, %q, %v", c.IsCA, c.DNSNames, c.IPAddresses)
			}
		})
	}
	m := newMade(t)
	for _, rubbish := range []string{"", "rubbish", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		if err := os.WriteFile(m.path(), []byte(rubbish), 0o644); err != nil {
			t.Fatal(err)
		}
		m.make()
		m.parse()
	}
}
