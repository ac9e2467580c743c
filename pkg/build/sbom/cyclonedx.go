package sbom

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/pkg/bundle"
)

type cdxDocument struct {
	Schema       string          `json:"$schema"`
	Format       string          `json:"bomFormat"`
	SpecVersion  string          `json:"specVersion"`
	Serial       string          `json:"serialNumber"`
	Version      int             `json:"version"`
	Metadata     cdxMetadata     `json:"metadata"`
	Components   []cdxComponent  `json:"components"`
	Dependencies []cdxDependency `json:"dependencies"`
}

type cdxMetadata struct {
	Timestamp string       `json:"timestamp"`
	Tools     cdxTools     `json:"tools"`
	Component cdxComponent `json:"component"`
}

type cdxTools struct {
	Components []cdxComponent `json:"components"`
}

type cdxComponent struct {
	Type       string         `json:"type"`
	Ref        string         `json:"bom-ref,omitempty"`
	Name       string         `json:"name"`
	Version    string         `json:"version,omitempty"`
	Hashes     []cdxHash      `json:"hashes,omitempty"`
	Licenses   []cdxLicense   `json:"licenses,omitempty"`
	CPE        string         `json:"cpe,omitempty"`
	PURL       string         `json:"purl,omitempty"`
	References []cdxReference `json:"externalReferences,omitempty"`
	Properties []cdxProperty  `json:"properties,omitempty"`
}

type cdxHash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type cdxLicense struct {
	Expression string `json:"expression"`
}

type cdxReference struct {
	Type   string    `json:"type"`
	URL    string    `json:"url"`
	Hashes []cdxHash `json:"hashes,omitempty"`
}

type cdxProperty struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type cdxDependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn,omitempty"`
}

var cdxTypes = map[Kind]string{KindKernel: "operating-system", KindPackage: "application", KindModule: "library", KindSource: "file", KindPatch: "file"}

// CycloneDX is the bill as CycloneDX 1.6 in JSON.
func (b *Bill) CycloneDX() ([]byte, error) {
	// A UUID of version 8 (RFC 9562), made of the digest: the same bundle has the
	// same.
	sum := sha256.Sum256([]byte("bill of materials of " + b.Digest))
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80
	d := cdxDocument{
		Schema: "http://cyclonedx.org/schema/bom-1.6.schema.json", Format: "CycloneDX", SpecVersion: "1.6", Version: 1,
		Serial: fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16]),
	}
	d.Metadata = cdxMetadata{
		Timestamp: time.Unix(b.SourceDate, 0).UTC().Format(time.RFC3339),
		Tools:     cdxTools{[]cdxComponent{{Type: "application", Name: tool, Version: strconv.Itoa(Form)}}},
		Component: cdxComponent{Type: "operating-system", Ref: "bundle", Name: b.Name, Version: b.Digest,
			Hashes: []cdxHash{{"SHA-256", strings.TrimPrefix(b.Digest, "sha256:")}}, Properties: []cdxProperty{{"sovereign:arch", b.Arch}}},
	}
	if l := b.Licenses; l != nil {
		d.Metadata.Component.References = []cdxReference{{Type: "license", URL: bundle.LicenseTextsFile, Hashes: []cdxHash{{"SHA-256", strings.TrimPrefix(l.Digest, "sha256:")}}}}
	}
	for _, a := range b.manifest.Artifacts {
		d.Components = append(d.Components, cdxComponent{Type: "file", Ref: "file-" + a.File, Name: a.File,
			Hashes: []cdxHash{{"SHA-256", strings.TrimPrefix(a.Digest, "sha256:")}}, Properties: []cdxProperty{{"sovereign:role", a.Role}}})
	}
	top := cdxDependency{Ref: "bundle"}
	needs := map[string][]string{}
	for _, c := range b.Components {
		v := cdxComponent{Type: cdxTypes[c.Kind], Ref: c.ID(), Name: c.Name, Version: c.Version, CPE: c.CPE, PURL: c.PURL}
		if c.Digest != "" {
			v.Hashes = []cdxHash{{"SHA-256", c.Digest}}
		}
		if c.License != "" {
			expression, _ := spdxExpression(c.License)
			v.Licenses = []cdxLicense{{expression}}
		}
		if strings.Contains(c.From, "://") {
			v.References = append(v.References, cdxReference{Type: "distribution", URL: c.From})
		}
		if c.URL != "" {
			v.References = append(v.References, cdxReference{Type: "website", URL: c.URL})
		}
		v.Properties = append(v.Properties, cdxProperty{"sovereign:kind", string(c.Kind)})
		if c.Go != "" {
			v.Properties = append(v.Properties, cdxProperty{"sovereign:go.sum", c.Go})
		}
		for _, f := range b.licenseFiles(c) {
			v.Properties = append(v.Properties, cdxProperty{"sovereign:license", f.Path + " " + cmp.Or(f.Text, "(left out)")})
		}
		d.Components = append(d.Components, v)
		if c.Kind == KindKernel || c.Kind == KindPackage || c.Kind == KindModule && len(c.Within) == 0 {
			top.DependsOn = append(top.DependsOn, c.ID())
		}
		needs[c.ID()] = append(needs[c.ID()], c.MadeOf...)
		for _, w := range c.Within {
			needs[w] = append(needs[w], c.ID())
		}
	}
	slices.Sort(top.DependsOn)
	d.Dependencies = append(d.Dependencies, top)
	for _, c := range b.Components {
		if all := unique(needs[c.ID()]); len(all) > 0 {
			d.Dependencies = append(d.Dependencies, cdxDependency{c.ID(), all})
		}
	}
	return marshal(d)
}
