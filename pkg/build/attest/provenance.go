package attest

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/internal/strictjson"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Types by which other programs know what a statement is about.
const (
	StatementType = "https://in-toto.io/Statement/v1"
	PredicateType = "https://slsa.dev/provenance/v1"
	project       = "https://github.com/sovereign-build/sovereign"
	// BuildType is what the parameters below mean.
	BuildType = project + "/blob/main/docs/releases.md#build-type-v1"
	// BuilderID is whoever runs sovereign-build: that it was not lied to is what
	// a rebuild shows, and no name.
	BuilderID = project + "/cmd/sovereign-build"
)

// Provenance is an in-toto statement about one bundle.
type Provenance struct {
	Type          string    `json:"_type"`
	Subject       []Subject `json:"subject"` // sorted by name
	PredicateType string    `json:"predicateType"`
	Predicate     Predicate `json:"predicate"`
}

// Subject is a file of the bundle.
type Subject struct {
	Name   string `json:"name"`
	Digest Digest `json:"digest"`
}

// Digest is a set of digests, with one in it.
type Digest struct {
	SHA256 string `json:"sha256"` // 64 hex digits
}

// Predicate is SLSA's.
type Predicate struct {
	BuildDefinition BuildDefinition `json:"buildDefinition"`
	RunDetails      RunDetails      `json:"runDetails"`
}

// BuildDefinition is all that went in.
type BuildDefinition struct {
	BuildType            string     `json:"buildType"`
	ExternalParameters   External   `json:"externalParameters"`
	InternalParameters   Internal   `json:"internalParameters"`
	ResolvedDependencies []Material `json:"resolvedDependencies"`
}

// External is what the caller asked for.
type External struct {
	Recipe string `json:"recipe"` // its name
	Arch   string `json:"arch"`
	// SourceDate is the time stamp of what was made, in seconds since 1970.
	SourceDate int64 `json:"source_date"`
}

// Internal is what the recipe and its lock say of how it is made.
type Internal struct {
	Kernel Kernel    `json:"kernel"`
	Ports  []Port    `json:"ports"` // sorted by name
	Lock   lock.Lock `json:"lock"`
}

// Kernel is the recipe's part about the kernel.
type Kernel struct {
	Source string `json:"source"` // a name in the lock
	// Patches and Fragments are in the order in which they are applied.
	Patches   []InputFile `json:"patches"`
	Fragments []InputFile `json:"fragments"`
}

// InputFile is a file beside a recipe.
type InputFile struct {
	Name   string       `json:"name"` // as the recipe names it
	Digest store.Digest `json:"digest"`
}

// Port is a package, or a family of them, that was made from source.
type Port struct {
	Name     string   `json:"name"`
	Version  string   `json:"version"` // with the release: "1.3.1-r0"
	License  string   `json:"license"` // SPDX expression
	URL      string   `json:"url"`
	Sources  []string `json:"sources"`  // names in the lock
	Packages []string `json:"packages"` // sorted
	// Go says that the Go toolchain of the lock made it.
	Go bool `json:"go"`
}

// Material is something that was built from.
type Material struct {
	Name   string `json:"name"`
	URI    string `json:"uri"`
	Digest Digest `json:"digest"`
}

// RunDetails says who built.
type RunDetails struct {
	Builder Builder `json:"builder"`
}

// Builder is who built.
type Builder struct {
	ID string `json:"id"`
}

// NewProvenance is that of a bundle, whose manifest has this text.
func NewProvenance(m *bundle.Manifest, manifest []byte, in Internal) *Provenance {
	p := &Provenance{Type: StatementType, PredicateType: PredicateType, Subject: subjects(m, manifest)}
	p.Predicate.BuildDefinition = BuildDefinition{
		BuildType:            BuildType,
		ExternalParameters:   External{Recipe: m.Name, Arch: m.Arch, SourceDate: m.SourceDate},
		InternalParameters:   in,
		ResolvedDependencies: materials(in),
	}
	p.Predicate.RunDetails.Builder.ID = BuilderID
	return p
}

func subjects(m *bundle.Manifest, manifest []byte) []Subject {
	sum := sha256.Sum256(manifest)
	all := []Subject{{bundle.ManifestFile, Digest{hex.EncodeToString(sum[:])}}}
	for _, a := range m.Artifacts {
		all = append(all, Subject{a.File, hexOf(store.Digest(a.Digest))})
	}
	slices.SortFunc(all, func(a, b Subject) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

func hexOf(d store.Digest) Digest { return Digest{strings.TrimPrefix(string(d), "sha256:")} }

// materials are all pins of the lock, and the files of the recipe that the
// kernel is made with.
func materials(in Internal) []Material {
	var all []Material
	l := in.Lock
	for _, s := range l.Sources {
		all = append(all, Material{s.Name + " " + s.Version, SourceURI(s), hexOf(s.Digest)})
	}
	for _, p := range l.Toolchain.Packages {
		all = append(all, Material{p.Name + " " + p.Version + " " + p.Arch, DebianPURL(p.Name, p.Version, p.Arch), hexOf(p.Digest)})
	}
	for _, m := range l.Go.Modules {
		all = append(all, Material{m.Name + "@" + m.Version, "pkg:golang/" + m.Name + "@" + m.Version, hexOf(m.Digest)})
	}
	for _, p := range l.Packages {
		all = append(all, Material{p.File(), strings.TrimSuffix(p.Repository, "/") + "/" + p.File(), hexOf(p.Digest)})
	}
	for kind, files := range map[string][]InputFile{"patch": in.Kernel.Patches, "fragment": in.Kernel.Fragments} {
		for _, f := range files {
			all = append(all, Material{"kernel " + kind + " " + f.Name, project + "/recipes/kernel/" + f.Name, hexOf(f.Digest)})
		}
	}
	slices.SortFunc(all, func(a, b Material) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.URI, b.URI), cmp.Compare(a.Digest.SHA256, b.Digest.SHA256))
	})
	return all
}

// SourceURI is where a source can be had: upstream's own address where the lock
// has one, or else the package of Debian's that holds the bytes.
func SourceURI(s lock.Source) string {
	for _, m := range s.Mirrors {
		if strings.HasPrefix(m, "https://") || strings.HasPrefix(m, "http://") {
			return m
		}
	}
	for _, m := range s.Mirrors {
		if _, pkg, ok := strings.Cut(strings.TrimPrefix(m, "debian:"), "/"); ok {
			name, version, _ := strings.Cut(pkg, "=")
			return DebianPURL(name, version, "source")
		}
	}
	return "urn:sha256:" + hexOf(s.Digest).SHA256
}

// DebianPURL is the package URL of a package of Debian's.
func DebianPURL(name, version, arch string) string {
	return "pkg:deb/debian/" + name + "@" + escape(version) + "?arch=" + arch
}

// escape is the percent encoding of package URLs, which leave colons alone.
func escape(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-._~:", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// Marshal is the provenance's one and only text.
func (p *Provenance) Marshal() ([]byte, error) {
	out := *p
	in := &out.Predicate.BuildDefinition.InternalParameters
	in.Kernel.Patches, in.Kernel.Fragments, in.Ports = list(in.Kernel.Patches), list(in.Kernel.Fragments), list(in.Ports)
	in.Ports = slices.Clone(in.Ports)
	for i := range in.Ports {
		in.Ports[i].Sources, in.Ports[i].Packages = list(in.Ports[i].Sources), list(in.Ports[i].Packages)
	}
	l := in.Lock.Clone()
	l.Sources, l.Toolchain.Packages, l.Go.Modules = list(l.Sources), list(l.Toolchain.Packages), list(l.Go.Modules)
	for i := range l.Sources {
		l.Sources[i].Mirrors = list(l.Sources[i].Mirrors)
	}
	in.Lock = *l
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(&out); err != nil {
		return nil, fault.Errorf(fault.Internal, "provenance: %w", err)
	}
	return b.Bytes(), nil
}

func list[E any](s []E) []E {
	if s == nil {
		return []E{}
	}
	return s
}

// MaxProvenance bounds a provenance, in bytes; that of recipes/sql is 130 KiB.
const MaxProvenance = 16 << 20

// ParseProvenance reads the provenance of a bundle, and checks that it is about
// that bundle, and names all of the lock. Errors are of class
// fault.Verification.
func ParseProvenance(file string, text []byte, m *bundle.Manifest, manifest []byte) (*Provenance, error) {
	p, err := parse(file, text, m, manifest)
	if err != nil {
		return nil, fault.Errorf(fault.Verification, "%w", err).Hintf("fetch the bundle again with what describes it, or build it again")
	}
	return p, nil
}

func parse(file string, text []byte, m *bundle.Manifest, manifest []byte) (*Provenance, error) {
	if len(text) > MaxProvenance {
		return nil, fmt.Errorf("%s: %d bytes are more than %d", file, len(text), MaxProvenance)
	}
	p := new(Provenance)
	if _, err := strictjson.Decode(strictjson.File{Name: file, Data: text, What: "provenance"}, p); err != nil {
		return nil, err
	}
	fail := func(format string, args ...any) (*Provenance, error) {
		return nil, fmt.Errorf(file+": "+format, args...)
	}
	d := p.Predicate.BuildDefinition
	switch {
	case p.Type != StatementType || p.PredicateType != PredicateType:
		return fail("it is a %s of %s, not a provenance of SLSA", p.Type, p.PredicateType)
	case d.BuildType != BuildType || p.Predicate.RunDetails.Builder.ID != BuilderID:
		return fail("it is of the build type %s by %s, which this program does not know", d.BuildType, p.Predicate.RunDetails.Builder.ID)
	case d.ExternalParameters != External{m.Name, m.Arch, m.SourceDate}:
		return fail("it is of %s for %s, and the bundle is %s for %s", d.ExternalParameters.Recipe, d.ExternalParameters.Arch, m.Name, m.Arch)
	}
	want := subjects(m, manifest)
	for i, s := range p.Subject {
		if i >= len(want) || s != want[i] {
			return fail("it is about %s of sha256:%s, which is no file of this bundle", s.Name, s.Digest.SHA256)
		}
	}
	if len(p.Subject) < len(want) {
		return fail("it does not name %s", want[len(p.Subject)].Name)
	}
	locked, err := d.InternalParameters.Lock.Digest()
	if err != nil {
		return fail("lock: %w", err)
	}
	if locked.String() != m.Lock.Digest {
		return fail("its lock is %s, and the bundle was made from %s", locked, m.Lock.Digest)
	}
	have := materials(d.InternalParameters)
	for i, material := range d.ResolvedDependencies {
		if i >= len(have) || material != have[i] {
			return fail("the material %q is not what the lock and the recipe say", material.Name)
		}
	}
	if len(have) > len(d.ResolvedDependencies) {
		return fail("the material %q is missing", have[len(d.ResolvedDependencies)].Name)
	}
	again, err := p.Marshal()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, text) {
		return fail("it is not written as this program writes it")
	}
	return p, nil
}

// ReadProvenance reads that of the bundle in dir. One without it is an error of
// class fault.Usage.
func ReadProvenance(dir string) (*Provenance, error) {
	offer, m, err := bundle.Offer(dir)
	if err != nil {
		return nil, err
	}
	text, err := read(dir, bundle.ProvenanceFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fault.Errorf(fault.Usage, "%s has no %s, which says what the bundle was made of", dir, bundle.ProvenanceFile).
			Hintf("build it again with this version of the program, or fetch it from where that is kept with it")
	}
	if err != nil {
		return nil, err
	}
	return ParseProvenance(filepath.Join(dir, bundle.ProvenanceFile), text, m, offer.Manifest)
}

// read reads a file that describes a bundle.
func read(dir, name string) ([]byte, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, bundle.MaxDescription+1))
	if err == nil && len(text) > bundle.MaxDescription {
		return nil, fault.Errorf(fault.Verification, "%s is larger than %d bytes", f.Name(), bundle.MaxDescription)
	}
	return text, fault.Wrap(fault.Environment, err)
}
