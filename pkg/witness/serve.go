package witness

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

const (
	tokenFile       = "token"
	certificateFile = "tls.pem"
	// requestLimit bounds a request, its answer too; idleLimit a connection
	// without one.
	requestLimit = 30 * time.Second
	idleLimit    = 2 * time.Minute
	// endLimit is how long requests may go on when Serve ends.
	endLimit = 5 * time.Second
)

// Serve answers on a listener, until ctx ends, which is no error. With a
// certificate it speaks TLS; without one the listener has to be loopback's.
func (w *Witness) Serve(ctx context.Context, l net.Listener, certificate *tls.Certificate, tokens []string, failed func(error)) error {
	a, ok := l.Addr().(*net.TCPAddr)
	if certificate == nil && (!ok || !a.IP.IsLoopback()) {
		return errors.Join(fault.Errorf(fault.Usage, "beyond this machine a witness speaks TLS only"), l.Close())
	}
	if len(tokens) == 0 {
		return errors.Join(fault.Errorf(fault.Usage, "a witness answers nobody without a token"), l.Close())
	}
	server := &http.Server{Handler: w.Handler(tokens, failed), ReadTimeout: requestLimit, WriteTimeout: requestLimit,
		IdleTimeout: idleLimit, MaxHeaderBytes: 8 << 10}
	if certificate != nil {
		l = tls.NewListener(l, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*certificate}, NextProtos: []string{"http/1.1"}})
	}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), endLimit)
		defer cancel()
		stopped <- server.Shutdown(limit)
	})
	err := server.Serve(l)
	if !stop() {
		err = <-stopped
		if errors.Is(err, context.DeadlineExceeded) {
			err = server.Close() // who is still asking asks again
		}
	}
	return fault.Wrap(fault.Environment, err)
}

// Tokens are those of a file, one a line; without one that of the directory,
// which is made.
func (w *Witness) Tokens(file string) (tokens []string, path string, err error) {
	if path = file; file == "" {
		path = filepath.Join(w.dir, tokenFile)
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			if err := atomicfile.Write(path, []byte(newNonce()+newNonce()[:8]+"\n"), 0o600); err != nil {
				return nil, path, err
			}
		}
	}
	info, err := os.Stat(path)
	if err == nil && info.Size() > 1<<20 {
		err = fault.Errorf(fault.Usage, "%s has more than 1 MiB", path)
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, path, fault.Wrap(fault.Environment, err)
	}
	tokens, err = ParseTokens(string(text))
	if err != nil {
		return nil, path, fault.Errorf(fault.Usage, "%s: %w", path, err)
	}
	return tokens, path, nil
}

// ParseTokens reads tokens, one a line.
func ParseTokens(text string) (tokens []string, err error) {
	for line := range strings.Lines(text) {
		t := strings.TrimSpace(line)
		switch {
		case t == "" || strings.HasPrefix(t, "#"):
		case len(t) < 16:
			return nil, fault.Errorf(fault.Usage, "a token of %d characters: want 16 or more, that nobody can guess", len(t))
		default:
			tokens = append(tokens, t)
		}
	}
	if len(tokens) == 0 {
		return nil, fault.Errorf(fault.Usage, "there is no token, which is a line of 16 characters or more")
	}
	return tokens, nil
}

// Certificate is that of files in PEM; without them one of the directory, signed
// by itself for a hundred years: who asks pins its fingerprint.
func (w *Witness) Certificate(certFile, keyFile string) (*tls.Certificate, error) {
	if certFile == "" {
		certFile = filepath.Join(w.dir, certificateFile)
		keyFile = certFile
		if _, err := os.Lstat(certFile); errors.Is(err, fs.ErrNotExist) {
			text, err := selfSigned(w.now())
			if err == nil {
				err = atomicfile.Write(certFile, text, 0o600)
			}
			if err != nil {
				return nil, fault.Wrap(fault.Environment, err)
			}
		}
	}
	c, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fault.Errorf(fault.Environment, "%s: %w", certFile, err)
	}
	return &c, nil
}

func selfSigned(now time.Time) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: KeyName}, DNSNames: []string{KeyName},
		NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(100, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...), nil
}
