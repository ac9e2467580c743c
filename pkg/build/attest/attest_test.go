package attest_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/internal/bundletest"
	"github.com/sovereign-build/sovereign/pkg/build/attest"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// made is a bundle's directory, its manifest and its provenance.
func made(t testing.TB, key signature.Key) (string, *bundle.Manifest, []byte, []byte) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "sql")
	bundletest.Make(t, dir, bundletest.Options{Key: key})
	offer, m, err := bundle.Offer(dir)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, bundle.ProvenanceFile))
	if err != nil {
		t.Fatal(err)
	}
	return dir, m, offer.Manifest, text
}

func TestProvenance(t *testing.T) {
	_, m, manifest, text := made(t, "")
	p, err := attest.ParseProvenance("p", text, m, manifest)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, v := range p.Predicate.BuildDefinition.ResolvedDependencies {
		names = append(names, v.Name)
	}
	// Each pin of the lock, and the kernel's files.
	for _, want := range []string{"linux 6.12.107", "zlib 1.3.1", "make 4.3-4.1 amd64", "golang.org/toolchain@v0.0.1-go1.26.8.linux-amd64", "kernel patch ../kernel/fix.patch", "kernel fragment base.config"} {
		if !strings.Contains(strings.Join(names, "\n"), want) {
			t.Errorf("no material %q in %q", want, names)
		}
	}
	for change, words := range map[[2]string]string{
		{`"recipe": "sql"`, `"recipe": "web"`}:           "it is of web",
		{`"name": "bzImage"`, `"name": "vmlinuz"`}:       "which is no file of this bundle",
		{`"name": "zlib 1.3.1"`, `"name": "zlib 1.3.2"`}: "is not what the lock",
		{`"version": "1.3.1",`, `"version": "1.3.0",`}:   "its lock is",
		{attest.PredicateType, "https://slsa.dev/other"}: "not a provenance of SLSA",
		{`"_type":`, `"_type": "x", "_type":`}:           "twice",
		{"{\n  \"_type\"", "{\n\n  \"_type\""}:           "not written as this program writes it",
	} {
		_, err := attest.ParseProvenance("p", bytes.Replace(text, []byte(change[0]), []byte(change[1]), 1), m, manifest)
		if fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), words) {
			t.Errorf("%q for %q: %v", change[1], change[0], err)
		}
	}
	other := *m
	other.SourceDate++
	if _, err := attest.ParseProvenance("p", text, &other, manifest); fault.ClassOf(err) != fault.Verification {
		t.Errorf("of another time: %v", err)
	}
}

func TestEnvelope(t *testing.T) {
	key, other := bundletest.NewKey(t), bundletest.NewKey(t)
	payload := []byte(`{"_type":"x"}`)
	text, err := attest.Envelope(payload, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := attest.VerifyEnvelope("e", text, payload, key.Public()); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"another key":     attest.VerifyEnvelope("e", text, payload, other.Public()),
		"another payload": attest.VerifyEnvelope("e", text, append(payload, ' '), key.Public()),
		"another's name":  attest.VerifyEnvelope("e", bytes.ReplaceAll(text, []byte(key.Public()), []byte(other.Public())), payload, other.Public()),
		"cut":             attest.VerifyEnvelope("e", text[:len(text)-9], payload, key.Public()),
	} {
		if fault.ClassOf(err) != fault.Verification {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSignRefuses(t *testing.T) {
	key := bundletest.NewKey(t)
	plain, _, _, _ := made(t, "")
	signed, _, _, _ := made(t, key.Public())
	o := attest.Options{Key: key, Index: 5}
	if _, _, err := attest.Sign(t.Context(), plain, o); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "names no key") {
		t.Errorf("without a key: %v", err)
	}
	if _, _, err := attest.Sign(t.Context(), signed, attest.Options{Key: bundletest.NewKey(t), Index: 5}); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "names the key") {
		t.Errorf("another key: %v", err)
	}
	if err := os.WriteFile(filepath.Join(signed, "bzImage"), []byte("kernal"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := attest.Sign(t.Context(), signed, o); fault.ClassOf(err) != fault.Verification {
		t.Errorf("a damaged bundle: %v", err)
	}
	if text, err := bundle.Signature(signed); err != nil || text != nil {
		t.Errorf("it has a signature: %v", err)
	}
}

func FuzzProvenance(f *testing.F) {
	_, m, manifest, text := made(f, "")
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, err := attest.ParseProvenance("p", text, m, manifest); err != nil && fault.ClassOf(err) != fault.Verification {
			t.Errorf("class %v: %v", fault.ClassOf(err), err)
		}
	})
}
