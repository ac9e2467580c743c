package program

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"

	"github.com/sovereign-build/sovereign/internal/bundletest"
	"github.com/sovereign-build/sovereign/pkg/build/verify"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// TestBundle verifies a whole bundle with the program as people have it: the
// bundle that SOVEREIGN_E2E names, or a small one.
func TestBundle(t *testing.T) {
	program := filepath.Join(t.TempDir(), "sovereign-sigstore")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../../cmd/sovereign-sigstore").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	dir := os.Getenv("SOVEREIGN_E2E")
	if dir == "" {
		dir = filepath.Join(t.TempDir(), "sql-amd64")
		bundletest.Make(t, dir, bundletest.Options{})
	}
	text, err := os.ReadFile(filepath.Join(dir, bundle.ManifestFile))
	if err != nil {
		t.Fatal(err)
	}
	s := sigstore(t)
	entity, err := s.Sign(who, issuer, text)
	if err != nil {
		t.Fatal(err)
	}
	ask := verify.Sigstore{
		Bundle: signed(t, entity, func(b *protobundle.Bundle) { b.VerificationMaterial.TlogEntries = nil }), Root: trust(t, s, "stamps"),
		Identity: who, Issuer: issuer, Program: program,
	}
	r, err := verify.Bundle(t.Context(), dir, verify.Options{Sigstore: &ask})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Checks {
		if c.What == "sigstore" {
			t.Logf("%s: %s", c.Result, c.Detail)
			if c.Result != verify.OK || !strings.Contains(c.Detail, who) {
				t.Errorf("%+v", c)
			}
		}
	}
	// The signature is of another bundle.
	other := filepath.Join(t.TempDir(), "sql-amd64")
	bundletest.Make(t, other, bundletest.Options{Content: "another"})
	if _, err := verify.Bundle(t.Context(), other, verify.Options{Sigstore: &ask}); fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), "sigstore: ") {
		t.Errorf("another bundle: %v", err)
	}
	// As it is typed: the program is found beside the command line's.
	line := filepath.Join(filepath.Dir(program), "sovereign-build")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", line, "./cmd/sovereign-build")
	build.Dir = "../../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, c := range []struct {
		name []string
		code int
	}{
		{[]string{"--sigstore-identity", who}, 0},
		{[]string{"--sigstore-identity-regexp", ".*"}, 0},
		{[]string{"--sigstore-identity", "mallory@example.com"}, 6},
		{nil, 2}, // nobody in particular
	} {
		args := append([]string{"verify", dir, "--sigstore-bundle", ask.Bundle, "--sigstore-root", ask.Root, "--sigstore-issuer", issuer}, c.name...)
		cmd := exec.CommandContext(t.Context(), line, args...)
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != c.code || c.code == 0 && !strings.Contains(string(out), who) {
			t.Errorf("verify %q ended with %v, want exit code %d:\n%s", c.name, err, c.code, out)
		}
	}
	ask.Identity = "mallory@example.com"
	if _, err := verify.Bundle(t.Context(), dir, verify.Options{Sigstore: &ask}); fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), "mallory@example.com") {
		t.Errorf("another identity: %v", err)
	}
}
