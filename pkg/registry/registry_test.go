package registry

import (
	"bytes"
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func TestParse(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("0", 64)
	for in, want := range map[string]string{
		"localhost/x":                   "localhost/x:latest",
		"127.0.0.1:5000/a/b:1":          "127.0.0.1:5000/a/b:1",
		"registry.example/a":            "registry.example/a:latest",
		"registry.example/a" + digest:   "registry.example/a" + digest,
		"registry.example/a:1" + digest: "registry.example/a" + digest,
		"dist/sql-amd64":                "",
		"sql":                           "",
		"registry.example/":             "",
		"":                              "",
		"registry.example/A":            "",
		"registry.example/a@sha256:1":   "",
		"me:secret@registry.example/a":  "",
	} {
		ref, err := Parse(in)
		switch {
		case want == "" && fault.ClassOf(err) != fault.Usage:
			t.Errorf("%q: got %v, %v", in, ref, err)
		case want == "" && strings.Contains(err.Error(), "secret"):
			t.Errorf("%q: the error shows the password: %v", in, err)
		case want != "" && (err != nil || ref.Name() != want):
			t.Errorf("%q: got %v, %v", in, ref, err)
		}
	}
}

// Plain http reaches this machine and nothing else, by name, address or
// redirect.
func TestPlainHTTP(t *testing.T) {
	client := &Client{Transport: transportFunc(func(r *http.Request) (*http.Response, error) {
		if r.URL.Scheme == "http" && !isLoopback(r.URL.Hostname()) {
			t.Errorf("plain http to %s", r.URL.Host)
		}
		return nil, errors.New("no network in tests")
	}), Backoff: remote.Backoff{Duration: time.Millisecond, Steps: 1}}
	for _, host := range []string{"10.1.2.3:5000", "192.168.1.1", "evil.localhost:5000", "registry.example"} {
		ref, err := Parse(host + "/x")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Get(t.Context(), ref); fault.ClassOf(err) != fault.Source {
			t.Errorf("%s: %v", host, err)
		}
	}

	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return
		}
		http.Redirect(w, r, "http://registry.example"+r.URL.Path, http.StatusTemporaryRedirect)
	}))
	defer server.Close()
	ref, err := Parse(strings.TrimPrefix(server.URL, "http://") + "/x:1")
	if err != nil {
		t.Fatal(err)
	}
	_, err = (&Client{}).Get(t.Context(), ref)
	if fault.ClassOf(err) != fault.Source || !strings.Contains(err.Error(), "plain http to registry.example is refused") {
		t.Errorf("got %v", err)
	}
}

type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestVerify(t *testing.T) {
	h, n, err := v1.SHA256(strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	d := v1.Descriptor{Digest: h, Size: n}
	for in, want := range map[string]string{
		"hello": "", "hellO": "wrong digest", "hell": "ends after 4 of 5 bytes", "hello ": "longer than the 5 bytes", "": "ends after 0 of 5 bytes",
	} {
		for _, r := range []io.Reader{strings.NewReader(in), iotest.OneByteReader(strings.NewReader(in)), iotest.DataErrReader(strings.NewReader(in))} {
			got, err := io.ReadAll(Verify(r, "greeting", d))
			switch {
			case want == "" && (err != nil || !bytes.Equal(got, []byte(in))):
				t.Errorf("%q: %q, %v", in, got, err)
			case want != "" && (err == nil || fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), want)):
				t.Errorf("%q: %v, want %q", in, err, want)
			}
		}
	}
	if _, err := io.ReadAll(Verify(iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader("hello"))), "greeting", d)); !errors.Is(err, iotest.ErrTimeout) {
		t.Errorf("got %v", err)
	}
}

// Sizes are what a manifest says: any number.
func TestVerifySizes(t *testing.T) {
	h, n, err := v1.SHA256(strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	for size, want := range map[int64]string{
		n: "", n - 1: "longer than the 4 bytes", 0: "longer than the 0 bytes", -1: "longer than the -1 bytes", math.MinInt64: "longer than the -9223372036854775808 bytes",
		math.MaxInt64: "ends after 5 of 9223372036854775807 bytes", math.MaxInt64 - 1: "ends after 5 of 9223372036854775806 bytes", math.MaxInt64 - n: "ends after 5 of",
	} {
		for _, r := range []io.Reader{strings.NewReader("hello"), iotest.OneByteReader(strings.NewReader("hello")), iotest.DataErrReader(strings.NewReader("hello"))} {
			_, err := io.ReadAll(Verify(r, "greeting", v1.Descriptor{Digest: h, Size: size}))
			switch {
			case want == "" && err != nil:
				t.Errorf("size %d: %v", size, err)
			case want != "" && (err == nil || fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), want)):
				t.Errorf("size %d: %v, want %q", size, err, want)
			}
		}
	}
	if n, err := Verify(strings.NewReader("hello"), "greeting", v1.Descriptor{Digest: h, Size: math.MaxInt64}).Read(nil); n != 0 || err != nil {
		t.Errorf("reading nothing: %d, %v", n, err)
	}
}
