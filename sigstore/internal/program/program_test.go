package program

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/sovereign-build/sovereign/internal/sigstorejob"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

const (
	who    = "https://github.com/sovereign-build/sovereign/.github/workflows/release.yml@refs/tags/v1.4"
	issuer = "https://token.actions.githubusercontent.com"
)

var manifest = []byte("{\n  \"schema\": 1,\n  \"name\": \"sql\"\n}\n")

// sigstore is one of our own: its authorities and logs.
func sigstore(t testing.TB) *ca.VirtualSigstore {
	t.Helper()
	s, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// trust writes the trusted_root.json of a sigstore; with says what is in it
// beside its authority of certificates.
func trust(t testing.TB, s *ca.VirtualSigstore, with string) string {
	t.Helper()
	var stamps []root.TimestampingAuthority
	logs, certificates := map[string]*root.TransparencyLog{}, map[string]*root.TransparencyLog{}
	if strings.Contains(with, "stamps") {
		stamps = s.TimestampingAuthorities()
	}
	if strings.Contains(with, "log") {
		logs = s.RekorLogs()
	}
	if strings.Contains(with, "certificates") {
		certificates = s.CTLogs()
		for _, l := range certificates {
			l.ID = bytes.Repeat([]byte{1}, 32)
		}
	}
	for id, l := range logs {
		l.ID, _ = hex.DecodeString(id)
	}
	r, err := root.NewTrustedRoot(root.TrustedRootMediaType01, s.FulcioCertificateAuthorities(), certificates, stamps, logs)
	if err != nil {
		t.Fatal(err)
	}
	text, err := r.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return write(t, "trusted_root.json", text)
}

func write(t testing.TB, name string, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// signed is a bundle as cosign writes one; change may take something out.
func signed(t testing.TB, e *ca.TestEntity, change func(*protobundle.Bundle)) string {
	t.Helper()
	content, err := e.VerificationContent()
	if err != nil {
		t.Fatal(err)
	}
	entries, err := e.TlogEntries()
	if err != nil {
		t.Fatal(err)
	}
	stamps, err := e.Timestamps()
	if err != nil {
		t.Fatal(err)
	}
	signature, err := e.SignatureContent()
	if err != nil {
		t.Fatal(err)
	}
	material := &protobundle.VerificationMaterial{
		Content:                   &protobundle.VerificationMaterial_Certificate{Certificate: &protocommon.X509Certificate{RawBytes: content.Certificate().Raw}},
		TimestampVerificationData: &protobundle.TimestampVerificationData{},
	}
	for _, l := range entries {
		material.TlogEntries = append(material.TlogEntries, l.TransparencyLogEntry())
	}
	for _, s := range stamps {
		material.TimestampVerificationData.Rfc3161Timestamps = append(material.TimestampVerificationData.Rfc3161Timestamps, &protocommon.RFC3161SignedTimestamp{SignedTimestamp: s})
	}
	b := &protobundle.Bundle{MediaType: "application/vnd.dev.sigstore.bundle.v0.3+json", VerificationMaterial: material}
	if env := signature.EnvelopeContent(); env != nil {
		raw := env.RawEnvelope()
		payload, err := raw.DecodeB64Payload()
		if err != nil {
			t.Fatal(err)
		}
		b.Content = &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{PayloadType: raw.PayloadType, Payload: payload, Signatures: []*protodsse.Signature{{Sig: signature.Signature()}}}}
	} else {
		m := signature.MessageSignatureContent()
		b.Content = &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
			MessageDigest: &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: m.Digest()}, Signature: m.Signature()}}
	}
	if change != nil {
		change(b)
	}
	text, err := protojson.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, "manifest.json.sigstore.json", text)
}

func job(bundle, trusted string) sigstorejob.Job {
	sum := sha256.Sum256(manifest)
	return sigstorejob.Job{Bundle: bundle, Root: trusted, SHA256: hex.EncodeToString(sum[:]), Identity: who, Issuer: issuer}
}

func TestVerify(t *testing.T) {
	s := sigstore(t)
	// An attestation: the statement is about the manifest, and its entry in the
	// log has a proof.
	sum := sha256.Sum256(manifest)
	statement, err := json.Marshal(map[string]any{
		"_type": "https://in-toto.io/Statement/v1", "predicateType": "https://slsa.dev/provenance/v1", "predicate": map[string]any{},
		"subject": []any{map[string]any{"name": "manifest.json", "digest": map[string]string{"sha256": hex.EncodeToString(sum[:])}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	attested, err := s.AttestHashedRekordV2(who, issuer, statement)
	if err != nil {
		t.Fatal(err)
	}
	entity, err := s.Sign(who, issuer, manifest)
	if err != nil {
		t.Fatal(err)
	}
	noLog := func(b *protobundle.Bundle) { b.VerificationMaterial.TlogEntries = nil }
	noStamp := func(b *protobundle.Bundle) { b.VerificationMaterial.TimestampVerificationData = nil }
	both, stamps := trust(t, s, "log stamps"), trust(t, s, "stamps")
	statementFile, signature := signed(t, attested, nil), signed(t, entity, noLog)

	for name, j := range map[string]sigstorejob.Job{
		"a statement, with log and time stamp": job(statementFile, both),
		"a signature with a time stamp":        job(signature, stamps),
		"regular expressions": func() sigstorejob.Job {
			j := job(signature, stamps)
			j.Identity, j.IdentityRegexp = "", `https://github\.com/sovereign-build/sovereign/.*@refs/tags/v.*`
			j.Issuer, j.IssuerRegexp = "", `https://token\..*`
			return j
		}(),
	} {
		r, err := Verify(j)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if r.Identity != who || r.Issuer != issuer || r.Time.IsZero() || r.Envelope != strings.HasPrefix(name, "a statement") {
			t.Errorf("%s: %+v", name, r)
		}
	}

	other, err := s.Sign("mallory@example.com", issuer, manifest)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := s.Sign(who, "https://accounts.example.com", manifest)
	if err != nil {
		t.Fatal(err)
	}
	// A change of an entry is one of the entity too.
	again, err := s.AttestHashedRekordV2(who, issuer, statement)
	if err != nil {
		t.Fatal(err)
	}
	third, err := s.AttestHashedRekordV2(who, issuer, statement)
	if err != nil {
		t.Fatal(err)
	}
	with := func(j sigstorejob.Job, change func(*sigstorejob.Job)) sigstorejob.Job { change(&j); return j }
	for name, j := range map[string]sigstorejob.Job{
		"another identity":             job(signed(t, other, noLog), stamps),
		"another issuer of the name":   job(signed(t, elsewhere, noLog), stamps),
		"another Sigstore":             job(signature, trust(t, sigstore(t), "stamps")),
		"another Sigstore, with a log": job(statementFile, trust(t, sigstore(t), "log stamps")),
		"another file":                 with(job(signature, stamps), func(j *sigstorejob.Job) { j.SHA256 = strings.Repeat("0", 64) }),
		"a statement about another":    with(job(statementFile, both), func(j *sigstorejob.Job) { j.SHA256 = strings.Repeat("0", 64) }),
		"not in the log":               job(signature, both),
		"no time stamp":                job(signed(t, entity, func(b *protobundle.Bundle) { noLog(b); noStamp(b) }), stamps),
		"a certificate in no log":      job(statementFile, trust(t, s, "log stamps certificates")),
		"a changed signature": job(signed(t, entity, func(b *protobundle.Bundle) {
			noLog(b)
			m := b.GetMessageSignature()
			m.Signature[len(m.Signature)-1] ^= 1
		}), stamps),
		"a changed statement": job(signed(t, attested, func(b *protobundle.Bundle) {
			e := b.GetDsseEnvelope()
			e.Payload = bytes.Replace(e.Payload, []byte("manifest.json"), []byte("manifest.yaml"), 1)
		}), both),
		// The entry itself is not believed: it is made anew of what was signed.
		"a changed checkpoint of the log": job(signed(t, again, func(b *protobundle.Bundle) {
			c := b.VerificationMaterial.TlogEntries[0].InclusionProof.Checkpoint
			c.Envelope = strings.Replace(c.Envelope, "\n1\n", "\n2\n", 1)
		}), both),
		"no proof of the entry": job(signed(t, third, func(b *protobundle.Bundle) {
			b.VerificationMaterial.TlogEntries[0].InclusionProof = nil
		}), both),
		"a time stamp of another signature": job(signed(t, entity, func(b *protobundle.Bundle) {
			noLog(b)
			stamps, err := other.Timestamps()
			if err != nil {
				t.Fatal(err)
			}
			b.VerificationMaterial.TimestampVerificationData.Rfc3161Timestamps = []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: stamps[0]}}
		}), stamps),
		"a certificate of another signature": job(signed(t, entity, func(b *protobundle.Bundle) {
			noLog(b)
			content, err := elsewhere.VerificationContent()
			if err != nil {
				t.Fatal(err)
			}
			b.VerificationMaterial.Content = &protobundle.VerificationMaterial_Certificate{Certificate: &protocommon.X509Certificate{RawBytes: content.Certificate().Raw}}
		}), stamps),
		"an expression that fits a part": with(job(signature, stamps), func(j *sigstorejob.Job) { j.Identity, j.IdentityRegexp = "", "sovereign-build" }),
		"no bundle":                      job(write(t, "x", []byte("{}")), stamps),
		"nonsense":                       job(write(t, "x", []byte("RWQ")), stamps),
	} {
		if r, err := Verify(j); fault.ClassOf(err) != fault.Verification {
			t.Errorf("%s: %+v, %v", name, r, err)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
	for name, j := range map[string]sigstorejob.Job{
		"no trusted root":     job(signature, write(t, "x", []byte("{}"))),
		"a root that is gone": job(signature, filepath.Join(t.TempDir(), "x")),
	} {
		if _, err := Verify(j); fault.ClassOf(err) != fault.Usage {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What the program says is what sovereign-build reads.
func TestProgram(t *testing.T) {
	s := sigstore(t)
	entity, err := s.Sign(who, issuer, manifest)
	if err != nil {
		t.Fatal(err)
	}
	good := job(signed(t, entity, func(b *protobundle.Bundle) { b.VerificationMaterial.TlogEntries = nil }), trust(t, s, "stamps"))
	ask := func(text []byte) (*sigstorejob.Result, error) {
		var out, said bytes.Buffer
		if code := Main(t.Context(), nil, bytes.NewReader(text), &out, &said); code != 0 || said.Len() > 0 {
			t.Errorf("it ended with %d, %s", code, said.String())
		}
		return sigstorejob.ParseAnswer(out.Bytes())
	}
	text, err := json.Marshal(good)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := ask(text); err != nil || r.Identity != who {
		t.Errorf("%+v, %v", r, err)
	}
	good.Identity = "somebody"
	if text, err = json.Marshal(good); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(text); fault.ClassOf(err) != fault.Verification {
		t.Errorf("%v", err)
	}
	for _, bad := range []string{"", "{", `{"x":1}`, "{}", strings.Repeat(" ", sigstorejob.MaxMessage+1)} {
		if _, err := ask([]byte(bad)); fault.ClassOf(err) != fault.Usage {
			t.Errorf("%.10q: %v", bad, err)
		}
	}
}

func FuzzBundle(f *testing.F) {
	s := sigstore(f)
	entity, err := s.Sign(who, issuer, manifest)
	if err != nil {
		f.Fatal(err)
	}
	text, err := os.ReadFile(signed(f, entity, nil))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	trusted := trust(f, sigstore(f), "stamps") // who has signed nothing of it
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, err := Verify(job(write(t, "b", text), trusted)); fault.ClassOf(err) != fault.Verification {
			t.Errorf("class %v: %v", fault.ClassOf(err), err)
		}
	})
}
