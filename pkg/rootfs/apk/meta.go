package apk

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// NoArch is the architecture of a package that is for all of them.
const NoArch = "noarch"

// Meta is what a package says of itself: the contents of .PKGINFO and of its
// record in an index.
type Meta struct {
	Name        string
	Version     string // "1.3.1-r0"
	Arch        string // "x86_64", "aarch64" or NoArch
	Description string
	License     string // SPDX expression
	URL         string
	Origin      string // the package it was built with

	Depends   []string
	Provides  []string
	Replaces  []string // not in an index
	InstallIf []string

	ProviderPriority int
	ReplacesPriority int    // not in an index
	BuildDate        int64  // Unix seconds
	Size             int64  // of the .apk, bytes; not in .PKGINFO
	InstalledSize    int64  // bytes
	Checksum         string // "Q1" and base64 of the control member's SHA-1

	Maintainer string
	Commit     string
	Triggers   []string // directories, with * and ?; not in an index
	DataHash   string   // SHA-256 of the data member, hex; not in an index
}

// ID is the name and version, "zlib-1.3.1-r0".
func (m Meta) ID() string { return m.Name + "-" + m.Version }

// FileName is the package's file in a repository.
func (m Meta) FileName() string { return m.ID() + ".apk" }

// maxRecord is the longest line of .PKGINFO or an index, in bytes.
const maxRecord = 1 << 20

// check says what is wrong with the fields.
func (m Meta) check() error {
	if err := m.checkFileName(); err != nil {
		return err
	}
	if !ValidVersion(m.Version) {
		return fmt.Errorf("package %s: %q is not a version", m.Name, m.Version)
	}
	for _, f := range [...]struct {
		name  string
		words []string
	}{{"depend", m.Depends}, {"replaces", m.Replaces}, {"install_if", m.InstallIf}} {
		if _, err := parseDependencies(f.name, f.words); err != nil {
			return fmt.Errorf("package %s: %w", m.ID(), err)
		}
	}
	if _, err := parseProvides(m.Provides); err != nil {
		return fmt.Errorf("package %s: %w", m.ID(), err)
	}
	for _, t := range m.Triggers {
		if strings.ContainsAny(t, " \n") {
			return fmt.Errorf("package %s: trigger %q holds a space", m.ID(), t)
		}
	}
	for _, f := range [...]string{m.Description, m.License, m.URL, m.Origin, m.Maintainer, m.Commit} {
		if strings.ContainsAny(f, "\n\x00") {
			return fmt.Errorf("package %s: %q holds a line break", m.ID(), f)
		}
	}
	if m.Size < 0 || m.InstalledSize < 0 {
		return fmt.Errorf("package %s: a size is negative", m.ID())
	}
	return nil
}

// checkFileName says what is wrong with the fields that paths are made of.
func (m Meta) checkFileName() error {
	if !validPackageName(m.Name) {
		return fmt.Errorf("package name %q is not letters, digits and + - . _", m.Name)
	}
	if !validPackageName(strings.ReplaceAll(m.Version, "~", "_")) {
		return fmt.Errorf("package %s: %q is not a version", m.Name, m.Version)
	}
	if !validPackageName(m.Arch) {
		return fmt.Errorf("package %s: architecture %q is not letters, digits and _", m.ID(), m.Arch)
	}
	return nil
}

// validPackageName keeps what becomes a file name free of slashes and the like.
func validPackageName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(digit(c) || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || i > 0 && strings.IndexByte("+-._", c) >= 0 || c == '_' || c == '.' && i > 0) {
			return false
		}
	}
	return s != "" && len(s) <= 200
}

func checksumString(sum []byte) string { return "Q1" + base64.StdEncoding.EncodeToString(sum) }

func parseChecksum(s string) ([]byte, error) {
	b64, ok := strings.CutPrefix(s, "Q1")
	sum, err := base64.StdEncoding.DecodeString(b64)
	if !ok || err != nil || len(sum) != 20 {
		return nil, fmt.Errorf("checksum %q is not Q1 and the base64 of a SHA-1", s)
	}
	return sum, nil
}

// pkginfo is the text of .PKGINFO.
func (m Meta) pkginfo() string {
	var b strings.Builder
	field := func(key, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s = %s\n", key, value)
		}
	}
	field("pkgname", m.Name)
	field("pkgver", m.Version)
	field("pkgdesc", m.Description)
	field("url", m.URL)
	field("builddate", strconv.FormatInt(m.BuildDate, 10))
	field("packager", m.Maintainer)
	field("size", strconv.FormatInt(m.InstalledSize, 10))
	field("arch", m.Arch)
	field("origin", m.Origin)
	field("commit", m.Commit)
	field("maintainer", m.Maintainer)
	if m.ProviderPriority != 0 {
		field("provider_priority", strconv.Itoa(m.ProviderPriority))
	}
	if m.ReplacesPriority != 0 {
		field("replaces_priority", strconv.Itoa(m.ReplacesPriority))
	}
	field("license", m.License)
	for _, f := range [...]struct {
		key   string
		words []string
	}{{"replaces", m.Replaces}, {"depend", m.Depends}, {"provides", m.Provides}} {
		for _, w := range f.words {
			field(f.key, w)
		}
	}
	field("install_if", strings.Join(m.InstallIf, " "))
	field("triggers", strings.Join(m.Triggers, " "))
	field("datahash", m.DataHash)
	return b.String()
}

// parsePkginfo reads .PKGINFO. Keys that this package has no use for are
// passed over, as apk does.
func parsePkginfo(r io.Reader) (Meta, error) {
	var m Meta
	err := eachLine(r, func(n int, line string) error {
		if line == "" || strings.HasPrefix(line, "#") {
			return nil
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return fmt.Errorf(".PKGINFO:%d: %q is not key = value", n, line)
		}
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		var err error
		switch key {
		case "pkgname":
			m.Name = value
		case "pkgver":
			m.Version = value
		case "pkgdesc":
			m.Description = value
		case "url":
			m.URL = value
		case "builddate":
			m.BuildDate, err = strconv.ParseInt(value, 10, 64)
		case "size":
			m.InstalledSize, err = strconv.ParseInt(value, 10, 64)
		case "arch":
			m.Arch = value
		case "origin":
			m.Origin = value
		case "commit":
			m.Commit = value
		case "maintainer":
			m.Maintainer = value
		case "provider_priority":
			m.ProviderPriority, err = strconv.Atoi(value)
		case "replaces_priority":
			m.ReplacesPriority, err = strconv.Atoi(value)
		case "license":
			m.License = value
		case "replaces":
			m.Replaces = append(m.Replaces, strings.Fields(value)...)
		case "depend":
			m.Depends = append(m.Depends, strings.Fields(value)...)
		case "provides":
			m.Provides = append(m.Provides, strings.Fields(value)...)
		case "install_if":
			m.InstallIf = append(m.InstallIf, strings.Fields(value)...)
		case "triggers":
			m.Triggers = append(m.Triggers, strings.Fields(value)...)
		case "datahash":
			m.DataHash = value
		}
		if err != nil {
			return fmt.Errorf(".PKGINFO:%d: %s: %w", n, key, err)
		}
		return nil
	})
	if err != nil {
		return m, err
	}
	return m, m.check()
}

// record is the package's record in APKINDEX or in the installed database, in
// apk's order of fields, ending with a line break.
func (m Meta) record() string {
	var b strings.Builder
	field := func(key, value string) {
		if value != "" {
			b.WriteString(key + ":" + value + "\n")
		}
	}
	field("C", m.Checksum)
	field("P", m.Name)
	field("V", m.Version)
	field("A", m.Arch)
	field("S", strconv.FormatInt(m.Size, 10))
	field("I", strconv.FormatInt(m.InstalledSize, 10))
	b.WriteString("T:" + m.Description + "\nU:" + m.URL + "\nL:" + m.License + "\n")
	field("o", m.Origin)
	field("m", m.Maintainer)
	if m.BuildDate != 0 {
		field("t", strconv.FormatInt(m.BuildDate, 10))
	}
	field("c", m.Commit)
	if m.ProviderPriority != 0 {
		field("k", strconv.Itoa(m.ProviderPriority))
	}
	field("D", strings.Join(m.Depends, " "))
	field("p", strings.Join(m.Provides, " "))
	field("i", strings.Join(m.InstallIf, " "))
	return b.String()
}

// maxPackages is the most packages an index may have; Alpine's edge has about
// 25,000 in one, with 700,000 words of dependencies and provides.
const (
	maxPackages = 200_000
	maxWords    = 4_000_000
)

// parseRecords reads APKINDEX. A version or dependency that cannot be read
// makes its package unusable (Solve says why), not the index.
func parseRecords(r io.Reader) ([]Meta, error) {
	var (
		out   []Meta
		m     Meta
		start int
		words int
	)
	flush := func() error {
		if start == 0 {
			return nil
		}
		if err := m.checkFileName(); err != nil {
			return fmt.Errorf("APKINDEX:%d: %w", start, err)
		}
		if _, err := parseChecksum(m.Checksum); err != nil {
			return fmt.Errorf("APKINDEX:%d: %s: %w", start, m.ID(), err)
		}
		if m.Size < 0 || m.InstalledSize < 0 {
			return fmt.Errorf("APKINDEX:%d: %s: a size is negative", start, m.ID())
		}
		if len(out) == maxPackages {
			return fmt.Errorf("APKINDEX:%d: more than %d packages", start, maxPackages)
		}
		out, m, start = append(out, m), Meta{}, 0
		return nil
	}
	err := eachLine(r, func(n int, line string) error {
		if line == "" {
			return flush()
		}
		key, value, ok := strings.Cut(line, ":")
		if !ok || len(key) != 1 {
			return fmt.Errorf("APKINDEX:%d: %.60q is not a field", n, line)
		}
		if start == 0 {
			start = n
		}
		words -= m.words()
		err := m.setField(key[0], value)
		if err != nil {
			return fmt.Errorf("APKINDEX:%d: %w", n, err)
		}
		if words += m.words(); words > maxWords {
			return fmt.Errorf("APKINDEX:%d: more than %d words of dependencies and provides", n, maxWords)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, flush()
}

// words is how many an index has of the package.
func (m *Meta) words() int { return len(m.Depends) + len(m.Provides) + len(m.InstallIf) }

// setField sets one field of a record; those that this package has no use for
// are passed over.
func (m *Meta) setField(key byte, value string) (err error) {
	switch key {
	case 'C':
		m.Checksum = value
	case 'P':
		m.Name = value
	case 'V':
		m.Version = value
	case 'A':
		m.Arch = value
	case 'S':
		m.Size, err = strconv.ParseInt(value, 10, 64)
	case 'I':
		m.InstalledSize, err = strconv.ParseInt(value, 10, 64)
	case 'T':
		m.Description = value
	case 'U':
		m.URL = value
	case 'L':
		m.License = value
	case 'o':
		m.Origin = value
	case 'm':
		m.Maintainer = value
	case 't':
		m.BuildDate, err = strconv.ParseInt(value, 10, 64)
	case 'c':
		m.Commit = value
	case 'k':
		m.ProviderPriority, err = strconv.Atoi(value)
	case 'D':
		m.Depends = append(m.Depends, strings.Fields(value)...)
	case 'p':
		m.Provides = append(m.Provides, strings.Fields(value)...)
	case 'i':
		m.InstallIf = append(m.InstallIf, strings.Fields(value)...)
	}
	return err
}

func eachLine(r io.Reader, do func(n int, line string) error) error {
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxRecord)
	n := 0
	for s.Scan() {
		n++
		if err := do(n, s.Text()); err != nil {
			return err
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("line %d: %w", n+1, err)
	}
	return nil
}
