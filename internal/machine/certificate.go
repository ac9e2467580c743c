package machine

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// certificatesDir holds, in the directory of an instance, the certificates that
// its URLs name: SERVICE/NAME.crt.
const certificatesDir = "certificates"

// maxCertificates bounds what a guest may give for one certificate.
const maxCertificates = 8

// certificate asks the guest for a service's certificate, keeps it in the
// instance's directory and returns the file. The way to the guest's agent is
// this machine's own; a port of the loopback is anybody's who comes first. So
// that a client which was given this file knows the guest there from another
// program.
//
// The guest may have made a new one since: it is asked every time.
func (i *Instance) certificate(ctx context.Context, s *session, service, name string) (string, error) {
	text, err := s.Secret(ctx, service, name+".crt")
	if err == nil {
		text, err = onlyCertificates(text)
	}
	if err != nil {
		return "", fault.Wrap(fault.Device, fmt.Errorf("certificate %s of %s: %w", name, service, err))
	}
	path := filepath.Join(i.dir, certificatesDir, service, name+".crt")
	text = fmt.Sprintf("# What %s of the machine %s shows its clients. sovereign-build dsn %[2]s writes it anew.\n%s", service, i.Name(), text)
	kept, err := os.ReadFile(path)
	if err == nil && bytes.Equal(kept, []byte(text)) {
		return path, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fault.Wrap(fault.Environment, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fault.Wrap(fault.Environment, err)
	}
	return path, atomicfile.Write(path, []byte(text), 0o600)
}

// onlyCertificates reads what a guest calls a certificate, and returns the
// certificates in it as PEM and nothing else.
func onlyCertificates(text string) (string, error) {
	var out bytes.Buffer
	rest := []byte(text)
	for n := 0; ; n++ {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		switch {
		case block == nil && n > 0:
			return out.String(), nil
		case block == nil:
			return "", errors.New("the guest's answer holds no certificate")
		case block.Type != "CERTIFICATE" || n == maxCertificates:
			return "", fmt.Errorf("the guest's answer is not 1 to %d certificates", maxCertificates)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return "", fmt.Errorf("the guest's answer: %w", err)
		}
		if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes}); err != nil {
			return "", err
		}
	}
}
