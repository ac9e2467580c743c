package runtime

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"testing"
	"time"
)

func TestEncode(t *testing.T) {
	if got, want := encode("plain-._~ä%&/", unreserved), "plain-._~%C3%A4%25%26%2F"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := encode("/my files/a", unreserved+"/"), "/my%20files/a"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// NewCertificate makes one as guests do.
func NewCertificate(t testing.TB) (text []byte, pair tls.Certificate) {
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

// FuzzOnlyCertificates checks that what is kept of a guest's answer reads as
// the same certificates, and is nothing else.
func FuzzOnlyCertificates(f *testing.F) {
	f.Add("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
	f.Add("# a remark\n-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n")
	good, _ := NewCertificate(f)
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
