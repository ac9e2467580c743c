package sbom

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

type spdxDocument struct {
	Version       string             `json:"spdxVersion"`
	DataLicense   string             `json:"dataLicense"`
	ID            string             `json:"SPDXID"`
	Name          string             `json:"name"`
	Namespace     string             `json:"documentNamespace"`
	Creation      spdxCreation       `json:"creationInfo"`
	Packages      []spdxPackage      `json:"packages"`
	Files         []spdxFile         `json:"files"`
	Relationships []spdxRelationship `json:"relationships"`
	Licenses      []spdxLicense      `json:"hasExtractedLicensingInfos,omitempty"`
}

type spdxCreation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	ID               string         `json:"SPDXID"`
	Name             string         `json:"name"`
	Version          string         `json:"versionInfo,omitempty"`
	Purpose          string         `json:"primaryPackagePurpose,omitempty"`
	Download         string         `json:"downloadLocation"`
	Homepage         string         `json:"homepage,omitempty"`
	FilesAnalyzed    bool           `json:"filesAnalyzed"`
	LicenseConcluded string         `json:"licenseConcluded"`
	LicenseDeclared  string         `json:"licenseDeclared"`
	LicenseComments  string         `json:"licenseComments,omitempty"`
	Copyright        string         `json:"copyrightText"`
	Comment          string         `json:"comment,omitempty"`
	Checksums        []spdxChecksum `json:"checksums,omitempty"`
	References       []spdxRef      `json:"externalRefs,omitempty"`
}

type spdxFile struct {
	ID               string         `json:"SPDXID"`
	Name             string         `json:"fileName"`
	Checksums        []spdxChecksum `json:"checksums"`
	LicenseConcluded string         `json:"licenseConcluded"`
	Copyright        string         `json:"copyrightText"`
}

type spdxChecksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type spdxRef struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type spdxRelationship struct {
	From string `json:"spdxElementId"`
	Type string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

type spdxLicense struct {
	ID   string `json:"licenseId"`
	Text string `json:"extractedText"`
	Name string `json:"name"`
}

const noAssertion = "NOASSERTION"

// spdxID is an identifier: letters, digits, dots and dashes.
func spdxID(id string) string {
	var b strings.Builder
	b.WriteString("SPDXRef-")
	for _, c := range []byte(id) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '-':
			b.WriteByte(c)
		default: // so that no two are the same
			fmt.Fprintf(&b, ".x%02x", c)
		}
	}
	return b.String()
}

var purposes = map[Kind]string{KindKernel: "OPERATING-SYSTEM", KindPackage: "INSTALL", KindModule: "LIBRARY", KindSource: "SOURCE", KindPatch: "SOURCE"}

// SPDX is the bill as SPDX 2.3 in JSON.
func (b *Bill) SPDX() ([]byte, error) {
	d := spdxDocument{
		Version: "SPDX-2.3", DataLicense: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: b.Name + "-" + b.Arch,
		// The bundle's digest makes it as unique as it has to be, and the same
		// for the same bundle.
		Namespace: "https://github.com/sovereign-build/sovereign/sbom/" + b.Name + "-" + b.Arch + "/" + strings.TrimPrefix(b.Digest, "sha256:"),
		Creation:  spdxCreation{time.Unix(b.SourceDate, 0).UTC().Format(time.RFC3339), []string{"Tool: " + tool + "-" + strconv.Itoa(Form)}},
	}
	const bundleID = "SPDXRef-bundle"
	d.Packages = append(d.Packages, spdxPackage{ID: bundleID, Name: b.Name, Version: b.Digest, Purpose: "OPERATING-SYSTEM", Download: noAssertion,
		LicenseConcluded: noAssertion, LicenseDeclared: noAssertion, Copyright: noAssertion,
		Comment:   "A bundle for " + b.Arch + "; the version is the digest of its manifest.",
		Checksums: []spdxChecksum{{"SHA256", strings.TrimPrefix(b.Digest, "sha256:")}}})
	relate := func(from, kind, to string) {
		d.Relationships = append(d.Relationships, spdxRelationship{from, kind, to})
	}
	relate(d.ID, "DESCRIBES", bundleID)
	for _, a := range b.manifest.Artifacts {
		id := spdxID("file-" + a.File)
		d.Files = append(d.Files, spdxFile{id, "./" + a.File, []spdxChecksum{{"SHA256", strings.TrimPrefix(a.Digest, "sha256:")}}, noAssertion, noAssertion})
		relate(bundleID, "CONTAINS", id)
	}
	if l := b.Licenses; l != nil {
		id := spdxID("file-" + bundle.LicenseTextsFile)
		d.Files = append(d.Files, spdxFile{id, "./" + bundle.LicenseTextsFile, []spdxChecksum{{"SHA256", strings.TrimPrefix(l.Digest, "sha256:")}}, noAssertion, noAssertion})
		relate(id, "DOCUMENTATION_OF", bundleID)
	}
	own := map[string]bool{}
	for _, c := range b.Components {
		id := spdxID(c.ID())
		p := spdxPackage{ID: id, Name: c.Name, Version: c.Version, Purpose: purposes[c.Kind], Download: noAssertion, Homepage: c.URL,
			LicenseConcluded: noAssertion, LicenseDeclared: noAssertion, Copyright: noAssertion, LicenseComments: licenseComment(b.licenseFiles(c))}
		if strings.Contains(c.From, "://") {
			p.Download = c.From
		}
		if c.License != "" {
			expression, refs := spdxExpression(c.License)
			p.LicenseDeclared = expression
			for _, r := range refs {
				if !own[r.ID] {
					own[r.ID] = true
					d.Licenses = append(d.Licenses, r)
				}
			}
		}
		if c.Digest != "" {
			p.Checksums = []spdxChecksum{{"SHA256", c.Digest}}
		}
		if c.Go != "" {
			p.Comment = "go.sum: " + c.Go
		}
		if c.CPE != "" {
			p.References = append(p.References, spdxRef{"SECURITY", "cpe23Type", c.CPE})
		}
		if c.PURL != "" {
			p.References = append(p.References, spdxRef{"PACKAGE-MANAGER", "purl", c.PURL})
		}
		d.Packages = append(d.Packages, p)
		switch c.Kind {
		case KindKernel, KindPackage:
			relate(bundleID, "CONTAINS", id)
		}
		for _, m := range c.MadeOf {
			relate(id, "GENERATED_FROM", spdxID(m))
		}
		for _, w := range c.Within {
			relate(spdxID(w), "CONTAINS", id)
		}
		if c.Kind == KindModule && len(c.Within) == 0 {
			relate(bundleID, "CONTAINS", id)
		}
	}
	return marshal(d)
}

// spdxExpression makes an expression of what a package says of its licence. A
// name that SPDX does not have becomes one of the document's own.
func spdxExpression(s string) (string, []spdxLicense) {
	var out []string
	var own []spdxLicense
	for _, word := range strings.Fields(strings.NewReplacer("(", " ( ", ")", " ) ").Replace(s)) {
		switch {
		case word == "AND" || word == "OR" || word == "WITH" || word == "(" || word == ")":
		case strings.HasPrefix(word, "LicenseRef-"):
			own = append(own, spdxLicense{word, "See the source.", strings.TrimPrefix(word, "LicenseRef-")})
		case !spdxName(word):
			id := "LicenseRef-" + strings.TrimPrefix(spdxID(word), "SPDXRef-")
			own = append(own, spdxLicense{id, "See the source.", word})
			word = id
		case len(out) > 0 && out[len(out)-1] != "AND" && out[len(out)-1] != "OR" && out[len(out)-1] != "WITH" && out[len(out)-1] != "(":
			out = append(out, "AND") // Alpine's older packages list names
		}
		out = append(out, word)
	}
	return strings.NewReplacer("( ", "(", " )", ")").Replace(strings.Join(out, " ")), own
}

// spdxName says whether a word can be the identifier of a licence.
func spdxName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '+'
	}) && s != "custom" && s != "unknown" && s != "Public-Domain"
}

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return nil, fault.Errorf(fault.Internal, "sbom: %w", err)
	}
	return b.Bytes(), nil
}
