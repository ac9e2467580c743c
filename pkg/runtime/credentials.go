package runtime

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// Credentials are how a client reaches a port of a guest, secrets included: do
// not log them.
type Credentials struct {
	Port    int    `json:"port"` // the guest's
	Name    string `json:"name"`
	Service string `json:"service"`
	// Address is the loopback address on the host that leads there: a client
	// elsewhere takes one of its own, and At.
	Address string `json:"address"`
	// URL is the manifest's, filled in, for a client on the host.
	URL string `json:"url"`
	// Secrets are those in it.
	Secrets []SecretValue `json:"secrets"`
	// CertificateFile is the file of this program's machine that URL names,
	// with the certificate of the service; "" where it names none. By it the
	// client knows the guest from whoever else may have the port.
	CertificateFile string `json:"certificate_file,omitempty"`

	template string
	values   map[string]string
}

// SecretValue is a secret.
type SecretValue struct {
	SecretRef
	Value string `json:"value"`
}

// At is the URL with another address, HOST:PORT, that leads to the port.
func (c Credentials) At(address string) string {
	return reference.ReplaceAllStringFunc(c.template, func(ref string) string {
		if ref == "${"+addressReference+"}" {
			return address
		}
		return c.values[ref]
	})
}

// reference is what stands in a URL for "address", "secret:NAME" or
// "certificate:NAME"; package bundle has seen that there is nothing else.
var reference = regexp.MustCompile(`\$\{([a-z]+)(?::([^}]*))?\}`)

// Kinds of references.
const (
	addressReference     = "address"
	secretReference      = "secret"
	certificateReference = "certificate"
)

type referred struct{ text, kind, name string }

func references(url string) []referred {
	var all []referred
	for _, m := range reference.FindAllStringSubmatch(url, -1) {
		all = append(all, referred{m[0], m[1], m[2]})
	}
	return all
}

// Credentials asks the guest for what a client of a port needs; 0 is the first
// port that has a URL in the manifest. The machine must run.
//
// Where the URL names a certificate of the service, that is kept in a file on
// this program's machine. A client that keeps the URL meets an error of its own
// after the guest has made a new one; Credentials, called again, gives it that.
func (m *Machine) Credentials(ctx context.Context, port int) (Credentials, error) {
	manifest, err := m.Manifest(ctx)
	if err != nil {
		return Credentials{}, err
	}
	p, err := m.urlPort(manifest, port)
	if err != nil {
		return Credentials{}, err
	}
	c := Credentials{Port: p.Port, Name: p.Name, Service: p.Service, Secrets: []SecretValue{}, template: p.URL, values: map[string]string{}}
	err = m.guest(ctx, func(client *agent.Client) error { return m.lookUp(ctx, client, &c) })
	if err != nil {
		return Credentials{}, err
	}
	// Behind the guest's answers: the machine has its ports by then.
	var s Status
	if err := m.h.ask(ctx, "GET", machinePath(m.name)+"?guest=false", nil, &s); err != nil {
		return Credentials{}, err
	}
	for _, v := range s.Ports {
		if v.Guest == p.Port {
			c.Address = net.JoinHostPort("127.0.0.1", strconv.Itoa(v.Host))
		}
	}
	c.URL = c.At(c.Address)
	return c, nil
}

func (m *Machine) urlPort(manifest *bundle.Manifest, port int) (bundle.Port, error) {
	for _, p := range manifest.Ports {
		if p.URL != "" && (port == 0 || p.Port == port) {
			return p, nil
		}
	}
	if port == 0 {
		return bundle.Port{}, fault.Errorf(fault.Usage, "%s has no port with a URL", m.name).
			Hintf("give a port of the recipe a url")
	}
	return bundle.Port{}, fault.Errorf(fault.Usage, "%s has no port %d with a URL", m.name, port).
		Hintf("choose another port, or give this one a url in the recipe")
}

// lookUp adds what the guest has for the references of the port's URL. Values
// are percent-encoded so that they stand as they are wherever in a URL they are
// put; the slashes of a file are left for people to read it.
func (m *Machine) lookUp(ctx context.Context, client *agent.Client, c *Credentials) error {
	for _, r := range references(c.template) {
		if _, have := c.values[r.text]; have || r.kind == addressReference {
			continue
		}
		switch r.kind {
		case secretReference:
			v, err := client.Secret(ctx, c.Service, r.name)
			if err != nil {
				return fault.Wrap(fault.Device, fmt.Errorf("secret %s of %s: %w", r.name, c.Service, err))
			}
			c.Secrets = append(c.Secrets, SecretValue{SecretRef{c.Service, r.name}, v})
			c.values[r.text] = encode(v, unreserved)
		case certificateReference:
			text, err := client.Secret(ctx, c.Service, r.name+".crt")
			if err == nil {
				text, err = onlyCertificates(text)
			}
			if err != nil {
				return fault.Wrap(fault.Device, fmt.Errorf("certificate %s of %s: %w", r.name, c.Service, err))
			}
			if c.CertificateFile, err = m.keepCertificate(c.Service, r.name, text); err != nil {
				return err
			}
			c.values[r.text] = encode(c.CertificateFile, unreserved+"/")
		default:
			return fault.Errorf(fault.Internal, "the URL of %s's port %d has the unknown %s", m.name, c.Port, r.text)
		}
	}
	return nil
}

// keepCertificate keeps a certificate on this program's machine. What belongs to
// a machine of this one lies with it; that of a machine elsewhere has a name
// that tells its content, as two hosts may have machines of one name.
func (m *Machine) keepCertificate(service, name, text string) (string, error) {
	text = fmt.Sprintf("# What %s of the machine %s shows its clients. sovereign-build dsn %[2]s writes it anew.\n%s", service, m.name, text)
	path := filepath.Join(m.h.dir, "instances", m.name, "certificates", service, name+".crt")
	if m.h.dir == "" {
		dir, err := DefaultStateDir()
		if err != nil {
			return "", err
		}
		sum := sha256.Sum256([]byte(text))
		path = filepath.Join(dir, "certificates", m.name+"-"+hex.EncodeToString(sum[:8])+".crt")
	}
	if kept, err := os.ReadFile(path); err == nil && string(kept) == text {
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fault.Wrap(fault.Environment, err)
	}
	return path, atomicfile.Write(path, []byte(text), 0o600)
}

// maxCertificates bounds what a guest may give for one certificate.
const maxCertificates = 8

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

// unreserved are RFC 3986's characters that mean themselves everywhere, beside
// letters and digits.
const unreserved = "-._~"

// encode escapes all but letters, digits and the characters of plain.
func encode(s, plain string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte(plain, c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
