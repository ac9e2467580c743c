package source

import (
	"archive/tar"
	"bytes"
	"crypto/sha512"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// tarball is what a tar in the store holds: contents, or what else an entry
// is, by name.
func tarball(t *testing.T, f *Fetcher, d store.Digest) map[string]string {
	t.Helper()
	in, err := f.store.Open(d)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	got := map[string]string{}
	for r := tar.NewReader(in); ; {
		h, err := r.Next()
		if err == io.EOF {
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		switch h.Typeflag {
		case tar.TypeReg:
			b, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			got[h.Name] = fmt.Sprintf("%o %s", h.Mode, b)
		case tar.TypeDir:
		default:
			got[h.Name] = fmt.Sprintf("%c %s", h.Typeflag, h.Linkname)
		}
	}
}

// lockOne updates the lock of one source, and checks that the entry is a lock's
// and not stale.
func lockOne(t *testing.T, f *Fetcher, old *lock.Lock, decl recipe.Source) *Updated {
	t.Helper()
	d := Declared{Sources: map[string]recipe.Source{"thing": decl}, SourceDate: 1}
	u, err := f.Update(t.Context(), old, d, []string{"thing"})
	if err != nil {
		t.Fatal(err)
	}
	text, err := u.Lock.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock.Parse("sovereign.lock", text); err != nil {
		t.Fatal(err)
	}
	if s := d.Stale(u.Lock); len(s) > 0 {
		t.Errorf("stale as soon as it is locked: %v", s)
	}
	return u
}

// elsewhere fetches what is locked into an empty store.
func elsewhere(t *testing.T, l *lock.Lock, decl recipe.Source, opts ...Option) (*Fetcher, error) {
	t.Helper()
	f, _ := fetcher(t, opts...)
	return f, f.Sources(t.Context(), l.Sources, map[string]recipe.Source{"thing": decl})
}

func staleWhy(l *lock.Lock, decl recipe.Source) string {
	for _, s := range (Declared{Sources: map[string]recipe.Source{"thing": decl}}).Stale(l) {
		return s.Why
	}
	return ""
}

func TestHTTPS(t *testing.T) {
	var absent atomic.Bool // of 1.10
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/list/":
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, `<a href="thing-1.9.tar.gz">thing-1.9.tar.gz</a> <a href="thing-1.10.tar.gz">x</a> <a href="thing-1.11rc1.tar.gz">x</a>
				<a href="thing-2.0.tar.gz">x</a> <a href="other-thing-3.0.tar.gz">x</a> <a href="thing-1.10.tar.gz.asc">x</a>`)
		case "/thing-1.9.tar.gz", "/m/thing-1.9.tar.gz", "/m/thing-1.10.tar.gz":
			fmt.Fprint(w, r.URL.Path[len(r.URL.Path)-11:])
		case "/thing-1.10.tar.gz":
			if absent.Load() {
				http.NotFound(w, r)
				return
			}
			fmt.Fprint(w, r.URL.Path[len(r.URL.Path)-11:])
		case "/portal-1.9.tar.gz":
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, "log in")
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	f, _ := fetcher(t, WithHTTPClient(srv.Client()))
	decl := recipe.Source{URL: srv.URL + "/thing-${version}.tar.gz", Mirrors: []string{srv.URL + "/m/thing-${version}.tar.gz"}, Version: "1.9"}
	u := lockOne(t, f, nil, decl)
	got := u.Lock.Sources[0]
	want := lock.Source{Name: "thing", Version: "1.9", File: "thing-1.9.tar.gz", Digest: store.FromBytes([]byte("-1.9.tar.gz")), Size: 11,
		Mirrors: []string{srv.URL + "/thing-1.9.tar.gz", srv.URL + "/m/thing-1.9.tar.gz"}}
	if fmt.Sprint(got) != fmt.Sprint(want) || !f.store.Has(got.Digest) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if len(u.Notes) != 1 || !strings.Contains(u.Notes[0], "vouches") {
		t.Errorf("notes %q", u.Notes)
	}
	// Nothing lists versions.
	_, notes, err := f.Outdated(t.Context(), u.Lock, Declared{Sources: map[string]recipe.Source{"thing": decl}})
	if err != nil || len(notes) != 1 || !strings.Contains(notes[0], "give list") {
		t.Errorf("%q, %v", notes, err)
	}
	// Upstream's sum is held against what comes.
	decl.SHA256 = got.Digest.Hex()
	if u := lockOne(t, f, u.Lock, decl); len(u.Changes)+len(u.Notes) != 0 {
		t.Errorf("%+v", u)
	}
	decl.SHA256 = strings.Repeat("0", 64)
	if why := staleWhy(u.Lock, decl); !strings.Contains(why, "declared sha256") {
		t.Errorf("stale: %q", why)
	}
	if _, err := f.Resolve(t.Context(), "thing", decl); fault.ClassOf(err) != fault.Verification {
		t.Errorf("another sum: %v", err)
	}
	if _, err := f.Resolve(t.Context(), "thing", recipe.Source{URL: srv.URL + "/portal-${version}.tar.gz", Version: "1.9"}); err == nil || !strings.Contains(err.Error(), "captive") {
		t.Errorf("a portal: %v", err)
	}

	// A page lists versions.
	decl = recipe.Source{URL: decl.URL, Mirrors: decl.Mirrors, List: srv.URL + "/list/", Series: "1"}
	o, _, err := f.Outdated(t.Context(), u.Lock, Declared{Sources: map[string]recipe.Source{"thing": decl}})
	if err != nil || len(o) != 1 || len(o[0].Newer) != 1 || o[0].Newer[0].Version != "1.10" || !o[0].Newer[0].Available || o[0].BeyondSeries == nil || o[0].BeyondSeries.Version != "2.0" {
		t.Errorf("%+v, %v", o, err)
	}
	absent.Store(true)
	newer := lockOne(t, f, u.Lock, decl)
	if s := newer.Lock.Sources[0]; s.Version != "1.10" || newer.Changes[0].String() != "thing 1.9 → 1.10" {
		t.Errorf("%+v, %+v", s, newer.Changes)
	}
	decl.Series = "3"
	if _, err := f.Resolve(t.Context(), "thing", decl); fault.ClassOf(err) != fault.Source || !strings.Contains(err.Error(), "names no file like") {
		t.Errorf("no version: %v", err)
	}
	// Elsewhere it comes from the second mirror.
	if there, err := elsewhere(t, newer.Lock, decl, WithHTTPClient(srv.Client())); err != nil || !there.store.Has(newer.Lock.Sources[0].Digest) {
		t.Errorf("elsewhere: %v", err)
	}
}

// The user's mirrors are asked in place of the others, and held against the
// same digests.
func TestMirrorsOfTheUser(t *testing.T) {
	srv := serve(t)
	s := src("zlib", "https://upstream.invalid/good")
	f, _ := fetcher(t, WithHTTPClient(srv.Client()), WithMirrors(recipe.Mirrors{
		"https://upstream.invalid/": {srv.URL + "/absent/", srv.URL + "/"}, "https://up": {srv.URL + "/wrong"}}))
	if err := f.Sources(t.Context(), []lock.Source{s}, nil); err != nil {
		t.Error(err)
	}
	f, _ = fetcher(t, WithHTTPClient(srv.Client()), WithMirrors(recipe.Mirrors{"https://upstream.invalid/good": {srv.URL + "/wrong"}}))
	if err := f.Sources(t.Context(), []lock.Source{s}, nil); fault.ClassOf(err) != fault.Verification {
		t.Errorf("a mirror with other bytes: %v", err)
	}
}

// repository is a git server with a repository of two tags and a branch.
func repository(t *testing.T) (dir, url string) {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	out, err := exec.Command("git", "--exec-path").Output()
	backend := filepath.Join(strings.TrimSpace(string(out)), "git-http-backend")
	if _, serr := os.Stat(backend); err != nil || serr != nil {
		t.Skipf("this git has no git-http-backend: %v", errors.Join(err, serr))
	}
	root := t.TempDir()
	dir = filepath.Join(root, "thing.git")
	srv := httptest.NewTLSServer(&cgi.Handler{Path: backend, Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1"}})
	t.Cleanup(srv.Close)
	ca := filepath.Join(root, "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GIT_SSL_CAINFO", ca)
	t.Setenv("GIT_CONFIG_GLOBAL", "/dev/null")
	t.Setenv("GIT_CONFIG_SYSTEM", "/dev/null")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, dir, "init", "-q", "-b", "main", ".")
	write := func(name, text string, mode os.FileMode) {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), mode)); err != nil {
			t.Fatal(err)
		}
	}
	write("a/run", "#!/bin/sh\n", 0o755)
	write("text", "one\r\n$Format:%H$\n", 0o644)
	write(".gitattributes", "text text eol=crlf export-subst\na export-ignore\n", 0o644)
	if err := os.Symlink("a/run", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	commit(t, dir, "v1.0")
	write("text", "two\n", 0o644)
	commit(t, dir, "v1.1")
	write("text", "three\n", 0o644)
	commit(t, dir, "v1.2rc1")
	return dir, srv.URL + "/thing.git/.git"
}

func run(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.org",
		"GIT_AUTHOR_DATE=1700000000 +0000", "GIT_COMMITTER_DATE=1700000000 +0000")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func commit(t *testing.T, dir, tag string) string {
	t.Helper()
	run(t, dir, "add", "-A")
	run(t, dir, "commit", "-q", "--allow-empty", "-m", "change")
	run(t, dir, "tag", "-a", "-m", tag, tag)
	return run(t, dir, "rev-parse", "HEAD")
}

func TestGit(t *testing.T) {
	dir, url := repository(t)
	first := run(t, dir, "rev-parse", "v1.0^{commit}")
	f, _ := fetcher(t)
	decl := recipe.Source{Git: recipe.Git{URL: url, Commit: first}}
	u := lockOne(t, f, nil, decl)
	s := u.Lock.Sources[0]
	// The bytes are the commit's, whatever git and its attributes are.
	const golden = "sha256:44b5a2348459bbabd7a813e77dd906bc12669b928121f3871984b5ed18ff772b"
	if s.Version != "0_git20231114221320" || s.Mirrors[0] != "git:"+url+"#"+first || string(s.Digest) != golden {
		t.Errorf("%+v, want the digest %s", s, golden)
	}
	want := map[string]string{"thing/a/run": "755 #!/bin/sh\n", "thing/text": "644 one\n$Format:%H$\n", "thing/link": "2 a/run",
		"thing/.gitattributes": "644 text text eol=crlf export-subst\na export-ignore\n"}
	if got := tarball(t, f, s.Digest); !maps.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if there, err := elsewhere(t, u.Lock, decl); err != nil || !there.store.Has(s.Digest) {
		t.Errorf("elsewhere: %v", err)
	}

	// The newest tag of the series; a candidate is none.
	decl = recipe.Source{Git: recipe.Git{URL: url, Tag: "v${version}"}, Series: "1"}
	if why := staleWhy(u.Lock, decl); why == "" {
		t.Error("a commit is locked, tags are declared, and that is not stale")
	}
	u = lockOne(t, f, u.Lock, decl)
	if s := u.Lock.Sources[0]; s.Version != "1.1" || !strings.HasSuffix(s.Mirrors[0], run(t, dir, "rev-parse", "v1.1^{commit}")) {
		t.Errorf("%+v", s)
	}
	o, _, err := f.Outdated(t.Context(), u.Lock, Declared{Sources: map[string]recipe.Source{"thing": decl}})
	if err != nil || len(o) != 0 {
		t.Errorf("%+v, %v", o, err)
	}
	commit(t, dir, "v1.2")
	commit(t, dir, "v2.0")
	o, _, err = f.Outdated(t.Context(), u.Lock, Declared{Sources: map[string]recipe.Source{"thing": decl}})
	if err != nil || len(o) != 1 || o[0].Newer[0].Version != "1.2" || o[0].BeyondSeries.Version != "2.0" {
		t.Errorf("%+v, %v", o, err)
	}
	// A tag that moves is said.
	u = lockOne(t, f, u.Lock, decl)
	run(t, dir, "tag", "-f", "-a", "-m", "x", "v1.2", "main~3")
	if u := lockOne(t, f, u.Lock, decl); len(u.Notes) != 1 || !strings.Contains(u.Notes[0], "a tag should never move") {
		t.Errorf("notes %q", u.Notes)
	}

	// A branch goes on.
	decl = recipe.Source{Git: recipe.Git{URL: url, Branch: "main"}}
	u = lockOne(t, f, nil, decl)
	if same := lockOne(t, f, u.Lock, decl); len(same.Changes) != 0 {
		t.Errorf("nothing happened, and %v", same.Changes)
	}
	tip := commit(t, dir, "other")
	o, _, err = f.Outdated(t.Context(), u.Lock, Declared{Sources: map[string]recipe.Source{"thing": decl}})
	if err != nil || len(o) != 1 || !strings.HasPrefix(o[0].Newer[0].Version, tip[:12]) {
		t.Errorf("%+v, %v", o, err)
	}

	// What is not there.
	for what, git := range map[string]recipe.Git{
		"has no branch none":   {URL: url, Branch: "none"},
		"has no tag like x${":  {URL: url, Tag: "x${version}"},
		"has no commit 111111": {URL: url, Commit: strings.Repeat("1", 40)},
		"not found":            {URL: url + "/none", Branch: "main"},
	} {
		_, err := f.Resolve(t.Context(), "thing", recipe.Source{Git: git})
		if fault.ClassOf(err) != fault.Source || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	gone := u.Lock.Clone()
	gone.Sources[0].Mirrors = []string{"git:" + url + "#" + strings.Repeat("1", 40)}
	var missing *MissingError
	if _, err := elsewhere(t, gone, decl); !errors.As(err, &missing) {
		t.Errorf("a commit that is gone: %v", err)
	}
	run(t, dir, "update-index", "--add", "--cacheinfo", "160000,"+first+",sub")
	run(t, dir, "commit", "-q", "-m", "submodule")
	if _, err := f.Resolve(t.Context(), "thing", decl); err == nil || !strings.Contains(err.Error(), "sub is a submodule") {
		t.Errorf("a submodule: %v", err)
	}
}

func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	write("src/a", "text")
	write("src/.git/HEAD", "ref")
	decl := recipe.Source{Directory: "src", Version: "1.2", Dir: recipe.Ref{Name: dir}}
	f, _ := fetcher(t, WithOffline(true))
	u := lockOne(t, f, nil, decl)
	s := u.Lock.Sources[0]
	if got := tarball(t, f, s.Digest); !maps.Equal(got, map[string]string{"thing/a": "644 text"}) || s.Version != "1.2" || s.Mirrors[0] != "directory:src" {
		t.Errorf("%q, %+v", got, s)
	}
	if there, err := elsewhere(t, u.Lock, decl); err != nil || !there.store.Has(s.Digest) {
		t.Errorf("elsewhere: %v", err)
	}
	write("src/a", "more")
	if why := staleWhy(u.Lock, decl); !strings.Contains(why, "has changed since it was locked") {
		t.Errorf("stale: %q", why)
	}
	if _, err := elsewhere(t, u.Lock, decl); fault.ClassOf(err) != fault.Verification {
		t.Errorf("other bytes: %v", err)
	}
	if newer := lockOne(t, f, u.Lock, decl); len(newer.Changes) != 1 {
		t.Errorf("%v", newer.Changes)
	}
	// On another machine it may be in the store alone.
	if err := os.RemoveAll(filepath.Join(dir, "src")); err != nil {
		t.Fatal(err)
	}
	if why := staleWhy(u.Lock, decl); why != "" {
		t.Errorf("stale: %q", why)
	}
	var missing *MissingError
	if _, err := elsewhere(t, u.Lock, decl); !errors.As(err, &missing) {
		t.Errorf("gone: %v", err)
	}
}

// registry serves two packages, one of them scoped.
func registry(t *testing.T) (srv *httptest.Server, packages *sync.Map) {
	t.Helper()
	packages = new(sync.Map)
	packages.Store("/left/-/left-1.0.0.tgz", "left")
	packages.Store("/@the/right/-/right-2.0.0.tgz", "right")
	srv = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch b, ok := packages.Load(r.URL.Path); {
		case ok:
			io.WriteString(w, b.(string))
		case r.URL.Path == "/left/latest":
			fmt.Fprint(w, `{"name": "left", "version": "1.0.1"}`)
		case r.URL.EscapedPath() == "/@the%2fright/latest":
			fmt.Fprint(w, `{"name": "@the/right", "version": "2.0.0"}`)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	return srv, packages
}

func integrity(b []byte) string {
	sum := sha512.Sum512(b)
	return "sha512-" + base64.StdEncoding.EncodeToString(sum[:])
}

func TestNPM(t *testing.T) {
	srv, packages := registry(t)
	t.Setenv("npm_config_registry", srv.URL)
	dir := t.TempDir()
	npm := fmt.Sprintf(`{
  "name": "web", "version": "3.1.0-rc.1", "lockfileVersion": 3,
  "packages": {
    "": {"name": "web", "version": "3.1.0-rc.1", "dependencies": {"left": "^1"}, "devDependencies": {"@the/right": "2"}},
    "node_modules/left": {"version": "1.0.0", "integrity": %q},
    "node_modules/left/node_modules/inside": {"version": "1.0.0", "inBundle": true},
    "node_modules/part": {"resolved": "part", "link": true},
    "part": {"name": "part", "version": "1.0.0"},
    "node_modules/@the/right": {"version": "2.0.0", "resolved": "%s/@the/right/-/right-2.0.0.tgz", "integrity": "sha1-AAAA %s"},
    "node_modules/again": {"name": "left", "version": "1.0.0", "integrity": %q}
  }
}
`, integrity([]byte("left")), srv.URL, integrity([]byte("right")), integrity([]byte("left")))
	pnpm := fmt.Sprintf(`lockfileVersion: '9.0'
importers:
  .:
    dependencies:
      left: {specifier: ^1, version: 1.0.0}
    devDependencies:
      '@the/right': {specifier: '2', version: 2.0.0(left@1.0.0)}
packages:
  left@1.0.0:
    resolution: {integrity: %s}
  '@the/right@2.0.0':
    resolution: {integrity: %s}
    peerDependencies: {left: '1'}
snapshots: {}
`, integrity([]byte("left")), integrity([]byte("right")))
	for name, text := range map[string]string{"package-lock.json": npm, "pnpm-lock.yaml": pnpm} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			decl := recipe.Source{NPM: recipe.NPM{Lock: name}, Dir: recipe.Ref{Name: dir}}
			f, _ := fetcher(t, WithHTTPClient(srv.Client()))
			u := lockOne(t, f, nil, decl)
			s := u.Lock.Sources[0]
			got := tarball(t, f, s.Digest)
			file := func(b []byte) string {
				sum := sha512.Sum512(b)
				h := fmt.Sprintf("%x", sum)
				return "cache/_cacache/content-v2/sha512/" + h[:2] + "/" + h[2:4] + "/" + h[4:]
			}
			// A tar has the first of two names as the file.
			want := map[string]string{
				file([]byte("left")):                    "644 left",
				file([]byte("right")):                   "644 right",
				"registry/left/-/left-1.0.0.tgz":        "1 " + file([]byte("left")),
				"registry/@the/right/-/right-2.0.0.tgz": "1 " + file([]byte("right")),
			}
			version := "0"
			if name == "package-lock.json" {
				version = "3.1.0"
				filled := got[name]
				if !strings.Contains(filled, "https://registry.invalid/left/-/left-1.0.0.tgz") || !strings.Contains(filled, srv.URL+"/@the/right/") {
					t.Errorf("the lock file became %s", filled)
				}
				want[name] = filled
			}
			if !maps.Equal(got, want) || s.Version != version {
				t.Errorf("%q, want %q; version %s", got, want, s.Version)
			}
			if there, err := elsewhere(t, u.Lock, decl, WithHTTPClient(srv.Client())); err != nil || !there.store.Has(s.Digest) {
				t.Errorf("elsewhere: %v", err)
			}
			o, notes, err := f.Outdated(t.Context(), u.Lock, Declared{Sources: map[string]recipe.Source{"thing": decl}})
			if err != nil || len(notes) != 0 || len(o) != 1 || !slices.Equal(o[0].Newer[0].Packages, []string{"left 1.0.0 → 1.0.1"}) {
				t.Errorf("%+v, %q, %v", o, notes, err)
			}
			// Wrong bytes, and a file that changed.
			packages.Store("/left/-/left-1.0.0.tgz", "evil")
			_, err = elsewhere(t, u.Lock, decl, WithHTTPClient(srv.Client()))
			packages.Store("/left/-/left-1.0.0.tgz", "left")
			if fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), "left 1.0.0: wrong bytes") {
				t.Errorf("wrong bytes: %v", err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if why := staleWhy(u.Lock, decl); !strings.Contains(why, "has changed since it was locked") {
				t.Errorf("stale: %q", why)
			}
			if _, err := elsewhere(t, u.Lock, decl, WithHTTPClient(srv.Client())); fault.ClassOf(err) != fault.Verification {
				t.Errorf("another lock file: %v", err)
			}
		})
	}
}

func TestBadNPMLock(t *testing.T) {
	good := integrity([]byte("x"))
	for _, tt := range []struct{ name, in, want string }{
		{"l.json", "{\n  \"lockfileVersion\": 3,\n  oops\n}", "l.json:3:3: not JSON"},
		{"l.json", `{"lockfileVersion": 1, "dependencies": {}}`, `l.json:1:2: lockfileVersion 1 is not 2 or 3`},
		{"l.json", "{\"lockfileVersion\": 3, \"packages\": {\n\"node_modules/a\": {\"version\": \"1.0.0\"}}}", `l.json:2:1: node_modules/a: there is no integrity`},
		{"l.json", `{"lockfileVersion": 3, "packages": {"node_modules/a": {"version": "1.0.0", "integrity": "sha1-AAAA"}}}`, `has none of sha512`},
		{"l.json", `{"lockfileVersion": 3, "packages": {"node_modules/a": {"version": "1.0.0", "integrity": "sha512-AAAA"}}}`, `is no digest`},
		{"l.json", `{"lockfileVersion": 3, "packages": {"node_modules/../a": {"version": "1.0.0", "integrity": "` + good + `"}}}`, `is not a package's name`},
		{"l.json", `{"lockfileVersion": 3, "packages": {"node_modules/a": {"version": "../1", "integrity": "` + good + `"}}}`, `is not a version`},
		{"l.json", `{"lockfileVersion": 3, "packages": {"node_modules/a": {"version": "1.0.0", "resolved": "git+ssh://x/y", "integrity": "` + good + `"}}}`, `and not in a registry`},
		{"l.yaml", "lockfileVersion: '9.0'\npackages:\n  a@1.0.0: {resolution: {type: git}}\n", `l.yaml:3:3: a@1.0.0: there is no integrity`},
		{"l.yaml", "lockfileVersion: '5.4'\n", `l.yaml:1:1: lockfileVersion "5.4" is not 6 or 9`},
		{"l.yaml", "packages: [", `l.yaml:1:`},
	} {
		_, err := parseNPMLock(tt.name, []byte(tt.in))
		if fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.in, err, tt.want)
		}
	}
}

func FuzzParseNPMLock(f *testing.F) {
	f.Add(true, []byte(`{"lockfileVersion": 3, "packages": {"": {"version": "1"}, "node_modules/a": {"version": "1.0.0", "integrity": "sha512-AAAA"}}}`))
	f.Add(false, []byte("lockfileVersion: '9.0'\npackages:\n  a@1.0.0: {resolution: {integrity: sha512-AA}}\n"))
	f.Fuzz(func(t *testing.T, npm bool, b []byte) {
		name := "l.yaml"
		if npm {
			name = "l.json"
		}
		l, err := parseNPMLock(name, b)
		if err != nil {
			return
		}
		for _, p := range l.packages {
			if strings.Contains("/"+p.file()+"/", "/../") {
				t.Errorf("%q leads out", p.file())
			}
		}
	})
}

func FuzzParseGitTree(f *testing.F) {
	f.Add([]byte("100644 blob " + strings.Repeat("1", 40) + "       3\ta/b\x00120000 blob " + strings.Repeat("2", 40) + "       1\tlink\x00"))
	f.Add([]byte("160000 commit " + strings.Repeat("1", 40) + "       -\tsub\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, err := parseTree(b)
		if err != nil {
			return
		}
		for _, e := range entries {
			if strings.Contains("/"+e.path+"/", "/../") || strings.HasPrefix(e.path, "/") {
				t.Errorf("%q leads out", e.path)
			}
		}
	})
}

func FuzzParseRefs(f *testing.F) {
	f.Add(strings.Repeat("1", 40) + "\trefs/tags/v1\n" + strings.Repeat("2", 40) + "\trefs/tags/v1^{}\n")
	f.Fuzz(func(t *testing.T, text string) {
		for ref, commit := range parseRefs(text) {
			if !lock.ValidCommit(commit) {
				t.Errorf("%q of %q", commit, ref)
			}
		}
	})
}

func FuzzListedVersions(f *testing.F) {
	f.Add("x thing-1.2.tar.gz thing-1_2", "thing-${version}.tar.gz")
	f.Add("", "${version:_}/${version")
	f.Fuzz(func(_ *testing.T, text, template string) { listedVersions(text, template) })
}

// A real package-lock.json, the registry that this machine's npm is set up for,
// and npm itself offline.
func TestRealRegistry(t *testing.T) {
	if testing.Short() {
		t.Skip("asks a registry")
	}
	if _, err := exec.LookPath("npm"); err != nil {
		t.Skip("npm is not installed")
	}
	dir := t.TempDir()
	npm := func(dir string, args ...string) ([]byte, error) {
		cmd := exec.CommandContext(t.Context(), "npm", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "npm_config_fetch_retries=0", "npm_config_update_notifier=false", "npm_config_audit=false", "npm_config_fund=false")
		return cmd.CombinedOutput()
	}
	manifest := []byte(`{"name": "web", "version": "1.0.0", "dependencies": {"is-odd": "3.0.1"}}`)
	if err := os.WriteFile(filepath.Join(dir, "package.json"), manifest, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := npm(dir, "install", "--package-lock-only", "--ignore-scripts", "--cache", t.TempDir()); err != nil {
		t.Skipf("no registry can be reached: %v: %.300s", err, out)
	}
	f, _ := fetcher(t)
	decl := recipe.Source{NPM: recipe.NPM{Lock: "package-lock.json"}, Dir: recipe.Ref{Name: dir}}
	u := lockOne(t, f, nil, decl)
	if s := u.Lock.Sources[0]; s.Version != "1.0.0" {
		t.Errorf("%+v", s)
	}
	work := t.TempDir()
	if out, err := exec.Command("tar", "-xf", f.store.Path(u.Lock.Sources[0].Digest), "-C", work).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	program := t.TempDir()
	locked, err := os.ReadFile(filepath.Join(work, "package-lock.json"))
	if err = errors.Join(err, os.WriteFile(filepath.Join(program, "package.json"), manifest, 0o600), os.WriteFile(filepath.Join(program, "package-lock.json"), locked, 0o600)); err != nil {
		t.Fatal(err)
	}
	if out, err := npm(program, "ci", "--offline", "--ignore-scripts", "--cache", filepath.Join(work, "cache")); err != nil {
		t.Fatalf("npm ci --offline: %v\n%s", err, out)
	}
	text, err := os.ReadFile(filepath.Join(program, "node_modules", "is-odd", "package.json"))
	if err != nil || !bytes.Contains(text, []byte(`"version": "3.0.1"`)) {
		t.Errorf("%.200s, %v", text, err)
	}
}
