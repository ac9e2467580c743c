package services

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

// certificateYears is how long a certificate is good for. It names a machine
// to those who were shown its certificate, and each of them has to be shown the
// next one.
const certificateYears = 10

// renewYears before its end a certificate is replaced, at a start of the
// service.
const renewYears = 1

// makeCertificate makes NAME.key and NAME.crt in dir, unless both are there and
// the certificate is what it would be if it were made now. A key that is there
// is kept: a power cut may have come between the two.
//
// The clock may be wrong at the first start, so that the certificate is good
// from the earlier of now and the image's date, and for years from the later.
func makeCertificate(dir string, c spec.Certificate, guest string, image, now time.Time, a account) error {
	path := filepath.Join(dir, c.Name)
	from, until := image, now
	if now.Before(image) {
		from, until = now, image
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: guest},
		NotBefore: from.UTC(), NotAfter: until.UTC().AddDate(certificateYears, 0, 0),
		// A client that was given the certificate uses it as its root. It is no
		// CA all the same: whoever gets hold of the key is this server to such
		// a client, and no other. There is no key usage: without the right to
		// sign certificates OpenSSL before 3.0 takes it for one whose issuer is
		// missing, and with that right it would be a CA's.
		BasicConstraintsValid: true, IsCA: false,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range append(slices.Clone(c.Hosts), guest) {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if !slices.Contains(template.DNSNames, h) {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	// The certificate is written last. With it everything is there, and
	// parsing the key would only make every start wait.
	if exists(path+".key") && goodCertificate(path+".crt", template, until) {
		return nil
	}
	key, err := readKey(path + ".key")
	if errors.Is(err, os.ErrNotExist) {
		key, err = makeKey(path+".key", a)
	}
	if err != nil {
		return fmt.Errorf("certificate %s: %w", path, err)
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return fmt.Errorf("certificate %s: %w", path, err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return fmt.Errorf("certificate %s: %w", path, err)
	}
	return writeFile(path+".crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), 0o644, a)
}

// goodCertificate says whether a certificate is there that may stay: somebody
// else's, which the owner has put there, or one that was made here, is as this
// program makes them, for the hosts that are asked for now, and has time left.
func goodCertificate(path string, want *x509.Certificate, now time.Time) bool {
	text, err := readSecret(path)
	if err != nil {
		return false
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return false
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return false
	}
	if c.Issuer.String() != want.Subject.String() {
		return true
	}
	return !c.IsCA && c.KeyUsage == want.KeyUsage && slices.Equal(c.DNSNames, want.DNSNames) &&
		slices.EqualFunc(c.IPAddresses, want.IPAddresses, net.IP.Equal) &&
		now.Before(c.NotAfter.AddDate(-renewYears, 0, 0))
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func makeKey(path string, a account) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, writeFile(path, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), 0o600, a)
}

func readKey(path string) (*ecdsa.PrivateKey, error) {
	text, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM: remove it, and a new one is made", path)
	}
	v, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := v.(*ecdsa.PrivateKey)
	if err == nil && !ok {
		err = errors.New("not an ECDSA key")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: remove it, and a new one is made", path, err)
	}
	return key, nil
}
