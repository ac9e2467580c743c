package cve

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

type vexDocument struct {
	Context    string         `json:"@context"`
	ID         string         `json:"@id"`
	Author     string         `json:"author"`
	Timestamp  string         `json:"timestamp"`
	Version    int            `json:"version"`
	Tooling    string         `json:"tooling"`
	Statements []vexStatement `json:"statements"`
}

type vexStatement struct {
	Vulnerability vexVulnerability `json:"vulnerability"`
	Products      []vexProduct     `json:"products"`
	Status        Status           `json:"status"`
	Justification string           `json:"justification,omitempty"`
	Impact        string           `json:"impact_statement,omitempty"`
	Action        string           `json:"action_statement,omitempty"`
}

type vexVulnerability struct {
	Name    string   `json:"name"`
	Aliases []string `json:"aliases,omitempty"`
}

type vexProduct struct {
	ID            string         `json:"@id"`
	Subcomponents []vexComponent `json:"subcomponents"`
}

type vexComponent struct {
	ID string `json:"@id"`
}

// VEX is the report as OpenVEX 0.2.0. at is when it was made.
func (r *Report) VEX(at time.Time) ([]byte, error) {
	d := vexDocument{Context: "https://openvex.dev/ns/v0.2.0", Author: "sovereign-build", Timestamp: at.UTC().Format(time.RFC3339), Version: 1, Tooling: "sovereign-build", Statements: []vexStatement{}}
	product := "pkg:generic/" + r.Name + "-" + r.Arch + "@" + r.Bundle
	for _, f := range r.Findings {
		s := vexStatement{Vulnerability: vexVulnerability{f.ID, f.Aliases}, Products: []vexProduct{{product, []vexComponent{{f.PURL}}}}, Status: f.Status}
		switch f.Status {
		case NotAffected:
			s.Justification, s.Impact = f.Justification, f.Why
		case Affected:
			s.Action = "There is no fixed version of " + f.Component + " yet."
			if f.FixedIn != "" {
				s.Action = "Update " + f.Component + " beyond " + f.Version + "; " + f.FixedIn + " has the fix."
			}
		}
		d.Statements = append(d.Statements, s)
	}
	body, err := json.Marshal(d)
	if err != nil {
		return nil, fault.Errorf(fault.Internal, "vex: %w", err)
	}
	d.ID = fmt.Sprintf("https://github.com/sovereign-build/sovereign/vex/%x", sha256.Sum256(body))
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(d); err != nil {
		return nil, fault.Errorf(fault.Internal, "vex: %w", err)
	}
	return b.Bytes(), nil
}
