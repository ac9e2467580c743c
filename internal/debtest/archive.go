// Package debtest is a small Debian archive for tests: unsigned, over http,
// with lists that the machine's real apt reads. An archive's lists and its
// files are kept apart, as mirrors do now and then.
package debtest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Archive is a Debian archive and its server.
type Archive struct {
	URL string

	mu     sync.Mutex
	lists  map[string]*lists // by suite
	files  map[string]string
	status map[string]int
	asked  []string
}

type lists struct{ sources, packages string }

// New starts an archive without suites.
func New(t *testing.T) *Archive {
	t.Helper()
	a := &Archive{lists: map[string]*lists{}, files: map[string]string{}, status: map[string]int{}}
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	a.URL = server.URL + "/debian"
	return a
}

// Etc writes an apt directory, as /etc/apt, whose only archives are these, each
// with the suites given for it.
func Etc(t *testing.T, suites map[*Archive][]string) string {
	t.Helper()
	var text strings.Builder
	for a, names := range suites {
		for _, suite := range names {
			fmt.Fprintf(&text, "deb [trusted=yes] %s %s main\n", a.URL, suite)
		}
	}
	etc := t.TempDir()
	if err := os.WriteFile(filepath.Join(etc, "sources.list"), []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return etc
}

func (a *Archive) suite(name string) *lists {
	if a.lists[name] == nil {
		a.lists[name] = &lists{}
	}
	return a.lists[name]
}

// Suite makes a suite without packages.
func (a *Archive) Suite(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.suite(name)
}

// Source lists a version of a source package in a suite, with the tarball of
// that content, and returns the path at which it has to be Put.
func (a *Archive) Source(suite, name, version, tarball, content string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	directory := "pool/main/" + name[:1] + "/" + name
	l := a.suite(suite)
	l.sources += fmt.Sprintf("Package: %s\nBinary: %s\nVersion: %s\nMaintainer: nobody <nobody@example.invalid>\nArchitecture: any\nFormat: 3.0 (quilt)\nDirectory: %s\nFiles:\n 00000000000000000000000000000000 %d %s\nChecksums-Sha256:\n %s %d %s\n\n",
		name, name, version, directory, len(content), tarball, sum(content), len(content), tarball)
	return directory + "/" + tarball
}

// Package lists a binary package, which belongs to every installation, and
// returns the path at which it has to be Put.
func (a *Archive) Package(suite, name, version, content string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	path := fmt.Sprintf("pool/main/%s/%s/%s_%s_amd64.deb", name[:1], name, name, version)
	l := a.suite(suite)
	l.packages += fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: amd64\nEssential: yes\nPriority: required\nMaintainer: nobody <nobody@example.invalid>\nFilename: %s\nSize: %d\nSHA256: %s\nDescription: a test\n\n",
		name, version, path, len(content), sum(content))
	return path
}

// Clear takes everything out of a suite's lists.
func (a *Archive) Clear(suite string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lists[suite] = &lists{}
}

// Put makes a file of the pool be there.
func (a *Archive) Put(path, content string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.files[path] = content
}

// Remove takes a file of the pool away.
func (a *Archive) Remove(path string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.files, path)
}

// Answer makes a path be answered with a status whatever is there; 0 ends it.
func (a *Archive) Answer(path string, status int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status[path] = status
}

// Asked counts the requests for a path.
func (a *Archive) Asked(path string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, p := range a.asked {
		if p == path {
			n++
		}
	}
	return n
}

// ServeHTTP implements http.Handler.
func (a *Archive) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, "/debian/")
	a.asked = append(a.asked, path)
	if status := a.status[path]; status != 0 {
		w.WriteHeader(status)
		return
	}
	content, ok := a.files[path]
	if !ok {
		content, ok = a.list(path)
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	// There is nobody left to tell of a client that went away.
	_, _ = w.Write([]byte(content))
}

// list makes a file below dists/.
func (a *Archive) list(path string) (string, bool) {
	parts := strings.SplitN(path, "/", 3)
	if len(parts) != 3 || parts[0] != "dists" {
		return "", false
	}
	l, ok := a.lists[parts[1]]
	if !ok {
		return "", false
	}
	files := map[string]string{"main/source/Sources": l.sources, "main/binary-amd64/Packages": l.packages}
	if content, ok := files[parts[2]]; ok {
		return content, true
	}
	if parts[2] != "Release" {
		return "", false
	}
	var names []string
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	var b strings.Builder
	fmt.Fprintf(&b, "Origin: Test\nSuite: %s\nCodename: %s\nDate: Thu, 01 Jan 2026 00:00:00 UTC\nArchitectures: amd64\nComponents: main\nSHA256:\n", parts[1], parts[1])
	for _, name := range names {
		fmt.Fprintf(&b, " %s %d %s\n", sum(files[name]), len(files[name]), name)
	}
	return b.String(), true
}

func sum(content string) string {
	digest := sha256.Sum256([]byte(content))
	return hex.EncodeToString(digest[:])
}
