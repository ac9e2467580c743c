package release

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	slsa "github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/package-url/packageurl-go"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	spdxjson "github.com/spdx/tools-golang/json"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/sovereign-build/sovereign/internal/bundletest"
	"github.com/sovereign-build/sovereign/pkg/build/attest"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
)

// subject is a signed bundle: the one that SOVEREIGN_E2E names, copied, or a
// small one with a program of Go's in it.
func subject(t *testing.T) (string, signature.SecretKey) {
	t.Helper()
	key := bundletest.NewKey(t)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "sql-amd64")
	bundletest.Make(t, dir, bundletest.Options{Key: key.Public(), Program: program})
	bundletest.Sign(t, dir, key, "1.0", 5, nil)
	return dir, key
}

// bills are the directories whose bills are looked at.
func bills(t *testing.T) []string {
	t.Helper()
	dir, _ := subject(t)
	dirs := []string{dir}
	if real := os.Getenv("SOVEREIGN_E2E"); real != "" {
		dirs = append(dirs, real)
	}
	return dirs
}

func read(t *testing.T, dir, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestCycloneDXSchema(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	schemas := filepath.Join(strings.TrimSpace(string(out)), "schema")
	compiler := jsonschema.NewCompiler()
	for url, file := range map[string]string{
		"http://cyclonedx.org/schema/bom-1.6.schema.json":  "bom-1.6.schema.json",
		"http://cyclonedx.org/schema/spdx.schema.json":     "spdx.schema.json",
		"http://cyclonedx.org/schema/jsf-0.82.schema.json": "jsf-0.82.schemax.json",
	} {
		f, err := os.Open(filepath.Join(schemas, file))
		if err != nil {
			t.Fatal(err)
		}
		v, err := jsonschema.UnmarshalJSON(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		if err := compiler.AddResource(url, v); err != nil {
			t.Fatal(err)
		}
	}
	schema, err := compiler.Compile("http://cyclonedx.org/schema/bom-1.6.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range bills(t) {
		text := read(t, dir, bundle.CycloneDXFile)
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(v); err != nil {
			t.Errorf("%s: %v", dir, err)
		}
		var bom cdx.BOM
		if err := cdx.NewBOMDecoder(bytes.NewReader(text), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
			t.Fatal(err)
		}
		refs := map[string]bool{bom.Metadata.Component.BOMRef: true}
		modules := 0
		for _, c := range *bom.Components {
			if refs[c.BOMRef] {
				t.Errorf("two components are %s", c.BOMRef)
			}
			refs[c.BOMRef] = true
			if strings.HasPrefix(c.PackageURL, "pkg:golang/") {
				modules++
			}
			if c.PackageURL == "" {
				continue
			}
			if p, err := packageurl.FromString(c.PackageURL); err != nil || p.Name == "" || p.Version == "" {
				t.Errorf("%s: %+v, %v", c.PackageURL, p, err)
			}
		}
		if modules < 2 { // the program and the standard library at least
			t.Errorf("%s: only %d Go modules", dir, modules)
		}
		for _, d := range *bom.Dependencies {
			for _, to := range append(*orEmpty(d.Dependencies), d.Ref) {
				if !refs[to] {
					t.Errorf("%s depends on %s, which is no component", d.Ref, to)
				}
			}
		}
	}
}

func orEmpty(s *[]string) *[]string {
	if s == nil {
		return &[]string{}
	}
	return s
}

func TestSPDXReader(t *testing.T) {
	for _, dir := range bills(t) {
		d, err := spdxjson.Read(bytes.NewReader(read(t, dir, bundle.SPDXFile)))
		if err != nil {
			t.Fatal(err)
		}
		ids := map[string]bool{"DOCUMENT": true}
		for _, p := range d.Packages {
			if id := string(p.PackageSPDXIdentifier); ids[id] {
				t.Errorf("two elements are %s", id)
			} else {
				ids[id] = true
			}
			if p.PackageDownloadLocation == "" || p.PackageName == "" || p.FilesAnalyzed {
				t.Errorf("%+v", p)
			}
		}
		for _, f := range d.Files {
			ids[string(f.FileSPDXIdentifier)] = true
		}
		for _, r := range d.Relationships {
			if !ids[string(r.RefA.ElementRefID)] || !ids[string(r.RefB.ElementRefID)] {
				t.Errorf("%v %s %v: no such element", r.RefA, r.Relationship, r.RefB)
			}
		}
		if d.SPDXVersion != "SPDX-2.3" || len(d.Packages) < 5 || len(d.Files) != 5 { // the artifacts, and the texts of licences
			t.Errorf("%s: %s, %d packages, %d files", dir, d.SPDXVersion, len(d.Packages), len(d.Files))
		}
	}
}

// verifier is DSSE's interface around the raw key.
type verifier struct {
	id  string
	key ed25519.PublicKey
}

func (v verifier) Verify(_ context.Context, data, sig []byte) error {
	if !ed25519.Verify(v.key, data, sig) {
		return os.ErrInvalid
	}
	return nil
}
func (v verifier) KeyID() (string, error)   { return v.id, nil }
func (v verifier) Public() crypto.PublicKey { return v.key }

func TestProvenance(t *testing.T) {
	dir, key := subject(t)
	var e dsse.Envelope
	if err := json.Unmarshal(read(t, dir, bundle.EnvelopeFile), &e); err != nil {
		t.Fatal(err)
	}
	public, err := key.Public().Ed25519()
	if err != nil {
		t.Fatal(err)
	}
	ev, err := dsse.NewEnvelopeVerifier(verifier{string(key.Public()), public})
	if err != nil {
		t.Fatal(err)
	}
	if accepted, err := ev.Verify(t.Context(), &e); err != nil || len(accepted) != 1 {
		t.Fatalf("DSSE's own verifier: %v, %v", accepted, err)
	}
	// One bit of it, and it is refused.
	raw, err := base64.StdEncoding.DecodeString(e.Payload)
	if err != nil || !bytes.Equal(raw, read(t, dir, bundle.ProvenanceFile)) {
		t.Fatalf("payload: %v", err)
	}
	raw[100] ^= 1
	bad := e
	bad.Payload = base64.StdEncoding.EncodeToString(raw)
	if _, err := ev.Verify(t.Context(), &bad); err == nil {
		t.Error("a changed payload passed")
	}

	var s intoto.Statement
	payload := read(t, dir, bundle.ProvenanceFile)
	if err := protojson.Unmarshal(payload, &s); err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
	predicate, err := predicateOf(s.Predicate)
	if err != nil {
		t.Fatal(err)
	}
	if err := predicate.Validate(); err != nil {
		t.Error(err)
	}
	if s.PredicateType != attest.PredicateType || len(predicate.BuildDefinition.ResolvedDependencies) < 6 {
		t.Errorf("%s, %d materials", s.PredicateType, len(predicate.BuildDefinition.ResolvedDependencies))
	}
}

func predicateOf(s *structpb.Struct) (*slsa.Provenance, error) {
	text, err := protojson.Marshal(s)
	if err != nil {
		return nil, err
	}
	p := &slsa.Provenance{}
	return p, protojson.Unmarshal(text, p)
}

// The program minisign takes the signature, and not one of another file.
func TestMinisign(t *testing.T) {
	program, err := exec.LookPath("minisign")
	if err != nil {
		t.Skip("minisign is not installed")
	}
	dir, key := subject(t)
	public, err := key.Public().File()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.pub")
	if err := os.WriteFile(file, public, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), program, "-Vm", filepath.Join(dir, bundle.ManifestFile), "-p", file).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
