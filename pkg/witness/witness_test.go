package witness

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

const token, otherToken = "a token of the first phone", "a token of the second one"

var lineage = strings.Repeat("1a", 16)

func point(epoch uint64, digit string) Point {
	return Point{Epoch: epoch, Hash: strings.Repeat(digit, 64)}
}

// TestDecide goes through the table in the package comment.
func TestDecide(t *testing.T) {
	k, before, behind, other := point(7, "a"), point(6, "b"), point(8, "c"), point(7, "d")
	for name, c := range map[string]struct {
		kept, from *Point
		to         Point
		want       Verdict
	}{
		"first":                                   {nil, nil, k, Kept},
		"it has forgotten":                        {nil, &before, k, Stale},
		"told again, the answer was lost":         {&k, &before, k, Kept},
		"told again, nothing was remembered":      {&k, nil, k, Kept},
		"another record of that epoch":            {&k, &k, other, Forked},
		"another record of that epoch, no from":   {&k, nil, other, Forked},
		"a teller that is new":                    {&k, nil, behind, Stale},
		"a teller that is older":                  {&k, &before, behind, Stale},
		"a teller that went another way":          {&k, &other, behind, Stale},
		"older, and believes to be older":         {&k, &before, before, Stale},
		"goes on from what is kept, to before":    {&k, &k, before, Forked},
		"goes on":                                 {&k, &k, behind, Kept},
		"goes on, by an accepted rollback's leap": {&k, &k, point(7+1<<20, "e"), Kept},
	} {
		if got := Decide(c.kept, c.from, c.to); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

type server struct {
	*Witness
	dir, url string
}

func serve(t *testing.T, dir string) *server {
	t.Helper()
	w, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(w.Handler([]string{token, otherToken}, func(err error) { t.Log(err) }))
	t.Cleanup(func() {
		s.Close()
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return &server{w, dir, s.URL}
}

func (s *server) client(t *testing.T, token string) *Client {
	t.Helper()
	c, err := NewClient(s.url, token, s.Verifier)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func (c *Client) must(t *testing.T, from *Point, to Point, want Verdict, kept *Point) {
	t.Helper()
	v, a, err := c.Tell(t.Context(), lineage, from, to)
	if err != nil || v != want || (a.Kept == nil) != (kept == nil) || kept != nil && *a.Kept != *kept {
		t.Errorf("from %v to %v: %s, %v, %v; want %s, %v", from, to, v, a.Kept, err, want, kept)
	}
}

func TestTell(t *testing.T) {
	s := serve(t, filepath.Join(t.TempDir(), "w"))
	c := s.client(t, token)
	one, two, three := point(1, "1"), point(2, "2"), point(3, "3")
	if key, err := c.Key(t.Context()); err != nil || key != s.Verifier {
		t.Errorf("%q, %v", key, err)
	}
	if a, err := c.Ask(t.Context(), lineage); err != nil || a.Kept != nil {
		t.Errorf("nothing was told yet: %+v, %v", a, err)
	}
	c.must(t, &one, two, Stale, nil)
	c.must(t, nil, one, Kept, &one)
	c.must(t, &one, two, Kept, &two)
	c.must(t, &one, two, Kept, &two) // the answer was lost
	c.must(t, &one, three, Stale, &two)
	other := point(2, "f")
	c.must(t, &one, other, Forked, &two)
	a, err := c.Ask(t.Context(), lineage)
	if err != nil || a.Kept == nil || *a.Kept != two || time.Since(a.Since) > time.Minute {
		t.Errorf("%+v, %v", a, err)
	}
	// What was answered stands on the disk.
	text, err := os.ReadFile(filepath.Join(s.dir, lineagesDir, lineage))
	if k, parseErr := parseKept(text); err != nil || parseErr != nil || *k.point != two {
		t.Errorf("%q, %v, %v", text, err, parseErr)
	}
	// It is the first teller's.
	if _, err := s.client(t, otherToken).Ask(t.Context(), lineage); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "another token") {
		t.Errorf("another's: %v", err)
	}
	if _, _, err := s.client(t, "a token that nobody has").Tell(t.Context(), lineage, &two, three); fault.ClassOf(err) != fault.Usage {
		t.Errorf("a stranger: %v", err)
	}
	if _, err := New(s.dir); fault.ClassOf(err) != fault.Usage {
		t.Errorf("two of one directory: %v", err)
	}
}

// A disk that does not take it makes no answer.
func TestNotKept(t *testing.T) {
	if os.Getuid() == 0 {
		// Root may write anywhere: a directory in the file's place.
		t.Log("as root")
	}
	s := serve(t, filepath.Join(t.TempDir(), "w"))
	if err := os.MkdirAll(filepath.Join(s.dir, lineagesDir, lineage), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.client(t, token).Tell(t.Context(), lineage, nil, point(1, "1")); fault.ClassOf(err) != fault.Source {
		t.Errorf("%v", err)
	}
}

// TestLies has somebody else answer, and old answers be said again.
func TestLies(t *testing.T) {
	s := serve(t, filepath.Join(t.TempDir(), "w"))
	s.client(t, token).must(t, nil, point(1, "1"), Kept, &Point{Epoch: 1, Hash: strings.Repeat("1", 64)})
	_, stranger, err := note.GenerateKey(rand.Reader, KeyName)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewClient(s.url, token, stranger)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Ask(t.Context(), lineage); !errors.Is(err, ErrLies) || fault.ClassOf(err) != fault.Verification {
		t.Errorf("another key: %v", err)
	}
	old, err := Answer{Lineage: lineage, Nonce: strings.Repeat("0", 32)}.Sign(s.signer)
	if err != nil {
		t.Fatal(err)
	}
	replay := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(old) })) //nolint:errcheck // a test's
	defer replay.Close()
	if c, err = NewClient(replay.URL, token, s.Verifier); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Ask(t.Context(), lineage); !errors.Is(err, ErrLies) || !strings.Contains(err.Error(), "another question") {
		t.Errorf("said again: %v", err)
	}
	away, err := NewClient("http://127.0.0.1:1", token, s.Verifier)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := away.Ask(t.Context(), lineage); fault.ClassOf(err) != fault.Source {
		t.Errorf("away: %v", err)
	}
}

func TestRequests(t *testing.T) {
	s := serve(t, filepath.Join(t.TempDir(), "w"))
	good := `{"to":{"epoch":1,"hash":"` + strings.Repeat("a", 64) + `"},"nonce":"` + strings.Repeat("b", 32) + `"}`
	for _, c := range []struct {
		method, path, body, token string
		want                      int
	}{
		{"POST", "/v1/lineages/" + lineage, good, token, 200},
		{"POST", "/v1/lineages/" + lineage, good, "", 401},
		{"POST", "/v1/lineages/..%2fkey", good, token, 400},
		{"POST", "/v1/lineages/" + strings.ToUpper(lineage), good, token, 400},
		{"POST", "/v1/lineages/" + lineage, strings.Replace(good, `"epoch":1`, `"epoch":0`, 1), token, 400},
		{"POST", "/v1/lineages/" + lineage, strings.Replace(good, `"to"`, `"more":1,"to"`, 1), token, 400},
		{"POST", "/v1/lineages/" + lineage, strings.Replace(good, "bb", "", 1), token, 400},
		{"POST", "/v1/lineages/" + lineage, `{"nonce":"` + strings.Repeat("b", 2000), token, 400},
		{"GET", "/v1/lineages/" + lineage, "", token, 400},
		{"GET", "/v1/lineages/x?nonce=" + lineage, "", token, 400},
		{"DELETE", "/v1/lineages/" + lineage, "", token, 405},
		{"GET", "/v1/key", "", "", 401},
	} {
		r, err := http.NewRequestWithContext(t.Context(), c.method, s.url+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		if c.token != "" {
			r.Header.Set("Authorization", "Bearer "+c.token)
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != c.want {
			t.Errorf("%s %s %.60s: %d, want %d", c.method, c.path, c.body, res.StatusCode, c.want)
		}
	}
}

func TestServe(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "w")
	w, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	tokens, path, err := w.Tokens("")
	if err != nil || len(tokens) != 1 || len(tokens[0]) != 40 || path != filepath.Join(dir, tokenFile) {
		t.Fatalf("%q, %s, %v", tokens, path, err)
	}
	certificate, err := w.Certificate("", "")
	if err != nil {
		t.Fatal(err)
	}
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "0.0.0.0:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	if err := w.Serve(t.Context(), listen(), nil, tokens, nil); fault.ClassOf(err) != fault.Usage {
		t.Errorf("beyond this machine without TLS: %v", err)
	}
	if err := w.Serve(t.Context(), listen(), certificate, nil, nil); fault.ClassOf(err) != fault.Usage {
		t.Errorf("without a token: %v", err)
	}
	l, ctx := listen(), t.Context()
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- w.Serve(ctx, l, certificate, tokens, nil) }()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	address := "https://127.0.0.1:" + port + "?fingerprint="
	c, err := NewClient(address+Fingerprint(certificate.Leaf), tokens[0], w.Verifier)
	if err != nil {
		t.Fatal(err)
	}
	one := point(1, "1")
	c.must(t, nil, one, Kept, &one)
	c.Close()
	if c, err = NewClient(address+strings.Repeat("0", 64), tokens[0], w.Verifier); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Ask(t.Context(), lineage); fault.ClassOf(err) != fault.Verification {
		t.Errorf("another certificate: %v", err)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"http://192.0.2.1:80", "ftp://x", "https://", "https://a@b", "https://a/b", "https://a?fingerprint=12"} {
		if _, err := NewClient(bad, token, ""); fault.ClassOf(err) != fault.Usage {
			t.Errorf("%s: %v", bad, err)
		}
	}
	for _, bad := range []string{"", "short", "# a comment\n"} {
		if tokens, err := ParseTokens(bad); fault.ClassOf(err) != fault.Usage {
			t.Errorf("%q: %q, %v", bad, tokens, err)
		}
	}
}

func TestLostKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "w")
	s := serve(t, dir)
	s.client(t, token).must(t, nil, point(1, "1"), Kept, &Point{Epoch: 1, Hash: strings.Repeat("1", 64)})
	copied := filepath.Join(t.TempDir(), "w")
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(copied, keyFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := New(copied); fault.ClassOf(err) != fault.Environment {
		t.Errorf("%v", err)
	}
}

func FuzzOpen(f *testing.F) {
	private, public, err := note.GenerateKey(rand.Reader, KeyName)
	if err != nil {
		f.Fatal(err)
	}
	signer, err := note.NewSigner(private)
	if err != nil {
		f.Fatal(err)
	}
	verifier, err := note.NewVerifier(public)
	if err != nil {
		f.Fatal(err)
	}
	nonce := strings.Repeat("0", 32)
	kept := point(1, "a")
	for _, a := range []Answer{{Lineage: lineage, Nonce: nonce}, {Lineage: lineage, Nonce: nonce, Kept: &kept, Since: time.Unix(1, 0)}} {
		text, err := a.Sign(signer)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, "x")
	}
	f.Add([]byte{}, "sovereign witness 1\n"+lineage+"\n1 "+kept.Hash+" 5\n"+nonce+"\n")
	f.Fuzz(func(t *testing.T, text []byte, said string) {
		if a, err := Open(text, verifier, lineage, nonce); err == nil && a.Nonce != nonce {
			t.Fatalf("%+v", a)
		}
		// The same of what the key has signed.
		signed, err := note.Sign(&note.Note{Text: said + "\n"}, signer)
		if err != nil {
			return
		}
		if a, err := Open(signed, verifier, lineage, nonce); err == nil {
			again, err := a.Sign(signer)
			if err != nil || string(again) != string(signed) {
				t.Fatalf("%q is %q", signed, again)
			}
		}
	})
}

func FuzzKept(f *testing.F) {
	p := point(1, "a")
	f.Add(kept{lineage, &p, time.Unix(7, 0)}.line())
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := parseKept(text)
		if err != nil {
			return
		}
		if again, err := parseKept(k.line()); err != nil || again.owner != k.owner || *again.point != *k.point || !again.since.Equal(k.since) {
			t.Fatalf("%q is %q, %v", text, k.line(), err)
		}
	})
}
