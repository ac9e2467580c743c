package verify

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/internal/bundletest"
	"github.com/sovereign-build/sovereign/internal/sigstorejob"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// program stands for sovereign-sigstore: it keeps what it was asked and gives an
// answer. The real one has tests of its own, with a Sigstore of its own.
func program(t *testing.T, answer string, code int) (path, asked string) {
	t.Helper()
	dir := t.TempDir()
	path, asked = filepath.Join(dir, "sovereign-sigstore"), filepath.Join(dir, "asked")
	script := fmt.Sprintf("#!/bin/sh\ncat > '%s'\ncat <<'END'\n%s\nEND\nexit %d\n", asked, answer, code)
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path, asked
}

func TestSigstore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sql")
	bundletest.Make(t, dir, bundletest.Options{})
	digest, err := bundle.Digest(dir)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(answer string, code int) (*Report, string, error) {
		t.Helper()
		path, asked := program(t, answer, code)
		r, err := Bundle(t.Context(), dir, Options{Sigstore: &Sigstore{Bundle: "b.json", Root: "root.json", Identity: "me", Issuer: "https://issuer", Program: path}})
		text, _ := os.ReadFile(asked) // nothing where it was not started
		return r, string(text), err
	}
	r, asked, err := ask(`{"result":{"identity":"me\u001b[2J","issuer":"https://issuer","time":"2026-01-02T03:04:05Z","witness":"Tlog x","envelope":false}}`, 0)
	if err != nil {
		t.Fatal(err)
	}
	var j sigstorejob.Job
	if err := json.Unmarshal([]byte(asked), &j); err != nil || j.SHA256 != strings.TrimPrefix(digest, "sha256:") || j.Identity != "me" || j.Issuer != "https://issuer" {
		t.Errorf("asked %s, %v", asked, err)
	}
	said := ""
	for _, c := range r.Checks {
		if c.What == "sigstore" && c.Result == OK {
			said = c.Detail
		}
	}
	if !strings.Contains(said, "signed by me") || !strings.Contains(said, "2026-01-02T03:04:05Z") || strings.ContainsRune(said, 0x1b) {
		t.Errorf("%q", said)
	}
	// Whatever is no yes is a no.
	for name, tt := range map[string]struct {
		answer string
		code   int
		class  fault.Class
	}{
		"no":                    {`{"failure":{"class":6,"text":"another identity"}}`, 0, fault.Verification},
		"no, of class 0":        {`{"failure":{"class":0,"text":"x"}}`, 0, fault.Verification},
		"neither":               {`{}`, 0, fault.Verification},
		"nothing":               {``, 0, fault.Verification},
		"no JSON":               {`yes`, 0, fault.Verification},
		"a key more":            {`{"result":{"identity":"me","issuer":"i"},"sure":true}`, 0, fault.Verification},
		"yes, and no":           {`{"result":{"identity":"me","issuer":"i","time":"2026-01-02T03:04:05Z","witness":"","envelope":false},"failure":{"class":6,"text":"x"}}`, 0, fault.Verification},
		"a program that failed": {`{"result":{"identity":"me","issuer":"i","time":"2026-01-02T03:04:05Z","witness":"","envelope":false}}`, 1, fault.Environment},
		"a long answer":         {strings.Repeat(" ", sigstorejob.MaxMessage+1), 0, fault.Verification},
	} {
		if r, _, err := ask(tt.answer, tt.code); fault.ClassOf(err) != tt.class {
			t.Errorf("%s: %v, %+v", name, err, r.Checks)
		}
	}
	if _, err := Bundle(t.Context(), dir, Options{Sigstore: &Sigstore{Bundle: "b", Root: "r", Identity: "me", Issuer: "i", Program: filepath.Join(dir, "none")}}); fault.ClassOf(err) != fault.Environment {
		t.Errorf("no program: %v", err)
	}
	for _, s := range []Sigstore{
		{}, {Bundle: "b"}, {Bundle: "b", Root: "r"}, {Bundle: "b", Root: "r", Identity: "me"}, {Bundle: "b", Root: "r", Issuer: "i"},
		{Bundle: "b", Root: "r", Identity: "me", IdentityRegexp: ".*", Issuer: "i"}, {Bundle: "b", Root: "r", Identity: "me", IssuerRegexp: "("},
	} {
		if err := s.Check(); fault.ClassOf(err) != fault.Usage {
			t.Errorf("%+v: %v", s, err)
		}
	}
}

// A release is asked about as a whole: its list names the bundles.
func TestSigstoreRelease(t *testing.T) {
	key := bundletest.NewKey(t)
	dir := released(t, key, "a", "1.0", 5)
	path, asked := program(t, `{"result":{"identity":"me","issuer":"i","time":"2026-01-02T03:04:05Z","witness":"Tlog x","envelope":true}}`, 0)
	r, err := Dir(t.Context(), dir, Options{Key: key.Public(), Sigstore: &Sigstore{Bundle: "b", Root: "r", Identity: "me", Issuer: "i", Program: path}})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, c := range r.Checks {
		if c.What == "sigstore" {
			n++
		}
	}
	if text, err := os.ReadFile(asked); err != nil || n != 1 || !strings.Contains(string(text), `"sha256"`) {
		t.Errorf("%d checks, %s, %v", n, text, err)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"result":{"identity":"me","issuer":"i","time":"2026-01-02T03:04:05Z","witness":"","envelope":false}}`))
	f.Add([]byte(`{"failure":{"class":6,"text":"x"}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if r, err := sigstorejob.ParseAnswer(text); (r == nil) == (err == nil) {
			t.Errorf("%+v, %v", r, err)
		}
	})
}
