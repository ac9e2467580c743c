package apk

import (
	"fmt"
	"strings"
)

// Dependency is one word of a depend, provides, install_if or world line.
type Dependency struct {
	// Name is a package's name or a provided one: "so:libz.so.1",
	// "cmd:sh", "pc:zlib".
	Name string
	// Op is "", "=", "<", "<=", ">", ">=", "~" (the version begins so), "<~",
	// ">~" (less or greater, or beginning so) or "><" (this very package).
	Op string
	// Version is empty exactly when Op is. With "><" it is the checksum of a
	// package's control member, as in an index.
	Version string
	// Tag names the repositories that may serve the package beside those
	// without a tag: "name@edge". Only a world has them.
	Tag string
	// Conflict is the leading "!": what matches must not be installed.
	Conflict bool
}

// maxDependency is the longest dependency read, in bytes; Alpine's longest is
// under 100.
const maxDependency = 1024

// ParseDependency reads apk's notation: NAME, NAME=1.2-r0, NAME>=1, NAME<2,
// NAME~1.2, NAME><Q1…, NAME@TAG, !NAME.
func ParseDependency(s string) (Dependency, error) {
	var d Dependency
	rest := s
	if len(s) > maxDependency {
		return d, fmt.Errorf("dependency %.40q… is longer than %d bytes", s, maxDependency)
	}
	rest, d.Conflict = strings.CutPrefix(rest, "!")
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		rest, d.Tag = rest[:at], rest[at+1:]
		if !validPackageName(d.Tag) || d.Conflict {
			return d, fmt.Errorf("dependency %q: %q is not a repository tag", s, d.Tag)
		}
	}
	i := strings.IndexAny(rest, "=<>~")
	if i < 0 {
		d.Name = rest
	} else {
		d.Name, rest = rest[:i], rest[i:]
		n := 0
		for n < len(rest) && strings.IndexByte("=<>~", rest[n]) >= 0 {
			n++
		}
		d.Op, d.Version = rest[:n], rest[n:]
		switch d.Op {
		case "=", "<", "<=", ">", ">=", "~", "<~", ">~", "><":
		case "=<":
			d.Op = "<="
		case "=>":
			d.Op = ">="
		case "=~", "~=":
			d.Op = "~"
		default:
			return d, fmt.Errorf("dependency %q: operator %q is not one of = < <= > >= ~ <~ >~ ><", s, d.Op)
		}
		if d.Op == "><" {
			if _, err := parseChecksum(d.Version); err != nil {
				return d, fmt.Errorf("dependency %q: %w", s, err)
			}
		} else if !ValidVersion(d.Version) {
			return d, fmt.Errorf("dependency %q: %q is not a version", s, d.Version)
		}
	}
	if !validName(d.Name) {
		return d, fmt.Errorf("dependency %q: %q is not a package name", s, d.Name)
	}
	return d, nil
}

// validName is true for visible ASCII without the characters that mean
// something in a dependency. Names of files (cmd:[, /bin/sh) are provided too.
func validName(name string) bool {
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("=<>~!@", c) >= 0 {
			return false
		}
	}
	return name != ""
}

// String is the dependency in apk's notation.
func (d Dependency) String() string {
	s := d.Name + d.Op + d.Version
	if d.Tag != "" {
		s += "@" + d.Tag
	}
	if d.Conflict {
		return "!" + s
	}
	return s
}

// Matches says whether a name of the given version ("" is a name provided
// without one) is what d speaks of, leaving Conflict and Tag aside. With "><"
// no version is.
func (d Dependency) Matches(version string) bool {
	if d.Op == "" {
		return true
	}
	if version == "" || d.Op == "><" {
		return false
	}
	c := compareVersions(version, d.Version, strings.HasSuffix(d.Op, "~"))
	switch d.Op {
	case "<":
		return c < 0
	case ">":
		return c > 0
	case "<=", "<~":
		return c <= 0
	case ">=", ">~":
		return c >= 0
	default: // "=" and "~"
		return c == 0
	}
}

// parseProvides is parseDependencies for what a package provides. A version
// that is none ("pc:librtmp=v2.4") is kept: Alpine has such packages, and apk
// takes what they provide by name.
func parseProvides(words []string) ([]Dependency, error) {
	out := make([]Dependency, 0, len(words))
	for _, w := range words {
		d, err := ParseDependency(w)
		if err != nil {
			name, version, ok := strings.Cut(w, "=")
			if !ok || !validName(name) || version == "" || len(w) > maxDependency {
				return nil, fmt.Errorf("provides: %w", err)
			}
			d = Dependency{Name: name, Op: "=", Version: version}
		}
		out = append(out, d)
	}
	return out, nil
}

// parseDependencies parses a list and names the field in an error.
func parseDependencies(field string, words []string) ([]Dependency, error) {
	out := make([]Dependency, 0, len(words))
	for _, w := range words {
		d, err := ParseDependency(w)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", field, err)
		}
		out = append(out, d)
	}
	return out, nil
}
