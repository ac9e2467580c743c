package cve

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/internal/strictjson"
	"github.com/sovereign-build/sovereign/pkg/build/attest"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/sbom"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/kernel"
)

// Status is OpenVEX's word for what a hole means here.
type Status string

// Statuses, the worst first.
const (
	Affected    Status = "affected"
	Unknown     Status = "under_investigation"
	NotAffected Status = "not_affected"
	Fixed       Status = "fixed"
)

// Finding is a known hole of something in the bundle.
type Finding struct {
	ID        string   `json:"id"`                // "CVE-2026-1234", or the database's own
	Aliases   []string `json:"aliases,omitempty"` // sorted
	Component string   `json:"component"`
	Version   string   `json:"version"`
	PURL      string   `json:"purl"`
	Status    Status   `json:"status"`
	// FixedIn is the first version without it, "" where there is none yet.
	FixedIn string `json:"fixed_in,omitempty"`
	// Justification is OpenVEX's word, for what is not affected.
	Justification string `json:"justification,omitempty"`
	Why           string `json:"why,omitempty"` // one line for people
}

// Report is what was found.
type Report struct {
	Name   string `json:"name"`
	Arch   string `json:"arch"`
	Bundle string `json:"bundle"` // the manifest's digest
	// Compared is how many components the database was asked about, and Records
	// how many of its records were about one of them.
	Compared int `json:"compared"`
	Records  int `json:"records"`
	// Findings are sorted by status, component and ID.
	Findings []Finding `json:"findings"`
}

// target is a component as databases name it.
type target struct {
	component sbom.Component
	debian    string // name of Debian's source package, "" for none
	alpine    string // name of Alpine's
	module    string // path of a Go module
	kernel    bool
}

// Run reads the bundle in dir, which must have been verified, and compares it
// with the database in a file or directory. One without a record about anything in
// the bundle is an error, as it would pass for good news. statements is a file of what is known
// better, "" for none. Errors are of class fault.Usage for a database or
// statements that are none.
func Run(ctx context.Context, dir, database, statements string) (*Report, error) {
	bill, err := sbom.Collect(ctx, dir)
	if err != nil {
		return nil, err
	}
	p, err := attest.ReadProvenance(dir)
	if err != nil {
		return nil, err
	}
	a := &auditor{targets: targets(bill, p.Predicate.BuildDefinition.InternalParameters.Lock), seen: map[string]int{}}
	a.report = Report{Name: bill.Name, Arch: bill.Arch, Bundle: bill.Digest, Compared: len(a.targets), Findings: []Finding{}}
	if err := a.read(ctx, database); err != nil {
		return nil, err
	}
	if a.report.Records == 0 {
		// Nothing found in it would look like nothing wrong.
		return nil, fault.Errorf(fault.Usage, "%s has no record about anything in this bundle", database).
			Hintf("give an export of OSV for Debian, Linux or Go, or the JSON file of Debian's security tracker")
	}
	if statements != "" {
		if err := a.state(dir, statements); err != nil {
			return nil, err
		}
	}
	rank := map[Status]int{Affected: 0, Unknown: 1, NotAffected: 2, Fixed: 3}
	slices.SortFunc(a.report.Findings, func(x, y Finding) int {
		return cmp.Or(rank[x.Status]-rank[y.Status], cmp.Compare(x.Component, y.Component), cmp.Compare(x.ID, y.ID), cmp.Compare(x.Version, y.Version))
	})
	return &a.report, nil
}

// targets are the components that databases know: sources, the kernel among
// them, Go modules, and packages of Alpine's.
func targets(bill *sbom.Bill, l lock.Lock) []target {
	used := map[string]bool{}
	for _, c := range bill.Components {
		if c.Kind == sbom.KindPackage || c.Kind == sbom.KindKernel {
			for _, id := range c.MadeOf {
				used[id] = true
			}
		}
	}
	var out []target
	for _, c := range bill.Components {
		t := target{component: c}
		switch c.Kind {
		case sbom.KindSource:
			if !used[c.ID()] {
				continue
			}
			s, _ := l.Source(c.Name)
			t.debian, t.kernel = debianSource(s), strings.HasPrefix(c.CPE, "cpe:2.3:o:linux:")
		case sbom.KindModule:
			t.module = c.Name
		case sbom.KindPackage:
			if len(c.MadeOf) > 0 {
				continue // its sources are looked at
			}
			t.alpine = c.Name
		default:
			continue
		}
		out = append(out, t)
	}
	return out
}

// debianSource is the name of the source package that has a source's bytes.
func debianSource(s lock.Source) string {
	for _, m := range s.Mirrors {
		if rest, ok := strings.CutPrefix(m, "debian:"); ok {
			_, pkg, _ := strings.Cut(rest, "/")
			name, _, _ := strings.Cut(pkg, "=")
			return name
		}
	}
	return ""
}

type auditor struct {
	report  Report
	targets []target
	seen    map[string]int // findings by ID and component
}

// find notes a finding. Two databases, or two records, may have the same hole:
// the worse word counts.
func (a *auditor) find(f Finding) {
	key := f.ID + " " + f.PURL
	i, ok := a.seen[key]
	if !ok {
		a.seen[key] = len(a.report.Findings)
		a.report.Findings = append(a.report.Findings, f)
		return
	}
	if have := &a.report.Findings[i]; have.Status == Fixed && f.Status != Fixed {
		*have = f
	}
}

// statementsFile is what is known of holes that no database says.
type statementsFile struct {
	Schema     int         `json:"schema"`
	Statements []statement `json:"statements"`
}

type statement struct {
	Vulnerability string `json:"vulnerability"`
	Component     string `json:"component"`
	// Config is a symbol of the kernel that the hole needs. Without it, because
	// says why there is none, and justification is OpenVEX's word for that.
	Config        string `json:"config,omitempty"`
	Justification string `json:"justification,omitempty"`
	Because       string `json:"because,omitempty"`
}

var justifications = []string{"component_not_present", "vulnerable_code_not_present", "vulnerable_code_not_in_execute_path",
	"vulnerable_code_cannot_be_controlled_by_adversary", "inline_mitigations_already_exist"}

const maxStatements = 8 << 20

// state applies a file of statements.
func (a *auditor) state(dir, file string) error {
	text, err := readFile(file, maxStatements)
	if err != nil {
		return err
	}
	var s statementsFile
	d, err := strictjson.Decode(strictjson.File{Name: file, Data: text, What: "list of statements"}, &s)
	if err != nil {
		return err
	}
	if s.Schema != 1 {
		return d.Errorf("schema", "%d is not 1, the only version this program reads", s.Schema)
	}
	m, err := bundle.Load(dir)
	if err != nil {
		return err
	}
	artifact, ok := m.Artifact(bundle.RoleKernelConfig)
	var config *kernel.Config
	if ok {
		if config, err = kernel.ReadConfig(filepath.Join(dir, artifact.File)); err != nil {
			return err
		}
	}
	for i, v := range s.Statements {
		at := fmt.Sprintf("statements[%d]", i)
		switch {
		case v.Config != "" && v.Justification+v.Because != "":
			return d.Errorf(at, "it has a config, which is its own reason")
		case v.Config == "" && (v.Because == "" || !slices.Contains(justifications, v.Justification)):
			return d.Errorf(at, "it has neither a config nor a reason with one of the justifications %s", strings.Join(justifications, ", "))
		case v.Config != "" && config == nil:
			return d.Errorf(at+".config", "the bundle has no .config to look into")
		}
		for j := range a.report.Findings {
			f := &a.report.Findings[j]
			if f.Component != v.Component || f.ID != v.Vulnerability && !slices.Contains(f.Aliases, v.Vulnerability) || f.Status == Fixed {
				continue
			}
			if v.Config == "" {
				f.Status, f.Justification, f.Why = NotAffected, v.Justification, v.Because
				continue
			}
			symbol := strings.TrimPrefix(v.Config, "CONFIG_")
			if value := config.Value(symbol); value == "" || value == "n" {
				f.Status, f.Justification = NotAffected, "vulnerable_code_not_present"
				f.Why = "CONFIG_" + symbol + " is not set in the bundle's .config"
			}
		}
	}
	return nil
}

// readFile reads a file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fault.Wrap(fault.Usage, err)
	}
	if info.Size() > limit {
		return nil, fault.Errorf(fault.Usage, "%s of %d bytes is larger than %d", path, info.Size(), limit)
	}
	text, err := os.ReadFile(path)
	return text, fault.Wrap(fault.Environment, err)
}
