package supervise

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
// to those who were shown its certificate, and nobody renews it.
const certificateYears = 10

// makeCertificate makes NAME.key and NAME.crt in dir, unless both are there. A
// key that is there is kept: a power cut may have come between the two.
//
// The clock may be wrong at the first start, so that the certificate is good
// from the earlier of now and the image's date, and for years from the later.
func makeCertificate(dir string, c spec.Certificate, guest string, image, now time.Time, a account) error {
	path := filepath.Join(dir, c.Name)
	// The certificate is written last. With it everything is there, and
	// parsing the key would only make every start wait.
	if exists(path+".key") && exists(path+".crt") {
		return nil
	}
	key, err := readKey(path + ".key")
	if errors.Is(err, os.ErrNotExist) {
		key, err = makeKey(path+".key", a)
	}
	if err != nil {
		return fmt.Errorf("certificate %s: %w", path, err)
	}
	from, until := image, now
	if now.Before(image) {
		from, until = now, image
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return fmt.Errorf("certificate %s: %w", path, err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: guest},
		NotBefore: from.UTC(), NotAfter: until.UTC().AddDate(certificateYears, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		// A client that was given the certificate uses it as its root.
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	for _, h := range append(slices.Clone(c.Hosts), guest) {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if !slices.Contains(template.DNSNames, h) {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return fmt.Errorf("certificate %s: %w", path, err)
	}
	return writeFile(path+".crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), 0o644, a)
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
