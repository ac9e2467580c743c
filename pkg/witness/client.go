package witness

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// callLimit bounds one question to a witness.
const callLimit = 20 * time.Second

// ErrLies is in the error of an answer that the witness's key has not signed, or
// not as the answer to this question.
var ErrLies = errors.New("its answer is not the witness's")

// Client asks a witness.
type Client struct {
	base     string
	token    string
	verifier note.Verifier
	http     *http.Client
}

// NewClient speaks with the witness at address, https://HOST[:PORT], and where it
// shows a certificate that nobody vouches for, ?fingerprint=SHA256 behind that, of
// the certificate; http:// is for an address of this machine alone. Errors are of
// class fault.Usage. Verifier may be empty for Key.
func NewClient(address, token, verifier string) (*Client, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, fault.Wrap(fault.Usage, err)
	}
	const want = "write https://HOST:PORT, with ?fingerprint=SHA256 behind it as witness serve prints it"
	fingerprint := u.Query().Get("fingerprint")
	loopback := u.Hostname() == "localhost" || net.ParseIP(u.Hostname()).IsLoopback()
	switch {
	case u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "":
		return nil, fault.Errorf(fault.Usage, "%q is no witness's address", address).Hintf(want)
	case u.Scheme == "http" && !loopback:
		return nil, fault.Errorf(fault.Usage, "%s: without TLS a witness is asked on this machine only", address).Hintf(want)
	case token == "" || strings.ContainsAny(token, "\r\n"):
		return nil, fault.Errorf(fault.Usage, "the witness's token is missing, or is no line")
	}
	t := &http.Transport{ForceAttemptHTTP2: true, MaxIdleConns: 1, IdleConnTimeout: time.Minute}
	if fingerprint != "" {
		sum, err := hex.DecodeString(strings.ReplaceAll(fingerprint, ":", ""))
		if err != nil || len(sum) != sha256.Size {
			return nil, fault.Errorf(fault.Usage, "fingerprint %q: want the 64 hex digits of a SHA-256", fingerprint)
		}
		t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, VerifyConnection: pinned([sha256.Size]byte(sum))}
	}
	c := &Client{base: u.Scheme + "://" + u.Host, token: token, http: &http.Client{Transport: t, Timeout: callLimit,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	if verifier != "" {
		if c.verifier, err = note.NewVerifier(verifier); err != nil {
			return nil, fault.Errorf(fault.Usage, "the witness's key %q: %w", verifier, err)
		}
	}
	return c, nil
}

// pinned takes one certificate, whoever vouches for it, and no other.
func pinned(want [sha256.Size]byte) func(tls.ConnectionState) error {
	return func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 || sha256.Sum256(s.PeerCertificates[0].Raw) != want {
			return fmt.Errorf("%w: its certificate has another fingerprint", ErrLies)
		}
		return nil
	}
}

// Fingerprint is a certificate's, as an address has it.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// Close lets the connection go.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Key is the public key of the witness, as its own word.
func (c *Client) Key(ctx context.Context) (string, error) {
	text, _, err := c.call(ctx, http.MethodGet, "/v1/key", nil)
	if err != nil {
		return "", err
	}
	v, err := note.NewVerifier(strings.TrimSpace(string(text)))
	if err != nil || v.Name() != KeyName {
		return "", fault.Errorf(fault.Verification, "%s gives no key of a witness", c.base)
	}
	return strings.TrimSpace(string(text)), nil
}

// Ask returns what the witness keeps of a lineage. An error of class
// fault.Verification says that it was not the witness who answered; fault.Source,
// that nobody did; fault.Usage, that the witness refuses the token.
func (c *Client) Ask(ctx context.Context, lineage string) (Answer, error) {
	nonce := newNonce()
	text, _, err := c.call(ctx, http.MethodGet, "/v1/lineages/"+lineage+"?nonce="+nonce, nil)
	return c.open(text, lineage, nonce, err)
}

// Tell tells the witness of a record, and returns what it keeps then, and whether
// that is to: see Decide. Errors are those of Ask.
func (c *Client) Tell(ctx context.Context, lineage string, from *Point, to Point) (Verdict, Answer, error) {
	told := Told{From: from, To: to, Nonce: newNonce()}
	body, err := json.Marshal(told)
	if err != nil {
		return "", Answer{}, fault.Wrap(fault.Internal, err)
	}
	text, code, err := c.call(ctx, http.MethodPost, "/v1/lineages/"+lineage, body)
	a, err := c.open(text, lineage, told.Nonce, err)
	if err != nil {
		return "", a, err
	}
	// The code is not signed. What is kept is, and says the same.
	v := map[int]Verdict{http.StatusOK: Kept, http.StatusConflict: Stale, http.StatusUnprocessableEntity: Forked}[code]
	if (v == Kept) != (a.Kept != nil && *a.Kept == to) {
		return "", a, fault.Errorf(fault.Verification, "%s: %w: it says %q of what it has signed to be otherwise", c.base, ErrLies, v)
	}
	return v, a, nil
}

func (c *Client) open(text []byte, lineage, nonce string, err error) (Answer, error) {
	if err != nil {
		return Answer{}, err
	}
	a, err := Open(text, c.verifier, lineage, nonce)
	if err != nil {
		return a, fault.Errorf(fault.Verification, "%s: %w: %w", c.base, ErrLies, err)
	}
	return a, nil
}

func (c *Client) call(ctx context.Context, method, path string, body []byte) (text []byte, code int, err error) {
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, 0, fault.Wrap(fault.Internal, err)
	}
	r.Header.Set("Authorization", "Bearer "+c.token)
	res, err := c.http.Do(r)
	if err != nil {
		if ctx.Err() != nil {
			return nil, 0, context.Cause(ctx)
		}
		class := fault.Source
		if errors.Is(err, ErrLies) {
			class = fault.Verification
		}
		return nil, 0, fault.Errorf(class, "the witness: %w", err)
	}
	defer res.Body.Close()
	text, err = io.ReadAll(io.LimitReader(res.Body, maxNote+1))
	switch {
	case err != nil:
		return nil, 0, fault.Errorf(fault.Source, "the witness %s: %w", c.base, err)
	case res.StatusCode == http.StatusOK || res.StatusCode == http.StatusConflict || res.StatusCode == http.StatusUnprocessableEntity:
		return text, res.StatusCode, nil
	case res.StatusCode == http.StatusUnauthorized || res.StatusCode == http.StatusForbidden:
		return nil, 0, fault.Errorf(fault.Usage, "the witness %s refuses: %.200q", c.base, bytes.TrimSpace(text)).
			Hintf("give the token that it was told of this machine with: sovereign-build witness add NAME URL --key-file FILE")
	}
	return nil, 0, fault.Errorf(fault.Source, "the witness %s says %s: %.200q", c.base, res.Status, bytes.TrimSpace(text))
}

func newNonce() string {
	b := make([]byte, 16)
	rand.Read(b) //nolint:errcheck // it never fails
	return hex.EncodeToString(b)
}
