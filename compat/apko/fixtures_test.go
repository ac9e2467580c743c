package apko

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	apko "chainguard.dev/apko/pkg/apk/apk"

	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

// apkoDir is apko's module in the module cache. Its test data, real indexes
// and packages of Alpine, are read there and not copied.
func apkoDir(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "chainguard.dev/apko").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	return strings.TrimSpace(string(out))
}

func testdata(t testing.TB, elem ...string) string {
	return filepath.Join(append([]string{apkoDir(t), "pkg/apk/apk/testdata"}, elem...)...)
}

// alpineKeys are Alpine's own public keys. apko's tests have them as text.
func alpineKeys(t testing.TB) apk.Keyring {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(apkoDir(t), "pkg/apk/apk/repo_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	keys := apk.Keyring{}
	for _, m := range regexp.MustCompile("(?s)\"([^\"]+\\.rsa\\.pub)\": `\\s*(-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----)`").FindAllSubmatch(text, -1) {
		key, err := apk.ParsePublicKey(m[2])
		if err != nil {
			t.Fatalf("%s: %v", m[1], err)
		}
		keys[string(m[1])] = apk.Key{PublicKey: key}
	}
	if len(keys) < 2 {
		t.Fatalf("apko's tests have %d keys, wanted Alpine's two", len(keys))
	}
	return keys
}

// alpine opens the index of an Alpine release ("alpine-317") with both, each
// verifying its signature.
func alpine(t testing.TB, release string) (apk.Repository, apko.NamedIndex) {
	t.Helper()
	keys := alpineKeys(t)
	dir := t.TempDir()
	if err := os.Symlink(testdata(t, release), filepath.Join(dir, "aarch64")); err != nil {
		t.Fatal(err)
	}
	ours, err := apk.OpenRepository(t.Context(), dir, "aarch64", keys)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(testdata(t, release, "APKINDEX.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	index, err := apko.IndexFromArchive(f)
	if err != nil {
		t.Fatal(err)
	}
	uri := "https://example.org/" + release
	repo := apko.Repository{URI: uri}
	return ours, apko.NewNamedRepositoryWithIndex("", repo.WithIndex(index))
}
