package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ociregistry "github.com/google/go-containerregistry/pkg/registry"

	"github.com/sovereign-build/sovereign/internal/bundletest"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// small makes whole bundles without compiling anything.
type small struct {
	fake
	t   *testing.T
	key signature.Key
}

func (b *small) Build(_ context.Context, r BuildRequest) (*BuildResult, error) {
	dir := filepath.Join(r.Output, "sql-"+r.Arch)
	bundletest.Make(b.t, dir, bundletest.Options{Arch: r.Arch, Key: b.key})
	return &BuildResult{Name: "sql", Arch: r.Arch, Bundle: dir}, nil
}

// program runs commands of one call after the other.
type program struct {
	t       *testing.T
	builder Builder
	env     []string
}

// run returns the exit code and what was printed.
func (p program) run(args ...string) (int, string, string) {
	p.t.Helper()
	var out, errs bytes.Buffer
	c := &CLI{Args: args, Env: p.env, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Builder: p.builder}
	code := c.Run(p.t.Context())
	return code, out.String(), errs.String()
}

// must runs a command that has to succeed.
func (p program) must(args ...string) string {
	p.t.Helper()
	code, out, errs := p.run(args...)
	if code != 0 {
		p.t.Fatalf("%q: exit code %d\n%s%s", args, code, out, errs)
	}
	return out
}

// From a key to what somebody else pulls and checks, and all of it again with
// what is not true.
func TestReleaseCommands(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	p := program{t: t}
	p.must("key", "new", at("release.key"), "--no-password")
	if info, err := os.Stat(at("release.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the secret key: %v, %v", info.Mode(), err)
	}
	if code, _, errs := p.run("key", "new", at("release.key"), "--no-password"); code != int(fault.Usage) || !strings.Contains(errs, "not replaced") {
		t.Errorf("the same key again: %d, %s", code, errs)
	}
	var shown KeyResult
	if err := json.Unmarshal([]byte(p.must("key", "show", at("release.key"), "--json")), &shown); err != nil {
		t.Fatal(err)
	}
	if public := p.must("key", "show", at("release.key.pub")); strings.TrimSpace(public) != string(shown.Key) {
		t.Errorf("the two halves show %s and %s", public, shown.Key)
	}

	b := &small{t: t, key: shown.Key}
	p.builder = b
	server := httptest.NewServer(ociregistry.New(ociregistry.Logger(log.New(io.Discard, "", 0)), ociregistry.WithReferrersSupport(true)))
	t.Cleanup(server.Close)
	ref := "oci://" + strings.TrimPrefix(server.URL, "http://") + "/team/sql:1.4"
	recipe := "../../recipes/sql"
	if code, _, errs := p.run("release", recipe, "-o", at("unsigned")); code != int(fault.Usage) || !strings.Contains(errs, "names the key") {
		t.Errorf("without the secret key: %d, %s", code, errs)
	}
	p.must("release", recipe, "-o", at("r1"), "--release", "1.4", "--index", "14", "--key-file", at("release.key"), "--push", ref)
	p.must("verify", at("r1"), "--key", at("release.key.pub"))
	if out := p.must("verify", ref, "--key", at("release.key.pub")); !strings.Contains(out, "not checked  rebuild") || !strings.Contains(out, "version 1.4, index 14") {
		t.Errorf("verify says\n%s", out)
	}
	p.must("oci", "pull", ref, "-o", at("pulled"), "--key", at("release.key.pub"), "--platform", "linux/arm64")
	if m, err := bundle.Load(at("pulled")); err != nil || m.Arch != "arm64" {
		t.Errorf("pulled %v, %v", m, err)
	}
	p.must("sbom", at("pulled"), "--format", "cyclonedx", "-o", at("sql.cdx.json"))
	want, err := os.ReadFile(filepath.Join(at("pulled"), bundle.CycloneDXFile))
	if got, readErr := os.ReadFile(at("sql.cdx.json")); err != nil || readErr != nil || !bytes.Equal(got, want) {
		t.Errorf("sbom writes another bill: %v, %v", err, readErr)
	}

	// The next one, by a key that the first was rotated to, from the environment.
	p.must("key", "new", at("next.key"), "--no-password")
	p.must("key", "rotate", "--key-file", at("release.key"), "--to", at("next.key.pub"), "--rotations", at("rotations"), "--index", "15")
	secret, err := os.ReadFile(at("next.key"))
	if err != nil {
		t.Fatal(err)
	}
	p.env = []string{keyVariable + "=" + string(secret)}
	if b.key, err = signature.ParseKey(readAll(t, at("next.key.pub"))); err != nil {
		t.Fatal(err)
	}
	p.must("release", recipe, "-o", at("r2"), "--release", "1.5", "--last", at("r1"), "--rotations", at("rotations"), "--arch", "arm64")
	p.must("verify", at("r2"), "--key", at("release.key.pub"))
	if text := string(readAll(t, filepath.Join(at("r2"), "NOTES.md"))); !strings.Contains(text, "release.key") {
		t.Errorf("the notes do not say that the key is another:\n%s", text)
	}
	if code, _, errs := p.run("verify", at("r1"), "--key", at("next.key.pub")); code != int(fault.Verification) || !strings.Contains(errs, "only what "+string(b.key)) {
		t.Errorf("the first by the next key: %d, %s", code, errs)
	}
	if code, _, errs := p.run("release", recipe, "-o", at("r3"), "--last", at("r2"), "--index", "15"); code != int(fault.Usage) || !strings.Contains(errs, "is not above") {
		t.Errorf("an index that does not grow: %d, %s", code, errs)
	}

	// A lie ends with 6, in JSON too, and the last line is the lie.
	if err := os.WriteFile(filepath.Join(at("r2"), "sql-arm64", "bzImage"), []byte("kernal"), 0o644); err != nil {
		t.Fatal(err)
	}
	code, out, _ := p.run("verify", at("r2"), "--json")
	var result struct {
		Verified bool
		Checks   []struct{ What, Result string }
	}
	if err := json.Unmarshal([]byte(out), &result); err != nil || code != int(fault.Verification) || result.Verified || result.Checks[len(result.Checks)-1].Result != "FAILED" {
		t.Errorf("code %d, %v\n%s", code, err, out)
	}
	// No secret got into anything that was printed or written but its own file.
	line := strings.Split(string(secret), "\n")[1]
	for _, name := range []string{"r2", "rotations", "next.key.pub"} {
		err := filepath.WalkDir(at(name), func(path string, e os.DirEntry, err error) error {
			if err == nil && !e.IsDir() && bytes.Contains(readAll(t, path), []byte(line)) {
				t.Errorf("%s holds the secret key", path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func readAll(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// verify --rebuild names what differs.
func TestRebuild(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sql-amd64")
	p := program{t: t, builder: &rebuilt{small: small{t: t}, content: "a"}}
	bundletest.Make(t, dir, bundletest.Options{Content: "a"})
	if out := p.must("verify", dir, "--rebuild", "--recipe", "../../recipes/sql"); !strings.Contains(out, "the same bytes") {
		t.Errorf("%s", out)
	}
	p.builder = &rebuilt{small: small{t: t}, content: "b"}
	if code, _, errs := p.run("verify", dir, "--rebuild", "--recipe", "../../recipes/sql"); code != int(fault.Verification) || !strings.Contains(errs, "lib/libz.so") {
		t.Errorf("%d\n%s", code, errs)
	}
}

// rebuilt makes a bundle with other content.
type rebuilt struct {
	small
	content string
}

func (b *rebuilt) Rebuild(_ context.Context, r BuildRequest, l *lock.Lock) (*BuildResult, error) {
	if !r.Frozen || len(l.Sources) != 2 {
		b.t.Errorf("request %+v, lock %+v", r, l)
	}
	dir := filepath.Join(r.Output, "sql-"+r.Arch)
	bundletest.Make(b.t, dir, bundletest.Options{Arch: r.Arch, Content: b.content})
	return &BuildResult{Bundle: dir}, nil
}
