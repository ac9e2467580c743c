package artifact

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	ociregistry "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/registry"
)

// build writes a bundle with the three files every bundle has.
func build(t *testing.T, dir, root string) {
	t.Helper()
	w, err := bundle.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []struct{ name, role, text string }{
		{"root.img", bundle.RoleRoot, root}, {"bzImage", bundle.RoleKernel, strings.Repeat("kernel", 20_000)}, {"initramfs", bundle.RoleInitramfs, "cpio"},
	} {
		if err := w.Add(t.Context(), a.name, a.role, strings.NewReader(a.text)); err != nil {
			t.Fatal(err)
		}
	}
	_, err = w.Commit(t.Context(), bundle.Manifest{
		Schema: bundle.Schema, Name: "sql", Arch: "amd64", SourceDate: 1700000000,
		Lock: bundle.Lock{Digest: "sha256:" + strings.Repeat("a", 64)},
		Root: bundle.Root{Serial: "root", Hash: strings.Repeat("b", 64)},
		VM:   bundle.VM{MemoryMiB: 512, CPUs: 2, Cmdline: "x", Data: bundle.Data{Serial: "data", Size: 8 << 30}},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// site is a registry whose answers a test can change.
type site struct {
	host string
	// change may answer a request itself, or change the body of the answer.
	change func(w http.ResponseWriter, r *http.Request) bool
	body   func(r *http.Request, b []byte) []byte
	gets   atomic.Int64 // blobs asked for
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{}
	inner := ociregistry.New(ociregistry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/sha256:") {
			s.gets.Add(1)
		}
		if s.change != nil && s.change(w, r) {
			return
		}
		if s.body == nil {
			inner.ServeHTTP(w, r)
			return
		}
		answer := httptest.NewRecorder()
		inner.ServeHTTP(answer, r)
		for k, v := range answer.Header() {
			if k != "Content-Length" {
				w.Header()[k] = v
			}
		}
		w.WriteHeader(answer.Code)
		if _, err := w.Write(s.body(r, answer.Body.Bytes())); err != nil && !errors.Is(err, http.ErrBodyNotAllowed) {
			t.Log(err)
		}
	}))
	t.Cleanup(server.Close)
	s.host = strings.TrimPrefix(server.URL, "http://")
	return s
}

// client does not wait long between attempts.
func client() *registry.Client {
	return &registry.Client{Backoff: remote.Backoff{Duration: time.Millisecond, Steps: 2}}
}

func sums(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, bundle.SumsFile))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func left(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestPushAndPull(t *testing.T) {
	s := newSite(t)
	from, to := filepath.Join(t.TempDir(), "sql-amd64"), filepath.Join(t.TempDir(), "sql")
	build(t, from, "root")
	c := client()
	var sent atomic.Int64
	c.Progress = func(done, total int64) { sent.Store(done) }
	pushed, err := Push(t.Context(), c, from, s.host+"/team/sql:v1")
	if err != nil {
		t.Fatal(err)
	}
	if sent.Load() < 120_000 {
		t.Errorf("progress ended at %d bytes", sent.Load())
	}
	// What crane validate --remote does.
	img, err := remote.Image(pushed)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}
	again, err := Push(t.Context(), client(), from, s.host+"/team/sql:v2")
	if err != nil {
		t.Fatal(err)
	}
	if again.DigestStr() != pushed.DigestStr() {
		t.Errorf("the same bundle became %s and %s", pushed, again)
	}
	const want = "sha256:d20f44301d9de2f6da3f137fa49892b5a9c85d2745209e7df5700db36ba1979c"
	if pushed.DigestStr() != want {
		t.Errorf("the sample bundle's artifact is %s, and was %s", pushed.DigestStr(), want)
	}

	for _, ref := range []string{s.host + "/team/sql:v1", pushed.String(), s.host + "/team/sql:v2@" + pushed.DigestStr()} {
		if err := os.RemoveAll(to); err != nil {
			t.Fatal(err)
		}
		var last, total int64
		got, err := Pull(t.Context(), client(), ref, to, func(d, t int64) { last, total = d, t })
		if err != nil {
			t.Fatal(err)
		}
		if got.Reference.DigestStr() != pushed.DigestStr() || last != total || total != got.Fetched || total != 120_008 {
			t.Errorf("%s: %s, %d of %d bytes, %d fetched", ref, got.Reference, last, total, got.Fetched)
		}
		if err := bundle.Verify(t.Context(), to); err != nil {
			t.Error(err)
		}
		if sums(t, from) != sums(t, to) {
			t.Error("the bundle pulled is not the one pushed")
		}
	}

	// A new version: only what changed is fetched.
	build(t, from, "other root")
	if _, err := Push(t.Context(), client(), from, s.host+"/team/sql:v3"); err != nil {
		t.Fatal(err)
	}
	got, err := Pull(t.Context(), client(), s.host+"/team/sql:v3", to, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.Fetched != int64(len("other root")) || sums(t, from) != sums(t, to) {
		t.Errorf("%d bytes fetched", got.Fetched)
	}
	if names := left(t, filepath.Dir(to)); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
}

func TestBadPull(t *testing.T) {
	from := filepath.Join(t.TempDir(), "sql-amd64")
	build(t, from, "root")
	isBlob := func(r *http.Request) bool {
		return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/sha256:")
	}
	isManifest := func(r *http.Request) bool {
		return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/manifests/")
	}
	edit := func(b []byte, change func(m *v1.Manifest)) []byte {
		m, err := v1.ParseManifest(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		change(m)
		if b, err = json.Marshal(m); err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, tt := range map[string]struct {
		body  func(r *http.Request, b []byte) []byte
		class fault.Class
		want  string
		ref   func(pushed name.Digest) string
	}{
		"a bit flipped": {func(r *http.Request, b []byte) []byte {
			if isBlob(r) && len(b) > 100_000 {
				b[5] ^= 1
			}
			return b
		}, fault.Verification, "wrong digest", nil},
		"blob longer": {func(r *http.Request, b []byte) []byte {
			if isBlob(r) && len(b) > 100_000 {
				b = append(b, b...)
			}
			return b
		}, fault.Verification, "longer than", nil},
		"manifest swapped below a digest": {func(r *http.Request, b []byte) []byte {
			if isManifest(r) {
				b = append(b, ' ')
			}
			return b
		}, fault.Verification, "wrong digest of a manifest", func(d name.Digest) string { return d.String() }},
		"a file less": {func(r *http.Request, b []byte) []byte {
			if isManifest(r) {
				b = edit(b, func(m *v1.Manifest) { m.Layers = m.Layers[:3] })
			}
			return b
		}, fault.Verification, "names 3", nil},
		"a file renamed": {func(r *http.Request, b []byte) []byte {
			if isManifest(r) {
				b = bytes.ReplaceAll(b, []byte("bzImage"), []byte("../evil"))
			}
			return b
		}, fault.Verification, "names bzImage, which the artifact has not", nil},
		"another digest": {func(r *http.Request, b []byte) []byte {
			if isManifest(r) {
				b = edit(b, func(m *v1.Manifest) { m.Layers[1].Digest = m.Layers[2].Digest })
			}
			return b
		}, fault.Verification, "bzImage: expected sha256:", nil},
		"no manifest.json": {func(r *http.Request, b []byte) []byte {
			if isManifest(r) {
				b = edit(b, func(m *v1.Manifest) { m.Layers = m.Layers[1:] })
			}
			return b
		}, fault.Source, "has no manifest.json", nil},
		"not a bundle": {func(r *http.Request, b []byte) []byte {
			if isManifest(r) {
				b = edit(b, func(m *v1.Manifest) { m.ArtifactType = "application/x" })
			}
			return b
		}, fault.Source, "is not a bundle", nil},
		"no such tag": {func(r *http.Request, b []byte) []byte { return b }, fault.Source, "", func(d name.Digest) string { return d.Context().Tag("none").String() }},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			pushed, err := Push(t.Context(), client(), from, s.host+"/sql:v1")
			if err != nil {
				t.Fatal(err)
			}
			s.body = tt.body
			ref := s.host + "/sql:v1"
			if tt.ref != nil {
				ref = tt.ref(pushed)
			}
			parent := t.TempDir()
			_, err = Pull(t.Context(), client(), ref, filepath.Join(parent, "sql"), nil)
			if err == nil || fault.ClassOf(err) != tt.class || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v (class %d), want %q (class %d)", err, fault.ClassOf(err), tt.want, tt.class)
			}
			if names := left(t, parent); len(names) != 0 {
				t.Errorf("left behind: %v", names)
			}
		})
	}
}

// A transfer that breaks off is begun again; Ctrl-C in the middle of one
// leaves nothing.
func TestInterrupted(t *testing.T) {
	from := filepath.Join(t.TempDir(), "sql-amd64")
	build(t, from, "root")
	s := newSite(t)
	if _, err := Push(t.Context(), client(), from, s.host+"/sql:v1"); err != nil {
		t.Fatal(err)
	}
	var broken atomic.Int64
	parent := t.TempDir()
	dir := filepath.Join(parent, "sql")
	s.change = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/sha256:") || broken.Add(1) > 2 {
			return false
		}
		w.Header().Set("Content-Length", "1000")
		w.WriteHeader(http.StatusOK)
		if _, err := w.Write([]byte("beginning")); err != nil {
			t.Log(err)
		}
		panic(http.ErrAbortHandler)
	}
	if _, err := Pull(t.Context(), client(), s.host+"/sql:v1", dir, nil); err != nil {
		t.Fatal(err)
	}
	if err := bundle.Verify(t.Context(), dir); err != nil {
		t.Error(err)
	}
	before := sums(t, dir)

	build(t, from, strings.Repeat("another root", 100_000))
	s.change = nil
	if _, err := Push(t.Context(), client(), from, s.host+"/sql:v2"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := Pull(ctx, client(), s.host+"/sql:v2", dir, func(done, total int64) {
		if done > 500_000 {
			cancel()
		}
	})
	if fault.ClassOf(err) != fault.Cancelled {
		t.Errorf("got %v", err)
	}
	if names := left(t, parent); len(names) != 1 || sums(t, dir) != before {
		t.Errorf("the old bundle is not as it was; there is %v", names)
	}
}

type keychain struct{ user, password string }

func (k keychain) Resolve(authn.Resource) (authn.Authenticator, error) {
	return &authn.Basic{Username: k.user, Password: k.password}, nil
}

// Credentials are used and never shown.
func TestCredentials(t *testing.T) {
	const secret = "hunter2-very-secret"
	s := newSite(t)
	s.change = func(w http.ResponseWriter, r *http.Request) bool {
		if _, password, _ := r.BasicAuth(); password == secret {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	from := filepath.Join(t.TempDir(), "sql-amd64")
	build(t, from, "root")
	c := client()
	c.Keychain = keychain{"me", secret}
	if _, err := Push(t.Context(), c, from, s.host+"/sql:v1"); err != nil {
		t.Fatal(err)
	}
	c = client()
	c.Keychain = keychain{"me", secret + "-but-wrong"}
	_, err := Push(t.Context(), c, from, s.host+"/sql:v1")
	if fault.ClassOf(err) != fault.Source || !strings.Contains(fault.HintOf(err), "log in") {
		t.Errorf("got %v, hint %q", err, fault.HintOf(err))
	}
	_, err2 := Pull(t.Context(), client(), "me:"+secret+"@"+s.host+"/sql:v1", filepath.Join(t.TempDir(), "sql"), nil)
	if fault.ClassOf(err2) != fault.Usage {
		t.Errorf("got %v", err2)
	}
	for _, err := range []error{err, err2} {
		if strings.Contains(err.Error()+fault.HintOf(err), "hunter2") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
}

// A bundle that is damaged does not leave the machine.
func TestPushVerifies(t *testing.T) {
	s := newSite(t)
	from := filepath.Join(t.TempDir(), "sql-amd64")
	build(t, from, "root")
	if err := os.WriteFile(filepath.Join(from, "root.img"), []byte("rOOt"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Push(t.Context(), client(), from, s.host+"/sql:v1"); fault.ClassOf(err) != fault.Verification {
		t.Errorf("got %v", err)
	}
	if _, err := Push(t.Context(), client(), t.TempDir(), s.host+"/sql:v1"); fault.ClassOf(err) != fault.Usage {
		t.Errorf("got %v", err)
	}
}
